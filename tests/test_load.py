"""Operators under load and at the limits of a process: threads, forks, memory, Ctrl-C, its end."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from load_processes import Quantized
from operator_tests import Results, assert_same, outcome_of
from samples import OPERATORS, Sample, floats, histogram, quantized_linear, samples
from torch import Tensor
from torch.utils.data import DataLoader
from workload import large_samples

import torchquant  # noqa: F401  loads torch.ops.torchquant

HERE = Path(__file__).parent
ROOT = HERE.parent
ops = torch.ops.torchquant

any_kernels = pytest.mark.any_kernels


def started(*command: str, **environment: str) -> subprocess.Popen[str]:
    paths = f"{ROOT}:{HERE}"
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    )


def finished(process: subprocess.Popen[str]) -> str:
    """What it prints; it must end well, within two minutes."""
    try:
        shown, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return shown


def found_by(*arguments: str) -> Any:
    """What a function of load_processes.py finds in a process of its own."""
    return json.loads(finished(started(str(HERE / "load_processes.py"), *arguments)))


# Threads


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def expected() -> list[tuple[str, Sample, Results]]:
    """Every operator's samples, small and large, and what one thread makes of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    calls = [(name, s) for name in OPERATORS for s in samples(name) + large_samples(name)]
    results = [(name, sample, outcome_of(name, sample)) for name, sample in calls]
    torch.set_num_threads(before)
    return results


def test_the_number_of_threads_may_change_while_others_compute(
    threads: None, expected: list[tuple[str, Sample, Results]]
) -> None:
    """Each of four threads changes its own with every call, as the main thread does meanwhile."""
    barrier, ended = threading.Barrier(5), threading.Event()

    def work(first: int) -> None:
        barrier.wait(timeout=60)
        for i, (name, sample, result) in enumerate(expected):
            torch.set_num_threads(1 + (first + i) % 4)
            assert_same(outcome_of(name, sample), result)

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(work, first) for first in range(4)]
        for worker in workers:
            worker.add_done_callback(lambda _: all(w.done() for w in workers) and ended.set())
        barrier.wait(timeout=60)
        count = 0
        while not ended.is_set():
            torch.set_num_threads(1 + count % 4)
            count += 1
            name, sample, result = expected[0]
            assert_same(outcome_of(name, sample), result)
        for worker in workers:
            worker.result()


def test_threads_may_observe_into_one_state() -> None:
    """Dense counts and range: sixteen threads add up to what one finds."""
    parts = [floats(40_000, seed=i) for i in range(16)]
    counts, range_ = histogram()
    barrier = threading.Barrier(16)

    def observe(part: Tensor) -> None:
        barrier.wait(timeout=60)
        for piece in part.split(700):
            ops.histogram_observe_(counts, range_, piece)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(observe, parts))
    assert_same([counts, range_], histogram(torch.cat(parts)))


# TorchScript is deprecated as a whole.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@any_kernels
def test_tasks_of_torchscript_agree_with_one_thread() -> None:
    """torch.jit.fork runs them on the inter-op pool, where they share the intra-op one."""
    x, linear = floats(200, 517), quantized_linear(270, 517)

    def work(x: Tensor, packed: Tensor, scale: Tensor, weight_sum: Tensor) -> list[Tensor]:
        y = torch.ops.torchquant.linear_dynamic(x, packed, scale, weight_sum)
        q, s, z = torch.ops.torchquant.quantize_dynamic_per_token(y, 0, 255, False, torch.uint8)
        back = torch.ops.torchquant.dequantize_per_token(q, s, z)
        return [y, q, s, z, torch.ops.torchquant.quantization_error(y, back)]

    scripted = torch.jit.script(_in_sixteen_tasks(torch.jit.script(work)))
    for results in scripted(x, *linear):
        assert_same(results, work(x, *linear))


def _in_sixteen_tasks(work: Any) -> Callable[..., list[list[Tensor]]]:
    def tasks(x: Tensor, packed: Tensor, scale: Tensor, weight_sum: Tensor) -> list[list[Tensor]]:
        futures = [torch.jit.fork(work, x, packed, scale, weight_sum) for _ in range(16)]
        return [torch.jit.wait(future) for future in futures]

    return tasks


def test_threads_that_end_take_their_scratch_with_them() -> None:
    """200 of them, each with half a megabyte for a histogram alone: a tenth of these 100 MB, as
    malloc keeps some pages of threads that are gone."""
    assert found_by("dying_threads")["grown"] < 10 * 2**20


# How floats are computed


ROUNDING = {"up": 0x800, "down": 0x400, "toward zero": 0xC00}  # <fenv.h> of x86


