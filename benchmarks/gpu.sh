#!/usr/bin/env bash
set -uo pipefail
set -m # so that steps listen to interrupts although they run in the background

usage() {
  cat <<'END'
Everything that awaits a GPU, on a machine that may have no network: builds lasfast for this GPU alone, checks
its kernels, runs the tests that need a GPU, and measures, what tells most first.

  benchmarks/gpu.sh [ARCHIVE]                    in 570 s; ARCHIVE is benchmarks/results/gpu.tar.gz by default
  benchmarks/gpu.sh --again ARCHIVE              in 300 s more, what was not done, and what tells less
  benchmarks/gpu.sh --dry-run [--again] ARCHIVE  every step on the CPU, on tiny sizes, for the tests

  PYTHON=python3.12 benchmarks/gpu.sh            by a Python that has torch, cmake, ninja, pybind11 and pytest
  SECONDS_IN_ALL=200 benchmarks/gpu.sh           in less time

A step is a process group of its own with a limit, and a hang costs that step alone; a step that measures may
take the time, too, that those before it have left. What steps have measured when they are stopped is kept.
The exit status is 1 where a step failed, was cut, or was skipped for want of time.

All that is left is ARCHIVE, which is written after each step and on exit, however that comes about: records,
logs, profiles, measured choices, the build, and what was said here (summary.txt). `--again` adds to the
archive of an earlier call: it takes the build from there where the sources are the same, else it builds and
checks anew; it runs what failed, was cut or skipped; then it measures baselines of torch.compile, fp32, and
other operations.

For figures in docs/performance.md: tar -C benchmarks/results -xzf ARCHIVE; python -m benchmarks.report
END
}

again='' dry='' target=''
for argument in "$@"; do
  case $argument in
  --again) again=1 ;;
  --dry-run) dry=1 ;;
  -h | --help) usage && exit ;;
  -*) echo "gpu.sh: there is no option $argument; --help has all" >&2 && exit 2 ;;
  *) target=$argument ;;
  esac
done
archive=$(realpath -m "${target:-$(dirname "${BASH_SOURCE[0]}")/results/gpu.tar.gz}")
if [ -n "$again" ] && ! tar -tzf "$archive" gpu/summary.txt >/dev/null 2>&1; then
  echo "gpu.sh: --again needs the archive of an earlier call, got $archive" >&2
  exit 2
fi
python=$(command -v "${PYTHON:-python3}") || { echo "gpu.sh: there is no ${PYTHON:-python3}" >&2 && exit 2; }
cd "$(dirname "${BASH_SOURCE[0]}")/.."
checkout=$PWD
mkdir -p "$(dirname "$archive")"
work=$(mktemp -d)
records=$work/gpu
mkdir "$records"
started=$SECONDS
seconds=${SECONDS_IN_ALL:-$([ -n "$again" ] && echo 300 || echo 570)}
planned=0 # the limits of the steps so far
failed=()
running=
server= # of a dry run

# ---- steps

say() { echo "$@" | tee -a "$records/summary.txt"; }

# (Quickly rather than small, since this is done after each step.)
pack() { tar -C "$work" -c gpu | gzip -1 >"$archive.part" && mv "$archive.part" "$archive"; }

finish() {
  trap - EXIT
  trap '' INT TERM HUP
  if [ -n "$server" ]; then kill "$server" && wait "$server" 2>/dev/null; fi
  if [ -n "$running" ]; then
    kill -KILL -- "-$running" 2>/dev/null
    say "$name: CUT, the whole run was stopped after $((SECONDS - started)) s"
  fi
  pack && echo "archive: $archive"
  rm -rf "$work"
}

# Runs a step for so many seconds: step NAME SECONDS COMMAND... Returns whether it succeeded.
step() { run "$2" "$@"; }

# The same, with the time that steps before it have left.
measure() {
  local spare=$((planned - SECONDS + started))
  run $(($2 + (spare > 0 ? spare : 0))) "$@"
}

