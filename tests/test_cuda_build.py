"""What is to be known of CUDA without a GPU: which kernels the library has, and that it works."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from on_device import has_cuda_kernel
from operator_tests import OVERLOADS

import torchquant

pytestmark = pytest.mark.any_kernels

# Registered for every backend at once.
WITHOUT = {"histogram_qparams"}


def test_all_operators_have_cuda_kernels_or_none_has() -> None:
    """All, where the library was built with TORCHQUANT_CUDA=ON."""
    wanted = set(OVERLOADS) - WITHOUT
    found = {name for name in wanted if has_cuda_kernel(name)}
    if found or os.environ.get("TORCHQUANT_CUDA") == "ON":
        assert not wanted - found


# Prints whether torch refuses a CUDA tensor, and what operators then give.
_WITHOUT_A_GPU = """
import torch
import torchquant

try:
    torch.zeros(1, device="cuda")
except (RuntimeError, AssertionError):  # the latter where torch is built without CUDA
    print("refused")
x = torch.tensor([-1.0, 0.25, 2.0])
print(torchquant.functional.symmetric_quantize(x)[0].tolist())
print(torchquant.ops.active_kernels())
"""


def test_without_a_gpu_torch_itself_says_so_and_the_cpu_goes_on() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _WITHOUT_A_GPU],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    refused, codes, kernels = ran.stdout.splitlines()
    assert refused == "refused"
    assert codes == "[-64, 16, 127]"
    assert kernels == torchquant.ops.active_kernels()
