#!/bin/sh
# Runs every fuzzer on its corpus and on mutations of it. What it finds is left as a file beside the
# corpus, which reproduces it: build-asan/tests/fuzz/fuzz_SUBJECT FILE.
# Usage: run.sh [SECONDS for each target]
set -e
cd "$(dirname "$0")/../.."
seconds=${1:-30}
tests/cpp/build_sanitized.sh build-asan address,undefined
for program in $(find build-asan/tests/fuzz -maxdepth 1 -name 'fuzz_*' -perm -u+x); do
  subject=${program##*/fuzz_}
  found=build-asan/tests/fuzz/found/$subject
  mkdir -p "$found"
  options="-max_len=4096 -len_control=20 -verbosity=0 -print_final_stats=1"
  if [ -f "tests/fuzz/$subject.dict" ]; then options="$options -dict=tests/fuzz/$subject.dict"; fi
  for kernels in $(build-asan/tests/cpp/list_kernels); do
    echo "fuzzing $subject, kernels $kernels, $seconds s"
    # shellcheck disable=SC2086
    TORCHQUANT_KERNELS=$kernels "$program" $options -max_total_time="$seconds" \
      -artifact_prefix="build-asan/tests/fuzz/found/" "$found" "tests/fuzz/corpus/$subject" \
      2> "$found.log" || { cat "$found.log"; exit 1; }
    grep -E 'number_of_executed_units' "$found.log"
    case $subject in *_kernels) break ;; esac # these run every set at once
  done
done
