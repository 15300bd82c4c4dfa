#!/bin/sh
# Builds kernels, operators, C++ tests and, but for threads, the fuzzers with clang's sanitizers.
# Usage: build_sanitized.sh FOLDER address,undefined|thread
set -e
cd "$(dirname "$0")/../.."
tests/cpp/install_gtest.sh
tests/cpp/install_clang.sh
fuzz=ON
if [ "$2" = thread ]; then fuzz=OFF; fi
cmake -S . -B "$1" -G Ninja -DCMAKE_CXX_COMPILER=clang++ \
  -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS=-O1 \
  -DCMAKE_PREFIX_PATH="$(python -c 'import torch; print(torch.utils.cmake_prefix_path)')" \
  -DTORCHQUANT_SANITIZE="$2" -DTORCHQUANT_TESTS=ON -DTORCHQUANT_FUZZ=$fuzz > /dev/null
cmake --build "$1" --parallel
