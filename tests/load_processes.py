"""Processes of test_load.py: `python load_processes.py FUNCTION` prints what it found as JSON."""

from __future__ import annotations

import atexit
import json
import os
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from operator_tests import assert_same, outcome_of
from samples import bytes_, floats, histogram, quantized_linear, samples
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import torchquant

ops = torch.ops.torchquant
ONE = (torch.tensor(0.037), torch.tensor(3, dtype=torch.int32))
MIB = 2**20


def memory(field: str = "VmRSS") -> int:
    """Of this process, in bytes."""
    status = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in status if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


# One million calls


def million_calls() -> dict[str, Any]:
    """How much memory grows from the first tenth of them to the last."""
    torch.set_num_threads(1)
    round_of = _calls_of_a_round()
    rounds = 1_000_000 // len(round_of)
    for i in range(rounds):
        if i == rounds // 10:
            before = memory()
        for call in round_of:
            call()
        if i % 100 == 0:
            _raise()
    return {"calls": rounds * len(round_of), "grown": memory() - before}


def _calls_of_a_round() -> list[Callable[[], object]]:
    x, q = floats(4, 64), bytes_(4, 64)
    codes, back = torch.empty(4, 64, dtype=torch.int8), torch.empty(4, 64)
    linear, state = quantized_linear(16, 64), histogram()
    layer = torchquant.quantize_dynamic(torch.nn.Linear(64, 16))
    scripted = torch.jit.script(layer)
    return [
        lambda: ops.quantize_per_tensor(x, *ONE, 0, 255, torch.uint8),
        lambda: ops.quantize_per_tensor.out(x, *ONE, -128, 127, torch.int8, out=codes),
        lambda: ops.dequantize_per_tensor.out(q, *ONE, out=back),
        lambda: ops.choose_qparams_per_token(x, 0, 255, False),
        lambda: ops.linear_dynamic(x, *linear),
        lambda: ops.int8_matmul(q, q.t()),
        lambda: ops.histogram_observe_(*state, x),
        lambda: scripted(x),
    ]


def _raise() -> None:
    for wrong in (lambda: ops.pack_weight(floats(4, 64)), lambda: ops.pack_bits(bytes_(4, 64), 3)):
        try:
            wrong()
        except RuntimeError:
            continue
        raise AssertionError("wrong arguments were taken")


def dying_threads() -> dict[str, Any]:
    """How much memory grows over threads that take their scratch with them."""
    torch.set_num_threads(1)
    x, state, linear = floats(300, 600), histogram(), quantized_linear(300, 600)

    def work() -> None:
        ops.histogram_observe_(*state, x)  # half a megabyte of tables
        ops.linear_dynamic(x, *linear)

    def run(threads: int) -> None:
        for _ in range(threads):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

    run(20)
    before = memory()
    run(200)
    return {"grown": memory() - before}


# Memory that runs out


