"""Every operator on its samples and on larger inputs, hashed: `python workload.py THREADS...`.

test_kernels.py runs it in processes of their own, because a process chooses its kernel set once.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from typing import Any

import torch
from operator_tests import outcome_of
from samples import (
    BF16,
    F16,
    OPERATORS,
    U8,
    Sample,
    bytes_,
    floats,
    histogram,
    quantized_linear,
    samples,
    scales,
    zero_points,
)
from torch import Tensor

import torchquant


def large_samples(operator: str) -> list[Sample]:
    """Work for several threads, with NaN, Inf, denormals and every size of value in it."""
    calls = _large_calls()[operator]
    return [Sample(f"large-{i}", arguments) for i, arguments in enumerate(calls)]


@functools.cache
def _large_calls() -> dict[str, list[tuple[Any, ...]]]:
    x = floats(301, 603) * torch.logspace(-40, 30, 603)
    y = x.clone()
    y[7, 9], y[100, 600], y[299, 0] = torch.nan, torch.inf, -torch.inf
    q = bytes_(301, 603)
    linear, bias = quantized_linear(270, 517), floats(270)
    flat = quantized_linear(120, 7000)  # which 4 threads share out in a grid of 2 x 2
    tokens = floats(131, 517)
    tokens[5, 100], tokens[77, 516] = torch.nan, torch.inf
    by_axis = {axis: (scales(q.shape[axis]), zero_points(q.shape[axis])) for axis in (0, 1)}
    by_token = (scales(301, 1), zero_points(301, 1))
    by_group = {
        size: (scales(301, -(-603 // size)), zero_points(301, -(-603 // size))) for size in (5, 32)
    }
    one = (scales(1), zero_points(1))
    grad = floats(301, 603, seed=1)
    # Channels of more than a block of a sum: in several runs, in a column, and in one run.
    of_runs, runs = floats(3, 47, 1900), (scales(47), zero_points(47, low=-5, high=5))
    few = (scales(21), zero_points(21, low=-5, high=5))
    ties = (torch.arange(-300, 300) + 0.5, torch.tensor(1.0), torch.tensor(3, dtype=torch.int32))
    return {
        "choose_qparams_per_tensor": [(v, 0, 255, False) for v in (x, y, x.to(BF16))],
        "choose_qparams_per_channel": [(y, axis, -128, 127, False) for axis in (0, 1)],
        "choose_qparams_per_group": [(y, size, -8, 7, True) for size in (5, 32, 1000)],
        "choose_qparams_per_token": [(v, 0, 255, False) for v in (y, y.to(F16))],
        "quantize_per_tensor": [
            *((v, *one, 0, 255, U8) for v in (y, y.to(F16), y.to(BF16))),
            (*ties, -128, 127, torch.int8),
        ],
        "quantize_per_channel": [(y, *by_axis[a], a, -128, 127, torch.int16) for a in (0, 1)],
        "quantize_per_group": [(y, *by_group[g], g, -8, 7, torch.int8) for g in by_group],
        "quantize_dynamic_per_tensor": [(v, 0, 255, False, U8) for v in (x, y, x.to(F16))],
        "quantize_dynamic_per_token": [(v, -128, 127, True, torch.int8) for v in (y, y.to(BF16))],
        "quantize_dynamic_per_group": [(y, size, 0, 255, False, U8) for size in (5, 32, 1000)],
        "quantize_per_token": [(y, *by_token, -128, 127, torch.int8)],
        "fake_quantize_per_tensor": [
            *((v, *one, 0, 255) for v in (y, y.to(F16), y.to(BF16), y.t())),
            (*ties, -128, 127),
        ],
        "fake_quantize_per_channel": [
            *((v, *by_axis[a], a, -128, 127) for v in (y, y.to(F16)) for a in (0, 1)),
            (of_runs, *runs, 1, -8, 7),
        ],
        "fake_quantize_per_tensor_backward": [
            *((grad.to(d), y.to(d), *one, 0, 255, True) for d in (torch.float32, F16, BF16)),
            (grad, y, *one, 0, 255, False),
            (floats(600), *ties, -128, 127, True),
        ],
        "fake_quantize_per_channel_backward": [
            *(
                (grad.to(d), y.to(d), *by_axis[a], a, -128, 127, True)
                for d in (torch.float32, F16)
                for a in (0, 1)
            ),
            *((grad, y, *by_axis[a], a, -128, 127, False) for a in (0, 1)),
            (floats(3, 47, 1900, seed=1), of_runs, *runs, 1, -8, 7, True),
            (floats(9000, 21, seed=1), floats(9000, 21), *few, 1, -8, 7, True),
            (floats(21, 9000, seed=1), floats(21, 9000), *few, 0, -8, 7, True),
        ],
        "dequantize_per_tensor": [(v, *one) for v in (q, q.view(U8), q.int() * 9001)],
        "dequantize_per_channel": [(q, *by_axis[axis], axis) for axis in (0, 1)],
        "dequantize_per_group": [(q, *by_group[g], g) for g in by_group],
        "dequantize_per_token": [(q, *by_token)],
        "quantization_error": [(v, floats(301, 603)) for v in (x, y, x.to(F16), x.double())],
        "histogram_observe_": [(*histogram(), v) for v in (y, y.to(F16), y.to(BF16), y[:, ::3])],
        "histogram_qparams": [
            (*histogram(v), *codes, method, 99.9)
            for v in (floats(301, 603), x)
            for codes in ((-8, 7, True), (0, 255, False))
            for method in ("minmax", "percentile", "mse", "entropy")
        ],
        "pack_bits": [(q >> (8 - bits), bits) for bits in range(2, 9)],
        "unpack_bits": [(q.view(U8), bits, 603 * 8 // bits, torch.int8) for bits in (2, 4, 8)],
        "int8_matmul": [
            (bytes_(131, 517, dtype=a), bytes_(517, 270, dtype=b))
            for a in (torch.int8, U8)
            for b in (torch.int8, U8)
        ]
        + [(bytes_(rows, 4100), bytes_(70, 4100).t()) for rows in (1, 2, 4, 150)]
        + [(bytes_(10, 7000), bytes_(7000, 120, dtype=U8))],
        "pack_weight": [(bytes_(1000, 517),)],
        "unpack_weight": [(bytes_(63, 130, 16, 4), 1000, 517)],
        "int8_matmul_packed": [
            (bytes_(131, 517, dtype=a), linear[0], 270) for a in (torch.int8, U8)
        ]
        + [(bytes_(10, 7000), flat[0], 120)],
        "linear_dynamic": [
            (tokens.to(dtype)[:rows], *linear, bias, activation)
            for dtype in (torch.float32, F16, BF16)
            for rows in (1, 3, 131)
            for activation in ("none", "relu")
        ]
        + [(floats(10, 7000), *flat)],
        "linear_static": [
            (tokens.to(dtype)[:rows], *one, *linear, bias, activation, *to)
            for dtype in (torch.float32, F16, BF16)
            for rows in (1, 3, 131)
            for activation, *to in [("none",), ("relu", *one), ("none", *one, torch.int8)]
        ]
        + [(bytes_(131, 517, dtype=dtype), *one, *linear, bias) for dtype in (torch.int8, U8)]
        + [(x, *one, *flat) for x in (floats(10, 7000), bytes_(10, 7000))],
    }


def digest(operator: str) -> str:
    sha = hashlib.sha256()
    for sample in samples(operator) + large_samples(operator):
        result = outcome_of(operator, sample)
        for tensor in [result] if isinstance(result, Tensor) else result:
            if tensor.is_floating_point():
                # One NaN for all: which of them a processor makes is no part of the result.
                tensor = torch.where(tensor.isnan(), torch.full_like(tensor, torch.nan), tensor)
            sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
            sha.update(repr((tensor.shape, tensor.dtype)).encode())
    return sha.hexdigest()


if __name__ == "__main__":
    answer: dict[str, Any] = {}
    for threads in sys.argv[1:]:
        torch.set_num_threads(int(threads))
        answer[threads] = {operator: digest(operator) for operator in OPERATORS}
    answer["kernels"] = torchquant.ops.active_kernels()
    print(json.dumps(answer))
