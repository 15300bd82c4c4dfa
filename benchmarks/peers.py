"""What PyTorch itself, and torchao, offer for the same: each prepared as its documents say."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import cast

import torch
from contender import Contender, Dtypes, PrepareLayer, Ready, dequantized, each, name_of
from problem import INPUT_SCALE, INPUT_ZERO_POINT, Problem
from torch import Tensor, nn


def _linear_float(dtype: torch.dtype) -> PrepareLayer:
    def prepare(problem: Problem, _threads: int) -> Ready:
        x = problem.inputs.real[dtype]
        weight, bias = problem.weight.to(dtype), problem.bias.to(dtype)
        return Ready(lambda: nn.functional.linear(x, weight, bias))

    return prepare


def _int_mm(problem: Problem, _threads: int) -> Ready:
    a, b = problem.inputs.signed_codes, problem.weight_codes.t()
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
            x, packed = problem.inputs.real[torch.float32], _quantized_weight(problem)
        linear = torch.ops.quantized.linear_dynamic
        return Ready(lambda: linear(x, packed, False))  # reduce_range=False

    return prepare


def _quantized_static(engine: str) -> PrepareLayer:
    def prepare(problem: Problem, _threads: int) -> Ready:
        scale, zero_point = problem.output_qparams
        with _quantized_tensors(engine):
            packed = _quantized_weight(problem)
            x = torch._make_per_tensor_quantized_tensor(
                problem.inputs.codes, INPUT_SCALE, INPUT_ZERO_POINT
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
        x, weight_scale, bias = problem.inputs.codes, problem.weight_scale, problem.bias
        packed = torch.ops.onednn.qlinear_prepack(problem.weight_codes, list(x.shape))
        zero_points = torch.zeros(problem.shape.n, dtype=torch.int32)
        linear = torch.ops.onednn.qlinear_pointwise.default
        weights = (packed, weight_scale, zero_points, bias)
        no_arguments: list[float] = []
        output = (scale, zero_point, dtype, "none", no_arguments, "")
        return Ready(
            lambda: linear(x, INPUT_SCALE, INPUT_ZERO_POINT, *weights, *output),
            dequantized(scale, zero_point),
        )

    return prepare


def _torchao(problem: Problem, _threads: int) -> Ready:
    quantization = import_module("torchao.quantization")
    layer = nn.Linear(problem.shape.k, problem.shape.n).requires_grad_(False)
    layer.weight.copy_(problem.weight)
    cast(Tensor, layer.bias).copy_(problem.bias)
    quantization.quantize_(layer, quantization.Int8DynamicActivationInt8WeightConfig())
    x = problem.inputs.real[torch.float32]
    return Ready(lambda: layer(x))


_FLOAT32, _UINT8 = torch.float32, torch.uint8
_FLOATS, _CODES = Dtypes(_FLOAT32, _FLOAT32), Dtypes(_UINT8, _UINT8)
_ENGINES = ("x86", "onednn")

PEERS = (
    *(
        Contender(
            f"F.linear {name_of(dtype)}",
            "float",
            Dtypes(dtype, dtype, dtype),
            each(_linear_float(dtype)),
        )
        for dtype in (_FLOAT32, torch.bfloat16)
    ),
    Contender("torch._int_mm", "exact", Dtypes(torch.int8, torch.int32), each(_int_mm)),
    *(
        Contender(f"quantized::linear {name}", "static", _CODES, each(_quantized_static(name)))
        for name in _ENGINES
    ),
    *(
        Contender(
            f"onednn::qlinear_pointwise to {name_of(dtype)}",
            "static",
            Dtypes(_UINT8, dtype),
            each(_qlinear_pointwise(dtype)),
        )
        for dtype in (_FLOAT32, _UINT8)
    ),
    *(
        Contender(
            f"quantized::linear_dynamic {name}", "dynamic", _FLOATS, each(_quantized_dynamic(name))
        )
        for name in _ENGINES
    ),
    Contender("torchao eager", "dynamic", _FLOATS, each(_torchao)),
)