def out_of_memory() -> dict[str, Any]:
    """What each call raises that asks for more than is left; after it, the operator still works."""
    torch.set_num_threads(2)
    calls = _large_calls()
    small = {
        name: samples(name.split(",")[0]) for name in calls if hasattr(ops, name.split(",")[0])
    }
    expected = {
        name: [outcome_of(name.split(",")[0], sample) for sample in small[name]] for name in small
    }
    torch.ones(MIB).mul(2)  # which starts the other thread
    _limit(memory("VmSize") + 8 * MIB)
    raised = {}
    for name, call in calls.items():
        raised[name] = _raised(call)
        for sample, result in zip(small.get(name, ()), expected.get(name, ()), strict=True):
            assert_same(outcome_of(name.split(",")[0], sample), result)
    return raised


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _raised(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return "nothing"


def _large_calls() -> dict[str, Callable[[], object]]:
    """Each asks for 64 MB or more at once, which malloc never keeps, or for what is said."""
    n = 64 * MIB
    x, q = torch.zeros(n // 4), torch.zeros(n, dtype=torch.int8)
    rows, q_rows = x.view(-1, 1), q.view(-1, 1)
    by_row = torch.ones(1, 1).expand(n // 4, 1), torch.zeros(1, 1, dtype=torch.int32)
    by_row = by_row[0], by_row[1].expand(n // 4, 1)
    few, deep = quantized_linear(16, 64), quantized_linear(16, 65_792)
    a, b = torch.zeros(400, 131_000, dtype=torch.int8), q[: 131_000 * 512].view(131_000, 512)
    double = torch.zeros(1, dtype=torch.float64).expand(n // 4)
    wide = torch.int32
    return {
        "torch.relu": lambda: torch.relu(x),
        "choose_qparams_per_token": lambda: ops.choose_qparams_per_token(rows, 0, 255, False),
        "choose_qparams_per_group": lambda: ops.choose_qparams_per_group(x, 1, 0, 255, False),
        "choose_qparams_per_channel": lambda: ops.choose_qparams_per_channel(x, 0, 0, 255, False),
        "quantize_per_tensor": lambda: ops.quantize_per_tensor(x, *ONE, 0, 65535, wide),
        "quantize_per_token": lambda: ops.quantize_per_token(rows, *by_row, 0, 65535, wide),
        "quantize_per_group": lambda: ops.quantize_per_group(rows, *by_row, 1, 0, 255, wide),
        "quantize_dynamic_per_token": lambda: ops.quantize_dynamic_per_token(
            rows, 0, 255, False, wide
        ),
        "quantize_dynamic_per_tensor": lambda: ops.quantize_dynamic_per_tensor(
            x, 0, 255, False, wide
        ),
        "dequantize_per_tensor": lambda: ops.dequantize_per_tensor(q, *ONE),
        "dequantize_per_token": lambda: ops.dequantize_per_token(q_rows[: n // 4], *by_row),
        "fake_quantize_per_tensor": lambda: ops.fake_quantize_per_tensor(x, *ONE, 0, 255),
        "fake_quantize_per_tensor_backward": lambda: ops.fake_quantize_per_tensor_backward(
            x, x, *ONE, 0, 255, True
        ),
        "quantization_error, in float64": lambda: ops.quantization_error(x, double),
        "histogram_observe_, a copy": lambda: ops.histogram_observe_(
            *histogram(), torch.zeros(1).expand(n)
        ),
        "pack_bits": lambda: ops.pack_bits(q, 8),
        "unpack_bits": lambda: ops.unpack_bits(q.view(torch.uint8), 2, 4 * n, torch.int8),
        "int8_matmul": lambda: ops.int8_matmul(q.view(-1, 64), q.view(64, -1)),
        "int8_matmul, packing": lambda: ops.int8_matmul(a, b),
        "int8_matmul_packed": lambda: ops.int8_matmul_packed(
            q[: n // 4].view(-1, 64).expand(8, -1, 64), few[0], 16
        ),
        "pack_weight": lambda: ops.pack_weight(q.view(-1, 64)),
        "unpack_weight": lambda: ops.unpack_weight(q.view(-1, 16, 16, 4), n // 64, 64),
        "linear_dynamic": lambda: ops.linear_dynamic(torch.zeros(1).expand(n // 64, 64), *few),
        "linear_dynamic, a thread's 12 MB or more": lambda: ops.linear_dynamic(
            x[: 250 * 65_792].view(250, 65_792), *deep
        ),
        "linear_static, a thread's 12 MB or more": lambda: ops.linear_static(
            x[: 250 * 65_792].view(250, 65_792), *ONE, *deep
        ),
    }


# Processes that fork


def fork(which: str) -> dict[str, Any]:
    """How a forked process ends, whose parent has used the intra-op pool: after 5 s by an alarm."""
    torch.set_num_threads(2)
    x = floats(2000, 1000)
    calls = {
        "torch": lambda: torch.relu(x),
        "ours": lambda: ops.quantize_dynamic_per_token(x, 0, 255, False, torch.uint8)[0],
    }
    call = calls[which.removeprefix("one thread, ")]
    expected = call()
    child = os.fork()
    if child == 0:
        if which.startswith("one thread"):
            torch.set_num_threads(1)
        else:
            signal.alarm(5)
        os._exit(0 if torch.equal(call(), expected) else 3)
    return {"ended": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}


class Quantized(Dataset[Tensor]):
    """Rows that a worker quantizes, dequantizes and multiplies."""

    def __init__(self) -> None:
        self.rows, self.linear = floats(64, 4096), quantized_linear(16, 4096)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        q, scale, zero_point = ops.quantize_dynamic_per_token(
            self.rows[index : index + 1], 0, 255, False, torch.uint8
        )
        return ops.dequantize_per_token(q, scale, zero_point)

    def collate(self, rows: list[Tensor]) -> Tensor:
        """The layer's output of a batch: enough work for several threads."""
        return ops.linear_dynamic(torch.cat(rows), *self.linear)


# Ctrl-C


class Waiting(torch.nn.Module):
    """Says that it has got to its third batch, and stays there."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.batches = torch.nn.Linear(16, 16), 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        self.batches += 1
        if self.batches == 3:
            print("waiting", flush=True)
            threading.Event().wait()
        return x


def interrupted(workers: str) -> dict[str, Any]:
    """What is left of a calibration after Ctrl-C."""
    x = floats(64, 16)
    loader = DataLoader(x, batch_size=8, num_workers=int(workers))
    model = Waiting().train()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        calibration = torchquant.calibrate(model, loader, progress=False)
    model.batches = 3
    torchquant.quantize_static(model, calibration, inplace=True)(x)
    return {
        "interrupted": calibration.interrupted,
        "batches": calibration.batches,
        "values": calibration.histograms["layer"].count,
        "is as of": torch.equal(
            calibration.histograms["layer"].counts,
            torchquant.calibrate(torch.nn.Sequential(torch.nn.Linear(16, 16)), [x[:24]])
            .histograms["0"]
            .counts,
        ),
        "warned": [str(warning.message) for warning in caught if warning.category is UserWarning],
        "training": model.training,
    }


# The end of a process


def at_exit() -> None:
    """Calls at exit and from a destructor, the last things that this process does."""
    x, model = floats(300, 600), torchquant.quantize_dynamic(torch.nn.Linear(600, 30))
    expected = model(x)

    class Last:
        def __del__(self) -> None:
            print(json.dumps(torch.equal(model(x), expected)), flush=True)

    def check() -> None:
        print(json.dumps(torch.equal(model(x), expected)), flush=True)

    atexit.register(check)
    module = sys.modules[__name__]
    module.last = Last()  # type: ignore[attr-defined]


if __name__ == "__main__":
    found = globals()[sys.argv[1]](*sys.argv[2:])
    if found is not None:
        print(json.dumps(found))
