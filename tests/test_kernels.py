"""The kernel sets: which one runs, and that all of them give the same bits on any threads."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from samples import OPERATORS

import torchquant

SETS = ("avx512vnni", "avxvnni", "avx2", "scalar")  # best first
THREADS = ("1", "2", "3", "4")  # 4 share out rows and columns both


def python(*arguments: str, kernels: str | None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "TORCHQUANT_KERNELS"}
    environment["OMP_WAIT_POLICY"] = "PASSIVE"  # 3 threads of 2 processors must not spin
    if kernels is not None:
        environment["TORCHQUANT_KERNELS"] = kernels
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )


@functools.cache
def workload(kernels: str) -> subprocess.CompletedProcess[str]:
    return python("workload.py", *THREADS, kernels=kernels)


def digests(kernels: str) -> dict[str, Any] | None:
    """Of every operator, by number of threads; None where this machine lacks the set."""
    ran = workload(kernels)
    if f'TORCHQUANT_KERNELS is "{kernels}"' in ran.stderr:
        return None
    assert ran.returncode == 0, ran.stderr
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer


def test_the_active_set_is_the_one_asked_for() -> None:
    active = torchquant.ops.active_kernels()
    assert active in SETS
    assert active == os.environ.get("TORCHQUANT_KERNELS", active)


@pytest.mark.any_kernels
def test_scalar_runs_everywhere() -> None:
    assert digests("scalar") is not None


@pytest.mark.any_kernels
def test_the_best_set_runs_where_none_is_asked_for() -> None:
    best = next(kernels for kernels in SETS if digests(kernels) is not None)
    code = "import torchquant; print(torchquant.ops.active_kernels())"
    for asked in (None, ""):
        assert python("-c", code, kernels=asked).stdout.strip() == best


@pytest.mark.any_kernels
@pytest.mark.parametrize("kernels", SETS)
def test_the_set_asked_for_runs(kernels: str) -> None:
    answer = digests(kernels)
    if answer is None:
        pytest.skip(f"this machine does not support {kernels}")
    assert answer["kernels"] == kernels


@pytest.mark.any_kernels
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_set_and_number_of_threads_gives_the_same_bits(operator: str) -> None:
    found = {
        (kernels, threads): answer[threads][operator]
        for kernels in SETS
        if (answer := digests(kernels)) is not None
        for threads in THREADS
    }
    assert len(found) >= 3
    assert len(set(found.values())) == 1, found


@pytest.mark.any_kernels
@pytest.mark.parametrize("kernels", ["nonsense", "AVX2", "avx2 "])
def test_an_unknown_set_raises_at_every_call_and_not_at_import(kernels: str) -> None:
    code = """
import torch, torchquant
print("imported")
for call in (
    lambda: torchquant.ops.active_kernels(),
    lambda: torchquant.ops.choose_qparams_per_tensor(torch.ones(3), 0, 255, False),
    lambda: torchquant.ops.int8_matmul(*[torch.ones(2, 2, dtype=torch.int8)] * 2),
    lambda: torchquant.ops.active_kernels(),
):
    try:
        call()
    except RuntimeError as error:
        print(str(error).splitlines()[0])
"""
    ran = python("-c", code, kernels=kernels)
    assert ran.returncode == 0, ran.stderr
    imported, *messages = ran.stdout.splitlines()
    assert imported == "imported"
    supported = ", ".join(name for name in SETS if digests(name) is not None)
    assert messages == 4 * [
        f'TORCHQUANT_KERNELS is "{kernels}", which is unknown or not supported on this machine: '
        f"unset it, or set it to one of {supported}"
    ]


@pytest.mark.any_kernels
def test_an_unsupported_set_raises_and_names_the_supported_ones() -> None:
    missing = [kernels for kernels in SETS if digests(kernels) is None]
    if not missing:
        pytest.skip("this machine supports every set")
    ran = python("workload.py", "1", kernels=missing[0])
    assert ran.returncode != 0
    assert f'TORCHQUANT_KERNELS is "{missing[0]}", which is unknown or not supported' in ran.stderr
    assert "scalar" in ran.stderr.splitlines()[-1]
