#!/bin/sh
# What of csrc the corpus reaches, line by line: prints llvm-cov's table of every file.
# Usage: coverage.sh [FOLDER with a corpus for each subject]
set -e
cd "$(dirname "$0")/../.."
corpus=${1:-tests/fuzz/corpus}
tests/cpp/install_clang.sh
cmake -S . -B build-coverage -G Ninja -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=None \
  -DCMAKE_CXX_FLAGS="-O1 -fprofile-instr-generate -fcoverage-mapping" -DTORCHQUANT_FUZZ=ON \
  -DTORCHQUANT_TESTS=OFF \
  -DCMAKE_PREFIX_PATH="$(python -c 'import torch; print(torch.utils.cmake_prefix_path)')" > /dev/null
cmake --build build-coverage --parallel
version=$(clang++ -dumpversion | cut -d. -f1)
objects=
for program in $(find build-coverage/tests/fuzz -maxdepth 1 -name 'fuzz_*' -perm -u+x); do
  subject=${program##*/fuzz_}
  LLVM_PROFILE_FILE="build-coverage/$subject.%m.profraw" "$program" -runs=0 "$corpus/$subject" \
    2> /dev/null
  objects="$objects -object $program"
done
"llvm-profdata-$version" merge -o build-coverage/all.profdata build-coverage/*.profraw
# shellcheck disable=SC2086
"llvm-cov-$version" report build-coverage/libtorchquant.so $objects \
  -instr-profile build-coverage/all.profdata csrc -show-functions=false