# run ALLOWED NAME SECONDS COMMAND... takes no longer than there is time. A step that an earlier call has done
# is left out, unless `always` is set. Where the log has what `excuse` matches, it could not be run here.
run() {
  local allowed=$(($1 * patience)) limit=$3 before=$SECONDS left=$((seconds - SECONDS + started)) status took
  name=$2
  shift 3
  if [ -z "${always:-}" ] && was_done "$name"; then return; fi
  planned=$((planned + limit))
  if [ "$left" -lt 5 ]; then
    failed+=("$name")
    say "$name: SKIPPED, no time left"
    return 1
  fi
  # Interrupted, so that what was measured is written.
  timeout --signal=INT --kill-after=5 "$((allowed < left ? allowed : left))" "$@" >"$records/$name.log" 2>&1 &
  running=$!
  wait "$running"
  status=$?
  kill -KILL -- "-$running" 2>/dev/null # what it has left behind
  running=
  took="$((SECONDS - before)) s of $limit"
  if [ -n "${excuse:-}" ] && grep -q "$excuse" "$records/$name.log"; then
    say "$name: SKIPPED, $(grep -m 1 "$excuse" "$records/$name.log")"
    status=1
  elif [ $status -eq 0 ] && grep "CUDA graph could not be recorded\|No kernels were profiled" \
    "$records/$name.log" >"$work/why"; then
    failed+=("$name")
    say "$name: FAILED after $took, since $(head -n 1 "$work/why")"
    status=1
  elif [ $status -eq 0 ]; then
    say "$name: done in $took"
  else
    failed+=("$name")
    case $status in 124 | 137) say "$name: CUT at its limit after $took; $name.log ends with" ;;
    *) say "$name: FAILED with status $status after $took; $name.log ends with" ;; esac
    say "$(tail -n 15 "$records/$name.log" | sed 's/^/    /')"
  fi
  pack
  return $status
}

# Whether an earlier call has done a step: its last line in the summary says so.
was_done() {
  [ -n "$again" ] && grep "^$1: [A-Zd]" "$records/summary.txt" | tail -n 1 | grep -q "^$1: done"
}

# Whether there is the tool of a step: has TOOL NAME
has() {
  if was_done "$2" || command -v "$1" >/dev/null; then return; fi
  say "$2: SKIPPED, there is no $1 here"
  return 1
}

# Watches each kernel: watch TOOL SECONDS [OPTION...] -- [GROUP OF KERNELS...]
watch() {
  local tool=$1 limit=$2 options=()
  shift 2
  while [ "$1" != -- ]; do options+=("$1") && shift; done
  has compute-sanitizer "$tool" && excuse="Device not supported" step "$tool" "$limit" \
    compute-sanitizer --tool "$tool" --kernel-name kns=lasfast --error-exitcode 9 --print-limit 10 \
    "${options[@]}" "${module[@]}" benchmarks.launch_kernels --device "$device" "${@:2}"
}

# Profiles single launches: profile NAME SECONDS KERNEL...
profile() {
  local name=$1 limit=$2
  shift 2
  has ncu "$name" && excuse="ERR_NVGPUCTRPERM\|LibraryNotLoaded" measure "$name" "$limit" \
    ncu --clock-control none --profile-from-start off --section SpeedOfLight --section Occupancy \
    --section WarpStateStats --kernel-name "regex:^(conv|warpgroup_conv|resident|grad_weight|reduce)$" \
    "${module[@]}" benchmarks.profile_kernels --device "$device" "$@"
}

# Runs benchmarks of single operations: operations NAME SECONDS ARGUMENT...
operations() {
  local name=$1 limit=$2
  shift 2
  measure "$name" "$limit" "${module[@]}" pytest -p no:cacheprovider --device "$device" \
    --benchmark-json="$work/whole.json" --record "$records/$name.json" --benchmark-columns=median \
    --benchmark-group-by=group "$@"
}

# Measures calibration and prediction: evaluation NAME SECONDS PRECISION ARGUMENT...
evaluation() {
  local name=$1 limit=$2 precision=$3
  shift 3
  was_done "$name" || rm -f "$records/$name.json" # to which this would add
  measure "$name" "$limit" "${module[@]}" benchmarks.bench_evaluate --device "$device" \
    --precision "$precision" --rounds "$rounds" --output "$records/$name.json" "$@"
}