@pytest.mark.parametrize("rounding", ROUNDING)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the constants are those of x86")
def test_the_rounding_of_the_calling_thread_changes_nothing(
    rounding: str, expected: list[tuple[str, Sample, Results]]
) -> None:
    library = ctypes.CDLL("libm.so.6")
    library.fesetround(ROUNDING[rounding])
    try:
        results = [outcome_of(name, sample) for name, sample, _ in expected]
        assert library.fegetround() == ROUNDING[rounding]
    finally:
        library.fesetround(0)
    for result, (_, _, wanted) in zip(results, expected, strict=True):
        assert_same(result, wanted)


def test_flushing_denormals_changes_nothing(
    expected: list[tuple[str, Sample, Results]],
) -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        results = [outcome_of(name, sample) for name, sample, _ in expected]
        assert torch.tensor(1e-40).mul(1).item() == 0  # they are flushed still
    finally:
        torch.set_flush_denormal(False)
    for result, (_, _, wanted) in zip(results, expected, strict=True):
        assert_same(result, wanted)


# Processes


def test_a_forked_process_is_as_that_of_torch() -> None:
    """libgomp's threads are not there after a fork, and it waits for them: PyTorch's operators hang
    as ours do, and one thread helps. DataLoader tells its workers to use one."""
    ways = ("torch", "ours", "one thread, torch", "one thread, ours")
    running = [started(str(HERE / "load_processes.py"), "fork", way) for way in ways]
    ended = {
        way: json.loads(finished(process))["ended"]
        for way, process in zip(ways, running, strict=True)
    }
    assert ended["ours"] == ended["torch"]
    assert ended["torch"] in (0, -signal.SIGALRM)
    assert ended["one thread, ours"] == ended["one thread, torch"] == 0


@any_kernels
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_loader_call_operators(method: str) -> None:
    data = Quantized()
    expected = [data.collate([data[i + j] for j in range(16)]) for i in range(0, 64, 16)]
    loader = DataLoader(
        data, 16, collate_fn=data.collate, num_workers=2, multiprocessing_context=method, timeout=60
    )
    for result, wanted in zip(loader, expected, strict=True):
        assert_same(result, wanted)


def test_a_million_calls_leave_no_memory_behind() -> None:
    """Of several operators, with out, through TorchScript, and some that raise. One leaked byte in
    each would be a megabyte; an object leaked by one call of eight would be two or more."""
    found = found_by("million_calls")
    assert found["calls"] == 1_000_000
    assert found["grown"] < 2**20


def test_memory_that_runs_out_raises_and_spoils_nothing() -> None:
    raised = found_by("out_of_memory")
    assert "can't allocate memory" in raised["torch.relu"]
    for name, error in raised.items():
        if "a thread's" in name:  # from within a parallel region
            assert error == "MemoryError: std::bad_alloc"
        else:
            assert error.startswith("RuntimeError: "), name
            assert "DefaultCPUAllocator: can't allocate memory: you tried to allocate" in error, (
                name
            )


@any_kernels
def test_calls_at_the_end_of_a_process() -> None:
    shown = finished(started(str(HERE / "load_processes.py"), "at_exit"))
    assert shown.split() == ["true", "true"]


# Ctrl-C


def struck(process: subprocess.Popen[str], sign: str, by: str) -> None:
    """Ctrl-C, once the process has printed the sign."""
    stream = process.stdout if by == "stdout" else process.stderr
    assert stream is not None
    try:
        for line in stream:
            if sign in line:
                process.send_signal(signal.SIGINT)
                return
        pytest.fail(f"it ended without {sign}")
    except BaseException:
        process.kill()
        raise


@any_kernels
@pytest.mark.parametrize("workers", ["0", "2"])
def test_ctrl_c_keeps_what_a_calibration_saw(workers: str) -> None:
    process = started(str(HERE / "load_processes.py"), "interrupted", workers)
    struck(process, "waiting", by="stdout")
    assert json.loads(finished(process)) == {
        "interrupted": True,
        "batches": 2,
        "values": 3 * 8 * 16,
        "is as of": True,
        "warned": [
            "calibration was interrupted: it has 2 whole batches, and what the layers saw of the "
            "next"
        ],
        "training": True,
    }


SLOW_MODEL = """
import sys, threading
from torch import nn

def waits_as_it_is_made():
    print("waiting", file=sys.stderr, flush=True)
    threading.Event().wait()

class WaitsAsItIsQuantized(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.made = True

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "second" and self.__dict__.pop("made", False):
            waits_as_it_is_made()
"""


@any_kernels
@pytest.mark.parametrize("name", ["waits_as_it_is_made", "WaitsAsItIsQuantized"])
def test_ctrl_c_ends_the_command_quietly(name: str, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_MODEL)
    out = tmp_path / "out.safetensors"
    process = started("-m", "torchquant", "quantize", f"{tmp_path / 'slow.py'}:{name}", str(out))
    struck(process, "waiting", by="stderr")
    try:
        shown, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert shown == ""
    assert "Traceback" not in errors
    assert list(tmp_path.glob("*.safetensors*")) == []
