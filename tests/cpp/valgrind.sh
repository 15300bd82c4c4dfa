#!/bin/sh
# examples/cpp/quantize_network, a program without Python, under valgrind: it loads a file, and
# calls linear_static in 8 bits and float.
set -e
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python - "$folder" << 'END'
import sys

import torch

import torchquant
from torch import nn

folder = sys.argv[1]
model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
x = torch.randn(33, 16)
calibration = torchquant.calibrate(model, [x], progress=False)
torchquant.save_quantized(torchquant.quantize_static(model, calibration), f"{folder}/model")
torch.save(x, f"{folder}/input.pt")
paths = torchquant.cmake_prefix_path + ";" + torch.utils.cmake_prefix_path
print(paths, file=open(f"{folder}/paths", "w"))
END
cmake -S examples/cpp -B "$folder/build" -DCMAKE_PREFIX_PATH="$(cat "$folder/paths")" > /dev/null
cmake --build "$folder/build" --target quantize_network > /dev/null
echo "valgrind, examples/cpp/quantize_network"
OMP_NUM_THREADS=2 valgrind --quiet --error-exitcode=9 --leak-check=full \
  --show-leak-kinds=definite --errors-for-leak-kinds=definite \
  "$folder/build/quantize_network" --load "$folder/model" "$folder/input.pt" "$folder/output.pt"
