"""The guarded tensors themselves: that their pages are where they should be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from guarded import PAGE, guarded

TOUCH = """
import ctypes, sys, torch
sys.path.insert(0, {folder!r})
from guarded import guarded
tensor = guarded(torch.arange(5, dtype=torch.int16), {at_end})
print(tensor.tolist(), flush=True)
ctypes.memset(tensor.data_ptr() + {offset}, 0, 1)
print("survived")
"""


@pytest.mark.parametrize(
    ("at_end", "offset", "survives"),
    [(False, 0, True), (False, -1, False), (True, 9, True), (True, 10, False)],
)
@pytest.mark.any_kernels
def test_touching_the_page_beside_it_is_the_end(at_end: bool, offset: int, survives: bool) -> None:
    folder = str(Path(__file__).parent)
    code = TOUCH.format(folder=folder, at_end=at_end, offset=offset)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout.splitlines()[0] == "[0, 1, 2, 3, 4]"
    assert ("survived" in ran.stdout) == survives
    assert (ran.returncode == 0) == survives


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("rows", [1, 7, PAGE, 3 * PAGE - 1])
def test_values_and_strides_are_kept(rows: int, at_end: bool) -> None:
    tensor = torch.arange(rows * 3, dtype=torch.int32).view(rows, 3).t()
    copy = guarded(tensor, at_end)
    assert torch.equal(copy, tensor)
    assert copy.stride() == tensor.stride()
    assert (copy.data_ptr() + at_end * 12 * rows) % PAGE == 0
