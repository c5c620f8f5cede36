#!/usr/bin/env bash
# Everything that awaits a GPU, on a machine that may have no network: builds lasfast with CUDA, runs the tests
# that need a GPU, and measures. Takes less than nine minutes whatever happens: a step that fails or takes too
# long is named at the end, and the others run all the same as long as there is time. What steps have measured
# when they are stopped is kept.
#
# All that it leaves is one archive, which is written after each step and on exit, however that comes about. It
# holds records, logs and choices, and what was said here (summary.txt).
#
#   benchmarks/gpu.sh [archive, by default benchmarks/results/gpu.tar.gz]     PYTHON=python3.12 benchmarks/gpu.sh
set -uo pipefail
set -m # so that steps listen to interrupts although they run in the background
archive=$(realpath -m "${1:-$(dirname "${BASH_SOURCE[0]}")/results/gpu.tar.gz}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "$(dirname "$archive")"
work=$(mktemp -d)
records=$work/gpu
mkdir "$records"
python=${PYTHON:-python3}
started=$SECONDS
seconds=${SECONDS_IN_ALL:-520}
failed=()
running=

say() { echo "$@" | tee -a "$records/summary.txt"; }

pack() { tar -C "$work" -czf "$archive.part" gpu && mv "$archive.part" "$archive"; }

finish() {
  trap - EXIT
  trap '' INT TERM HUP
  if [ -n "$running" ]; then
    kill -KILL -- "-$running" 2>/dev/null
    say "$name: CUT, the whole run was stopped after $((SECONDS - started)) s"
  fi
  pack && echo "archive: $archive"
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Runs a step for at most so many seconds, and no longer than there is time: step NAME SECONDS COMMAND...
# Returns whether it succeeded.
step() {
  local limit=$2 before=$SECONDS left=$((seconds - SECONDS + started)) status
  name=$1
  shift 2
  if [ "$left" -lt 5 ]; then
    failed+=("$name")
    say "$name: SKIPPED, no time left"
    return 1
  fi
  # Interrupted, so that what was measured is written.
  timeout --signal=INT --kill-after=5 "$((limit < left ? limit : left))" "$@" >"$records/$name.log" 2>&1 &
  running=$!
  wait "$running"
  status=$?
  running=
  if [ $status -eq 0 ]; then
    say "$name: done in $((SECONDS - before)) s"
  else
    failed+=("$name")
    say "$name: FAILED with status $status after $((SECONDS - before)) s; $name.log ends with"
    say "$(tail -n 15 "$records/$name.log" | sed 's/^/    /')"
  fi
  pack
  return $status
}

say "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || echo "no nvidia-smi here")"
# Code for this GPU alone, which takes a minute less.
step arch 60 "$python" -c 'import torch
from lasfast.runtime.compiled import arch_for
print(arch_for(torch.cuda.get_device_capability()))' || exit 1
arch=$(tail -n 1 "$records/arch.log")

step build 150 env LASFAST_CUDA=ON LASFAST_CUDA_ARCHS="$arch" \
  "$python" -m pip install --no-build-isolation --no-deps --force-reinstall .
# From here on, the installed package and not the checkout: tests and benchmarks are taken along.
mkdir "$work/run"
cp -R tests benchmarks pyproject.toml "$work/run" && cd "$work/run" || exit 1
export LASFAST_CACHE="$records/choices" # which of several ways was faster here belongs to the records

if ! step check 60 "$python" -m lasfast check --device cuda; then
  # Else PyTorch's operators would be measured under our name, and a check that was cut be made again within
  # the limit of another step.
  export LASFAST_CHOICE=native
  say "!!! THE CHECK OF THE KERNELS FAILED OR WAS CUT. All that follows is measured with LASFAST_CHOICE=native:"
  say "!!! our kernels, right or wrong, in their usual tiles. Each record says so (machine.kernels)."
fi
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

say
say "$(grep -hs " of peak\|steps/s" "$records"/evaluate-*.log "$records"/train-*.log)"
"$python" -m benchmarks.report_gpu "$records" >"$records/report.md" 2>&1 || failed+=(report)
cat "$records/report.md"
say "$(grep -hs "passed\|failed\|skipped" "$records/tests.log" | tail -n 1)"
say "$((SECONDS - started)) s in all"
if [ ${#failed[@]} -gt 0 ]; then
  say "FAILED: ${failed[*]}"
  exit 1
fi
