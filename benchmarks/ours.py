"""The operators of torchquant as contenders."""

from __future__ import annotations

from itertools import product

import torch
from contender import Contender, Dtypes, Group, PrepareLayer, Ready, dequantized, each, name_of
from problem import INPUT_SCALE, INPUT_ZERO_POINT, Problem
from torch import Tensor

from torchquant import ops


def _pack(problem: Problem) -> tuple[Tensor, Tensor]:
    """Return the packed weight, and the sums of its rows."""
    codes = problem.weight_codes
    return ops.pack_weight(codes), codes.sum(dim=1, dtype=torch.int32)


def _matmul(problem: Problem, _threads: int) -> Ready:
    a, b = problem.inputs.signed_codes, problem.weight_codes.t()
    return Ready(lambda: ops.int8_matmul(a, b))


def _matmul_packed(problem: Problem, _threads: int) -> Ready:
    a, out_features = problem.inputs.codes, problem.shape.n
    packed, weight_sum = _pack(problem)
    return Ready(lambda: ops.int8_matmul_packed(a, packed, out_features, weight_sum))


def _linear_dynamic(dtype: torch.dtype) -> PrepareLayer:
    def prepare(problem: Problem, _threads: int) -> Ready:
        x, scale, bias = problem.inputs.real[dtype], problem.weight_scale, problem.bias
        packed, weight_sum = _pack(problem)
        return Ready(lambda: ops.linear_dynamic(x, packed, scale, weight_sum, bias))

    return prepare


def _linear_static(source: torch.dtype, target: torch.dtype) -> PrepareLayer:
    def prepare(problem: Problem, _threads: int) -> Ready:
        inputs = problem.inputs
        x = inputs.codes if source == torch.uint8 else inputs.static
        x_scale = torch.tensor(INPUT_SCALE)
        x_zero_point = torch.tensor(INPUT_ZERO_POINT, dtype=torch.int32)
        packed, weight_sum = _pack(problem)
        weight = (packed, problem.weight_scale, weight_sum, problem.bias)
        if target == torch.float32:
            return Ready(lambda: ops.linear_static(x, x_scale, x_zero_point, *weight))
        scale, zero_point = problem.output_qparams
        output = (torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32))
        return Ready(
            lambda: ops.linear_static(x, x_scale, x_zero_point, *weight, "none", *output),
            dequantized(scale, zero_point),
        )

    return prepare


def _ours(name: str, group: Group, dtypes: Dtypes, prepare: PrepareLayer) -> Contender:
    return Contender(name, group, dtypes, each(prepare), is_ours=True)


_FLOAT32, _UINT8 = torch.float32, torch.uint8

OURS = (
    _ours("int8_matmul", "exact", Dtypes(torch.int8, torch.int32), _matmul),
    _ours("int8_matmul_packed", "exact", Dtypes(_UINT8, torch.int32), _matmul_packed),
    *(
        _ours(
            f"linear_static {name_of(source)} to {name_of(target)}",
            "static",
            Dtypes(source, target),
            _linear_static(source, target),
        )
        for source, target in product((_UINT8, _FLOAT32), (_FLOAT32, _UINT8))
    ),
    *(
        _ours(
            f"linear_dynamic {name_of(dtype)}",
            "dynamic",
            Dtypes(dtype, dtype),
            _linear_dynamic(dtype),
        )
        for dtype in (_FLOAT32, torch.bfloat16)
    ),
)
