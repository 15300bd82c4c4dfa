"""The operators of torchquant as contenders."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from contender import Contender, Group, ItemSizes, PrepareLayer, Ready, each
from problem import INPUT_SCALE, INPUT_ZERO_POINT, Operands, Problem
from torch import Tensor

from torchquant import ops


def _weight_sum(problem: Problem) -> Tensor:
    return problem.weight_codes.sum(dim=1, dtype=torch.int32)


def _matmul(problem: Problem, _threads: int) -> Ready:
    a, b = problem.signed_codes, problem.weight_codes.t()
    return Ready(lambda: ops.int8_matmul(a, b))


def _matmul_packed(problem: Problem, _threads: int) -> Ready:
    a, out_features = problem.codes, problem.shape.n
    packed, weight_sum = ops.pack_weight(problem.weight_codes), _weight_sum(problem)
    return Ready(lambda: ops.int8_matmul_packed(a, packed, out_features, weight_sum))


def _linear_dynamic(dtype: torch.dtype) -> PrepareLayer:
    def prepare(problem: Problem, _threads: int) -> Ready:
        x, scale, bias = problem.input.to(dtype), problem.weight_scale, problem.bias
        packed, weight_sum = ops.pack_weight(problem.weight_codes), _weight_sum(problem)
        return Ready(lambda: ops.linear_dynamic(x, packed, scale, weight_sum, bias))

    return prepare


def _linear_static(problem: Problem) -> Callable[..., Tensor]:
    """Bind all but the output's parameters."""
    inputs = (
        problem.codes,
        torch.tensor(INPUT_SCALE),
        torch.tensor(INPUT_ZERO_POINT, dtype=torch.int32),
        ops.pack_weight(problem.weight_codes),
        problem.weight_scale,
        _weight_sum(problem),
        problem.bias,
    )
    return lambda *output: ops.linear_static(*inputs, "none", *output)


def _linear_static_float(problem: Problem, _threads: int) -> Ready:
    return Ready(_linear_static(problem))


def _linear_static_uint8(problem: Problem, _threads: int) -> Ready:
    scale, zero_point = problem.output_qparams
    linear = _linear_static(problem)
    output = torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32)

    def read(codes: object) -> Tensor:
        return (cast(Tensor, codes).double() - zero_point) * scale

    return Ready(lambda: linear(*output), read)


def _ours(
    name: str, group: Group, operands: Operands, sizes: ItemSizes, prepare: PrepareLayer
) -> Contender:
    return Contender(name, group, operands, sizes, each(prepare), is_ours=True)


OURS = (
    _ours("int8_matmul", "exact", "signed", ItemSizes(1, 1, 4), _matmul),
    _ours("int8_matmul_packed", "exact", "unsigned", ItemSizes(1, 1, 4), _matmul_packed),
    _ours("linear_static to float32", "static", "static", ItemSizes(1, 1, 4), _linear_static_float),
    _ours("linear_static to uint8", "static", "static", ItemSizes(1, 1, 1), _linear_static_uint8),
    *(
        _ours(
            f"linear_dynamic {name}",
            "dynamic",
            "real",
            ItemSizes(dtype.itemsize, 1, dtype.itemsize),
            _linear_dynamic(dtype),
        )
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    ),
)
