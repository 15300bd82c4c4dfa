#!/bin/sh
# Every C++ test, and every fuzzer on its corpus for every kernel set, with AddressSanitizer and
# UndefinedBehaviorSanitizer (test_kernels has every set in it); the operators and layers with
# ThreadSanitizer; a program of examples/cpp under valgrind.
set -e
cd "$(dirname "$0")/../.."
tests/cpp/build_sanitized.sh build-asan address,undefined
tests/cpp/build_sanitized.sh build-tsan thread

echo "AddressSanitizer and UndefinedBehaviorSanitizer"
ctest --test-dir build-asan --output-on-failure --no-tests=error --parallel 2
for kernels in $(build-asan/tests/cpp/list_kernels); do
  for program in $(find build-asan/tests/fuzz -maxdepth 1 -name 'fuzz_*' -perm -u+x); do
    subject=${program##*/fuzz_}
    TORCHQUANT_KERNELS=$kernels "$program" -runs=0 "tests/fuzz/corpus/$subject" \
      2> "$program.log" || { cat "$program.log"; exit 1; }
    echo "fuzz_$subject, kernels $kernels: its corpus passes"
  done
done

# Archer, which comes with clang's OpenMP, tells ThreadSanitizer when OpenMP's threads wait for each
# other. LibTorch is not instrumented: what only it does with its own memory is no report.
archer=$(find /usr/lib -name libarcher.so -print -quit)
test -n "$archer" || { echo "libarcher.so is not in /usr/lib: install libomp-dev" >&2; exit 1; }
for program in test_ops test_model test_load; do
  echo "ThreadSanitizer, $program"
  OMP_TOOL_LIBRARIES=$archer TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1 \
    OMP_NUM_THREADS=4 "build-tsan/tests/cpp/$program" --gtest_brief=1
done

tests/cpp/valgrind.sh
