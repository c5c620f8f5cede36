#!/usr/bin/env bash
# Everything that awaits a GPU, on a machine that may have no network: builds lasfast with CUDA, runs the tests
# that need a GPU, and measures. Takes less than nine minutes whatever happens: a step that fails or takes too
# long is named at the end, and the others run all the same as long as there is time. What steps have measured
# when they are stopped is kept.
#
#   benchmarks/gpu.sh [directory for records and logs]     PYTHON=python3.12 benchmarks/gpu.sh
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
records=$(mkdir -p "${1:-benchmarks/results/gpu}" && cd "${1:-benchmarks/results/gpu}" && pwd)
python=${PYTHON:-python3}
started=$SECONDS
seconds=${SECONDS_IN_ALL:-520}
failed=()

# Runs a step for at most so many seconds, and no longer than there is time: step NAME SECONDS COMMAND...
step() {
  local name=$1 limit=$2 before=$SECONDS left=$((seconds - SECONDS + started))
  shift 2
  if [ "$left" -lt 5 ]; then
    failed+=("$name")
    echo "$name: SKIPPED, no time left"
    return
  fi
  # Interrupted, so that what was measured is written.
  timeout --signal=INT --kill-after=5 "$((limit < left ? limit : left))" "$@" >"$records/$name.log" 2>&1
  local status=$?
  if [ $status -eq 0 ]; then
    echo "$name: done in $((SECONDS - before)) s"
  else
    failed+=("$name")
    echo "$name: FAILED with status $status after $((SECONDS - before)) s; $records/$name.log ends with"
    tail -n 15 "$records/$name.log" | sed 's/^/    /'
  fi
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || echo "no nvidia-smi here"
# Code for this GPU alone, which takes a minute less.
arch=$("$python" -c 'import torch; major, minor = torch.cuda.get_device_capability(); print(f"{major}{minor}")')
case "$arch" in 90) arch=90a ;; esac

step build 150 env LASFAST_CUDA=ON LASFAST_CUDA_ARCHS="$arch" \
  "$python" -m pip install --no-build-isolation --no-deps --force-reinstall .
# From here on, the installed package and not the checkout: tests and benchmarks are taken along.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -R tests benchmarks pyproject.toml "$work" && cd "$work" || exit 1
export LASFAST_CACHE="$records/choices"  # which of several ways was faster here belongs to the records

step check 60 "$python" -m lasfast check --device cuda
step tests 90 "$python" -m pytest -m cuda -p no:cacheprovider \
  tests/engine/test_cuda_executor.py tests/engine/test_conv_tiles.py tests/ops tests/nn tests/train tests/data tests/runtime/test_autotune.py
# Compiling takes PyTorch most of a minute: for one workload's candidates, the last.
step evaluate-bf16 100 "$python" -m benchmarks.bench_evaluate --device cuda --precision bf16 \
  nir-residual assignments-15 spos-channels layernas-frontier nir-plain --compiled nir-plain \
  --output "$records/evaluate-bf16.json"
step train-bf16 60 "$python" -m benchmarks.bench_train --device cuda --precision bf16 --steps 8 \
  nir-residual nir-plain nir-mobilenet-v1 --without compiled --output "$records/train-bf16.json"
step evaluate-fp32 60 "$python" -m benchmarks.bench_evaluate --device cuda --precision fp32 --compiled \
  --output "$records/evaluate-fp32.json"
for operation in limits tiles conv depthwise batch_norm conv_train depthwise_train bn_act sgd; do
  step "$operation" 30 "$python" -m pytest "benchmarks/bench_$operation.py" -p no:cacheprovider \
    --device cuda --benchmark-json="$records/$operation-raw.json" --benchmark-columns=median \
    --benchmark-group-by=group
  if [ -s "$records/$operation-raw.json" ]; then
    step "$operation-record" 10 "$python" -m benchmarks.record_operations "$records/$operation-raw.json" \
      "$records/$operation.json"
    rm -f "$records/$operation-raw.json"
  fi
done

echo
grep -hs " of peak\|steps/s" "$records"/evaluate-*.log "$records"/train-*.log
"$python" -m benchmarks.report_gpu "$records" || failed+=(report)
grep -hs "passed\|failed\|skipped" "$records/tests.log" | tail -n 1
echo "records: $records; $((SECONDS - started)) s in all"
if [ ${#failed[@]} -gt 0 ]; then
  echo "FAILED: ${failed[*]}"
  exit 1
fi