# Measures training: training NAME SECONDS PRECISION ARGUMENT...
training() {
  local name=$1 limit=$2 precision=$3
  shift 3
  was_done "$name" || rm -f "$records/$name.json"
  measure "$name" "$limit" "${module[@]}" benchmarks.bench_train --device "$device" --precision "$precision" \
    --rounds "$((rounds + 1))" --steps "$steps" --output "$records/$name.json" "$@"
}

# What a build is made of, as one line.
sources() {
  (cd "$checkout" && find csrc CMakeLists.txt -type f -print0 | sort -z | xargs -0 cat
    echo "$arch $("$python" -VV) $(nvcc --version)") 2>&1 | sha256sum
}

# ---- the machine

module=("$python" -m) # runs a module
device=cuda rounds=2 steps=8 workers=6 smallest=() one_group=() some_shapes=() patience=1
if [ -n "$dry" ]; then
  module=("$python" -m benchmarks.dry_run)
  device=cpu rounds=1 steps=1 workers=1 smallest=(--only "(3, 16, 16)") one_group=(sgd)
  some_shapes=(--only "256 at 8x8" --only "256 at 16x16" --only demo)
  patience=20 seconds=$((20 * seconds)) # a machine that runs tests may be busy
  mkdir "$work/tools"
  for tool in nvidia-smi ncu compute-sanitizer; do # each runs the command that follows its options
    printf '#!/bin/sh\nwhile [ $# -gt 0 ] && [ "$1" != "%s" ]; do shift; done\n"$@"\n' "$python" \
      >"$work/tools/$tool"
    chmod +x "$work/tools/$tool"
  done
  PATH=$work/tools:$PATH
fi
if [ -n "$again" ]; then
  tar -C "$work" -xzf "$archive"
fi
trap finish EXIT # from here on, since before there is nothing to write
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

say "---- $(date -u +%FT%TZ) gpu.sh $*"
query=(--query-gpu=name,driver_version,memory.total --format=csv,noheader)
say "$(nvidia-smi "${query[@]}" || echo "no nvidia-smi here")"

# ---- the build, in a copy of what is needed: nothing is installed, and the checkout stays as it is

mkdir "$work/run"
cp -R lasfast tests benchmarks pyproject.toml "$work/run" && cd "$work/run" || exit 1
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export LASFAST_CACHE=$records/choices # which of several ways was faster here belongs to the records
if [ -n "$dry" ]; then
  OMP_NUM_THREADS=1 "${module[@]}" --serve "$work/server" >"$records/server.log" 2>&1 &
  server=$!
  while [ ! -e "$work/server" ]; do
    kill -0 "$server" 2>/dev/null || { cat "$records/server.log" && exit 1; }
    sleep 0.1
  done
  module=("$python" -S "$PWD/benchmarks/dry_client.py" "$work/server")
fi
# (The build, and what it needs to know, may take longer than planned, since all else depends on it.)
always=1 run 60 arch 10 "${module[@]}" benchmarks.describe_gpu || exit 1
arch=$(tail -n 1 "$records/arch.log")
rebuilt=
if [ -n "$dry" ]; then
  always=1 step build 80 "$python" -c "import lasfast._C, lasfast._emulated"
