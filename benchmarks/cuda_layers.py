"""INT8 products and linear layers on a card: ours, and what PyTorch offers for the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import torch
from contender import Dtypes, Group, name_of
from cuda_works import compiled
from problem import Shape, relative_error
from timing import Call
from torch import Tensor
from torch.nn import functional

from torchquant import ops

SHAPES = (
    Shape(64, 384, 1536),
    Shape(1, 4096, 4096),
    Shape(16, 4096, 4096),
    Shape(128, 4096, 4096),
    Shape(512, 4096, 4096),
    Shape(2048, 4096, 4096),
    Shape(4096, 4096, 11008),
    Shape(8192, 8192, 8192),
)
QUICK_SHAPES = (Shape(64, 384, 1536), Shape(1, 4096, 4096), Shape(2048, 4096, 4096))
TINY_SHAPE = Shape(32, 64, 64)

FEWEST_ROWS = 17  # torch._int_mm on CUDA takes no fewer
_PADDED_ROWS = 32
_END_ROWS = 8  # how many at each end are compared with float64, and with the CPU's
# Of the operands: int8 codes, a uint8 input's range of +-4 deviations, and an int8 output's.
_CODE_SCALE, _CODE_ZERO_POINT = 0.02, 5
_REAL_SCALE, _REAL_ZERO_POINT = 8 / 255, 128
_OUTPUT_SCALE, _OUTPUT_ZERO_POINT = 18 / 255, 3

Source = Literal["codes", "code values", "real"]


def end_rows_of(size: int) -> list[int]:
    """Return the indices of the first and the last rows."""
    return sorted({*range(min(size, _END_ROWS)), *range(max(0, size - _END_ROWS), size)})


@dataclass(frozen=True)
class Layer:
    """The operands of one linear layer.

    Attributes:
        real: bfloat16 input `[M, K]`.
        codes: int8 input `[M, K]`.
        weight: int8 `[N, K]`.
        scale: Of the weight, float32 `[N]`.
        bias: float32 `[N]`.
    """

    real: Tensor
    codes: Tensor
    weight: Tensor
    scale: Tensor
    bias: Tensor

    @classmethod
    def draw(cls, shape: Shape, device: torch.device, seed: int) -> Layer:
        """Return operands that use all of int8, with outputs of the order of 1."""
        options: dict[str, Any] = {
            "generator": torch.Generator(device).manual_seed(seed),
            "device": device,
        }
        m, k, n = shape.m, shape.k, shape.n
        return cls(
            torch.randn((m, k), **options).bfloat16(),
            torch.randint(-128, 128, (m, k), dtype=torch.int8, **options),
            torch.randint(-128, 128, (n, k), dtype=torch.int8, **options),
            torch.rand(n, **options).add(0.5).div(74 * k**0.5),
            torch.randn(n, **options),
        )

    @property
    def shape(self) -> Shape:
        """The sizes of the product."""
        m, k = self.codes.shape
        return Shape(m, k, self.weight.shape[0])

    @property
    def device(self) -> torch.device:
        """Where all of it lies."""
        return self.codes.device

    def end_rows(self, device: str | torch.device) -> Layer:
        """Return the layer with the first and last rows of its input, on a device."""
        rows = end_rows_of(self.shape.m)
        tensors = (self.real[rows], self.codes[rows], self.weight, self.scale, self.bias)
        return Layer(*(tensor.to(device) for tensor in tensors))

    @cached_property
    def packed(self) -> Tensor:
        """The packed weight."""
        return ops.pack_weight(self.weight)

    @cached_property
    def weight_sum(self) -> Tensor:
        """The sums of the weight's rows."""
        return self.weight.sum(dim=1, dtype=torch.int32)

    def weight_as(self, dtype: torch.dtype) -> Tensor:
        """Return the float weight that the codes and scales give."""
        return self.weight.float().mul_(self.scale[:, None]).to(dtype)

    def number(self, value: float, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a scale or a zero point as a tensor."""
        return torch.tensor(value, dtype=dtype, device=self.device)

    def expected(self, source: Source) -> Tensor:
        """Return the float64 product: of the codes as they are, or with scales and bias."""
        weight = self.weight.double().t()
        if source == "codes":
            return self.codes.double() @ weight
        values = self.real.double()
        if source == "code values":
            values = (self.codes.double() - _CODE_ZERO_POINT) * _CODE_SCALE
        return (values @ weight).mul_(self.scale.double()).add_(self.bias.double())


def _as_it_is(result: Tensor) -> Tensor:
    return result


def _dequantized(codes: Tensor) -> Tensor:
    return (codes.double() - _OUTPUT_ZERO_POINT) * _OUTPUT_SCALE


class Truth:
    """What the first and last rows of a layer's output are to be."""

    def __init__(self, layer: Layer) -> None:
        self._rows = end_rows_of(layer.shape.m)
        self._there = layer.end_rows(layer.device)
        self._expected: dict[Source, Tensor] = {}
        self.here = layer.end_rows("cpu")

    def rows(self, result: Tensor) -> Tensor:
        """Return the rows of a result that the truth is about."""
        return result[self._rows]

    def error(self, rows: Tensor, source: Source) -> float:
        """Return the error relative to the float64 product."""
        if source not in self._expected:
            self._expected[source] = self._there.expected(source)
        return relative_error(rows, self._expected[source])


@dataclass(frozen=True)
class Contender:
    """One way to compute it.

    Attributes:
        bind: Makes a call as a user would write it, all that is done once being done before.
        source: Of what its result is the product.
        read: What the call returned, as real values.
        is_compiled: Whether it takes seconds to prepare.
        few_rows: What is worth knowing about it below FEWEST_ROWS.
    """

    name: str
    group: Group
    dtypes: Dtypes
    bind: Callable[[Layer], Call]
    source: Source
    read: Callable[[Any], Tensor] = _as_it_is
    is_ours: bool = False
    is_compiled: bool = False
    few_rows: str = ""

    def moved_bytes(self, shape: Shape) -> int:
        """Return the least that a call moves: the weight, the input and the output."""
        row = shape.k * self.dtypes.input.itemsize + shape.n * self.dtypes.output.itemsize
        return shape.k * shape.n * self.dtypes.weight.itemsize + shape.m * row


# Ours.


def _matmul(layer: Layer) -> Call:
    return partial(ops.int8_matmul, layer.codes, layer.weight.t())


def _matmul_packed(layer: Layer) -> Call:
    arguments = (layer.codes, layer.packed, layer.shape.n, layer.weight_sum)
    return partial(ops.int8_matmul_packed, *arguments)


def _weights(layer: Layer) -> tuple[Tensor, ...]:
    return layer.packed, layer.scale, layer.weight_sum, layer.bias


def _linear_dynamic(layer: Layer) -> Call:
    packed, scale, weight_sum, bias = _weights(layer)
    return partial(ops.linear_dynamic, layer.real, packed, scale, weight_sum, bias)


def _linear_static(source: torch.dtype, target: torch.dtype, layer: Layer) -> Call:
    is_coded = source == torch.int8
    x = layer.codes if is_coded else layer.real
    input_scale = layer.number(_CODE_SCALE if is_coded else _REAL_SCALE)
    input_zero_point = layer.number(_CODE_ZERO_POINT if is_coded else _REAL_ZERO_POINT, torch.int32)
    packed, scale, weight_sum, bias = _weights(layer)
    call = partial(
        ops.linear_static, x, input_scale, input_zero_point, packed, scale, weight_sum, bias
    )
    if target != torch.int8:
        return partial(call, output_dtype=target)
    return partial(
        call,
        output_scale=layer.number(_OUTPUT_SCALE),
        output_zero_point=layer.number(_OUTPUT_ZERO_POINT, torch.int32),
        output_dtype=target,
    )


# What one would write around torch._int_mm.


def _int_mm(codes: Tensor, weight: Tensor) -> Tensor:
    """Multiply, with rows of zeros where there are too few for torch._int_mm."""
    rows = codes.shape[0]
    if rows >= FEWEST_ROWS:
        return torch._int_mm(codes, weight)
    padded = functional.pad(codes, (0, 0, 0, _PADDED_ROWS - rows))
    return torch._int_mm(padded, weight)[:rows]


def _scaled_dynamic(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Quantize each row symmetrically, multiply, scale."""
    row_scale = x.abs().amax(-1, keepdim=True).float().clamp(min=2.0**-126) / 127
    codes = torch.round(x / row_scale).to(torch.int8)
    return (_int_mm(codes, weight).float() * row_scale * scale + bias).to(x.dtype)


def _scaled_static(codes: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Multiply and scale, the zero point being in the bias."""
    return (_int_mm(codes, weight).float() * scale + bias).bfloat16()


def _rescaled_static(codes: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Multiply and scale to codes, both zero points being in the bias."""
    scaled = _int_mm(codes, weight).float() * scale + bias
    return torch.round(scaled).clamp(-128, 127).to(torch.int8)


def _bind_scaled_dynamic(layer: Layer) -> partial[Tensor]:
    return partial(_scaled_dynamic, layer.real, layer.weight.t(), layer.scale, layer.bias)


def _static_factors(layer: Layer) -> tuple[Tensor, Tensor]:
    """Return what the product is multiplied by, and what is added then."""
    scale = layer.scale * _CODE_SCALE
    return scale, layer.bias - _CODE_ZERO_POINT * scale * layer.weight_sum


def _bind_scaled_static(layer: Layer) -> partial[Tensor]:
    return partial(_scaled_static, layer.codes, layer.weight.t(), *_static_factors(layer))


def _bind_rescaled_static(layer: Layer) -> partial[Tensor]:
    scale, bias = (factor / _OUTPUT_SCALE for factor in _static_factors(layer))
    bias += _OUTPUT_ZERO_POINT
    return partial(_rescaled_static, layer.codes, layer.weight.t(), scale, bias)


def _bind_compiled(bind: Callable[[Layer], partial[Tensor]], layer: Layer) -> Call:
    call = bind(layer)
    return partial(compiled(call.func), *call.args)


def _bind_int_mm(layer: Layer) -> Call:
    return partial(torch._int_mm, layer.codes, layer.weight.t())


def _bind_linear(dtype: torch.dtype, layer: Layer) -> Call:
    weight, bias = layer.weight_as(dtype), layer.bias.to(dtype)
    return partial(functional.linear, layer.real.to(dtype), weight, bias)


_BFLOAT16, _FLOAT16, _INT8, _INT32 = torch.bfloat16, torch.float16, torch.int8, torch.int32
_PADDED = f"rows padded to {_PADDED_ROWS}"


def _static(source: torch.dtype, target: torch.dtype) -> Contender:
    return Contender(
        f"linear_static {name_of(source)} to {name_of(target)}",
        "static",
        Dtypes(source, target),
        partial(_linear_static, source, target),
        "code values" if source == _INT8 else "real",
        _dequantized if target == _INT8 else _as_it_is,
        is_ours=True,
    )


def _scaled(
    group: Group, dtypes: Dtypes, bind: Callable[[Layer], partial[Tensor]]
) -> tuple[Contender, Contender]:
    """Return what is written around torch._int_mm, eager and compiled."""
    eager = Contender(
        f"torch._int_mm + scaling, {group} to {name_of(dtypes.output)}",
        group,
        dtypes,
        bind,
        "real" if group == "dynamic" else "code values",
        _dequantized if dtypes.output == _INT8 else _as_it_is,
        few_rows=_PADDED,
    )
    name, bind_compiled = f"{eager.name}, compiled", partial(_bind_compiled, bind)
    return eager, replace(eager, name=name, bind=bind_compiled, is_compiled=True)


_PRODUCT = Dtypes(_INT8, _INT32)
CONTENDERS: tuple[Contender, ...] = (
    *(
        Contender(
            f"F.linear {name_of(dtype)}",
            "float",
            Dtypes(dtype, dtype, dtype),
            partial(_bind_linear, dtype),
            "real",
        )
        for dtype in (_BFLOAT16, _FLOAT16)
    ),
    Contender("int8_matmul", "exact", _PRODUCT, _matmul, "codes", is_ours=True),
    Contender("int8_matmul_packed", "exact", _PRODUCT, _matmul_packed, "codes", is_ours=True),
    Contender("torch._int_mm", "exact", _PRODUCT, _bind_int_mm, "codes"),
    Contender(
        "linear_dynamic bfloat16",
        "dynamic",
        Dtypes(_BFLOAT16, _BFLOAT16),
        _linear_dynamic,
        "real",
        is_ours=True,
    ),
    *_scaled("dynamic", Dtypes(_BFLOAT16, _BFLOAT16), _bind_scaled_dynamic),
    *(
        _static(source, target)
        for source, target in ((_INT8, _BFLOAT16), (_BFLOAT16, _BFLOAT16), (_INT8, _INT8))
    ),
    *_scaled("static", Dtypes(_INT8, _BFLOAT16), _bind_scaled_static),
    *_scaled("static", Dtypes(_INT8, _INT8), _bind_rescaled_static),
)
FLOAT_NAME = "F.linear bfloat16"
