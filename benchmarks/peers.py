"""What PyTorch itself, and torchao, offer for the same: each prepared as its documents say."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import cast

import torch
from contender import Contender, ItemSizes, PrepareLayer, Ready, each
from problem import INPUT_SCALE, INPUT_ZERO_POINT, Problem
from torch import Tensor, nn


def _linear_float(dtype: torch.dtype) -> PrepareLayer:
    def prepare(problem: Problem, _threads: int) -> Ready:
        x, weight, bias = (t.to(dtype) for t in (problem.input, problem.weight, problem.bias))
        return Ready(lambda: nn.functional.linear(x, weight, bias))

    return prepare


def _int_mm(problem: Problem, _threads: int) -> Ready:
    a, b = problem.signed_codes, problem.weight_codes.t()
    return Ready(lambda: torch._int_mm(a, b))


@contextmanager
def _quantized_tensors(engine: str) -> Iterator[None]:
    """Select an engine, and keep quiet that quantized tensors are deprecated."""
    backend = torch.backends.quantized
    if engine not in backend.supported_engines:
        raise RuntimeError(f"this PyTorch has no engine {engine}")
    previous, backend.engine = backend.engine, engine
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        backend.engine = previous


def _quantized_weight(problem: Problem) -> object:
    """Pack for the engine that is selected; the packed weight remembers it."""
    zero_points = torch.zeros(problem.shape.n, dtype=torch.int64)
    weight = torch._make_per_channel_quantized_tensor(
        problem.weight_codes, problem.weight_scale.double(), zero_points, 0
    )
    return torch.ops.quantized.linear_prepack(weight, problem.bias)


def _quantized_dynamic(engine: str) -> PrepareLayer:
    def prepare(problem: Problem, _threads: int) -> Ready:
        with _quantized_tensors(engine):
            x, packed = problem.input, _quantized_weight(problem)
        linear = torch.ops.quantized.linear_dynamic
        return Ready(lambda: linear(x, packed, False))  # reduce_range=False

    return prepare


def _quantized_static(engine: str) -> PrepareLayer:
    def prepare(problem: Problem, _threads: int) -> Ready:
        scale, zero_point = problem.output_qparams
        with _quantized_tensors(engine):
            packed = _quantized_weight(problem)
            x = torch._make_per_tensor_quantized_tensor(
                problem.codes, INPUT_SCALE, INPUT_ZERO_POINT
            )
        linear = torch.ops.quantized.linear
        return Ready(
            lambda: linear(x, packed, scale, zero_point),
            lambda result: cast(Tensor, result).dequantize(),
        )

    return prepare


def _qlinear_pointwise(dtype: torch.dtype) -> PrepareLayer:
    """PT2E's operator, which compiled code calls, on plain tensors."""

    def prepare(problem: Problem, _threads: int) -> Ready:
        is_float = dtype.is_floating_point
        scale, zero_point = (1.0, 0) if is_float else problem.output_qparams
        x, weight_scale, bias = problem.codes, problem.weight_scale, problem.bias
        packed = torch.ops.onednn.qlinear_prepack(problem.weight_codes, list(x.shape))
        zero_points = torch.zeros(problem.shape.n, dtype=torch.int32)
        linear = torch.ops.onednn.qlinear_pointwise.default
        weights = (packed, weight_scale, zero_points, bias)
        no_arguments: list[float] = []
        output = (scale, zero_point, dtype, "none", no_arguments, "")
        return Ready(
            lambda: linear(x, INPUT_SCALE, INPUT_ZERO_POINT, *weights, *output),
            lambda result: (cast(Tensor, result).double() - zero_point) * scale,
        )

    return prepare


def _torchao(problem: Problem, _threads: int) -> Ready:
    quantization = import_module("torchao.quantization")
    layer = nn.Linear(problem.shape.k, problem.shape.n).requires_grad_(False)
    layer.weight.copy_(problem.weight)
    cast(Tensor, layer.bias).copy_(problem.bias)
    quantization.quantize_(layer, quantization.Int8DynamicActivationInt8WeightConfig())
    x = problem.input

    def call() -> Tensor:
        with torch.no_grad():
            return cast(Tensor, layer(x))

    return Ready(call)


_FLOAT, _DYNAMIC = ItemSizes(4, 4, 4), ItemSizes(4, 1, 4)

PEERS = (
    Contender("F.linear float32", "float", "real", _FLOAT, each(_linear_float(torch.float32))),
    Contender(
        "F.linear bfloat16",
        "float",
        "real",
        ItemSizes(2, 2, 2),
        each(_linear_float(torch.bfloat16)),
    ),
    Contender("torch._int_mm", "exact", "signed", ItemSizes(1, 1, 4), each(_int_mm)),
    *(
        Contender(
            f"quantized::linear {engine}",
            "static",
            "static",
            ItemSizes(1, 1, 1),
            each(_quantized_static(engine)),
        )
        for engine in ("x86", "onednn")
    ),
    *(
        Contender(
            f"onednn::qlinear_pointwise to {name}",
            "static",
            "static",
            ItemSizes(1, 1, dtype.itemsize),
            each(_qlinear_pointwise(dtype)),
        )
        for name, dtype in (("float32", torch.float32), ("uint8", torch.uint8))
    ),
    *(
        Contender(
            f"quantized::linear_dynamic {engine}",
            "dynamic",
            "real",
            _DYNAMIC,
            each(_quantized_dynamic(engine)),
        )
        for engine in ("x86", "onednn")
    ),
    Contender("torchao eager", "dynamic", "real", _DYNAMIC, each(_torchao)),
)