elif was_done build && [ "$(sources)" = "$(cat "$records/build/sources" 2>/dev/null)" ]; then
  rm -f lasfast/*.so && cp "$records"/build/*.so lasfast
else
  rebuilt=1
  rm -rf lasfast/*.so "$records/build"
  always=1 run 200 build 80 bash -c '
    cmake -S "$1" -B "$2" $(command -v ninja >/dev/null && echo -G Ninja) -DLASFAST_CUDA=ON \
      -DLASFAST_CUDA_ARCHS="$3" -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$PWD/lasfast" -DPython_EXECUTABLE="$0" \
      -Dpybind11_DIR="$("$0" -m pybind11 --cmakedir)" && cmake --build "$2" --parallel' \
    "$python" "$checkout" "$work/build" "$arch" || exit 1
  mkdir "$records/build" && cp lasfast/*.so "$records/build" && sources >"$records/build/sources"
fi

# ---- are the kernels right?

excuse="there are no warpgroups" always=$rebuilt step smoke 20 \
  "${module[@]}" benchmarks.smoke --device "$device" --output "$records/smoke.json"
excuse="there are no" always=$rebuilt step smoke-maps 10 \
  "${module[@]}" benchmarks.smoke --device "$device" --tensor-maps --output "$records/smoke-maps.json"
if ! always=$rebuilt step check 120 "${module[@]}" lasfast check --device "$device"; then
  # Else PyTorch's operators would be measured under our name, and a check that was cut be made again within
  # the limit of another step.
  export LASFAST_CHOICE=native
  say "!!! THE CHECK OF THE KERNELS FAILED OR WAS CUT. All that follows is measured with"
  say "!!! LASFAST_CHOICE=native: our kernels, right or wrong, in their usual tiles. Records say so."
fi
watch memcheck 20 --report-api-errors no --
watch racecheck 25 -- "${one_group[@]}"
watch synccheck 10 -- "${one_group[@]}"
at_once=()
"$python" -c "import xdist" 2>/dev/null && at_once=(-n "$workers")
# (tests/selfcheck and tests/cli would make the whole check again.)
mapfile -t files < <(grep -rl "mark\.cuda" tests --include="test_*.py" |
  grep -v "^tests/selfcheck/\|^tests/cli/")
[ -n "$dry" ] && files=("${files[0]}") # the test-suite runs them all
# (Several tests at once would measure wrongly which ways are faster: they have a copy of what is remembered.)
cp -R "$LASFAST_CACHE" "$work/remembered" 2>/dev/null
measure tests 50 env OMP_NUM_THREADS=1 LASFAST_CACHE="$work/remembered" "${module[@]}" pytest \
  -m cuda -p no:benchmark -p no:cacheprovider "${at_once[@]}" "${files[@]}"

# ---- how fast are they?

operations limits 10 benchmarks/bench_limits.py -k "bf16 or copy"
operations tiles 35 benchmarks/bench_tiles.py -k bf16 "${smallest[@]}"
profile profile-tiles 25 "conv 128x16" "conv 128x64" "conv 128x128" "conv 128x128 by warpgroups" \
  "conv 256x128 by warpgroups"
profile profile-others 25 resident statistics grad_weight reduce
# (Compiling takes PyTorch most of a minute for each workload.)
evaluation evaluate-bf16 60 bf16 nir-residual nir-plain --ways levels resident --compiled
training train-bf16 40 bf16 nir-residual --without compiled
operations conv_train 30 benchmarks/bench_conv_train.py -k bf16 --only "3x3, 64 at 32x32-" \
  --only "3x3, 128 at 16x16-" --only "3x3, 256 at 8x8-"

if [ -n "$again" ]; then
  # (What nobody asks for yet, since it never ran: checked and measured apart from all else.)
  if was_done smoke-maps; then
    export LASFAST_TENSOR_MAPS=1
    step check-maps 60 "${module[@]}" lasfast check --device "$device" &&
      evaluation evaluate-bf16-maps 40 bf16 nir-residual nir-plain --ways levels "levels by tensor maps" --compiled
    unset LASFAST_TENSOR_MAPS
  fi
  evaluation evaluate-bf16-compiled 90 bf16 nir-plain --compiled nir-plain
  evaluation evaluate-fp32 40 fp32 nir-residual nir-plain --compiled
  training train-fp32 30 fp32 nir-residual --without compiled
  operations operations 60 benchmarks/bench_{conv,depthwise,batch_norm,bn_act,depthwise_train,sgd}.py \
    -k "bf16 or sgd" "${some_shapes[@]}"
  evaluation evaluate-bf16-more 60 bf16 assignments-15 spos-channels layernas-frontier --compiled
  training train-bf16-compiled 90 bf16 nir-residual
fi

say
say "$(grep -hs "WRONG\| of peak\|steps/s" "$records"/{smoke,evaluate-*,train-*}.log)"
timeout $((20 * patience)) "${module[@]}" benchmarks.report_gpu "$records" >"$records/report.md" 2>&1 || failed+=(report)
cat "$records/report.md"
say "$(grep -hs "passed\|failed\|skipped" "$records/tests.log" | tail -n 1)"
say "$((SECONDS - started)) s in all"
if [ ${#failed[@]} -gt 0 ]; then
  say "FAILED: ${failed[*]}"
  exit 1
fi
