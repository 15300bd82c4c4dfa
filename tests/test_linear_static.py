"""linear_static: the bits that the same steps give when taken one by one in PyTorch."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import reference
import torch
from operator_tests import OperatorTests, assert_same, operator
from samples import BF16, F16, I8, I32, U8, bytes_, floats, quantized_linear
from torch import Tensor

DYNAMIC = torch.export.Dim.DYNAMIC
F32 = torch.float32
FLOATS = [F32, F16, BF16]
INPUTS = [*FLOATS, U8, I8]
SCALE, ZERO_POINT = torch.tensor(0.041), torch.tensor(119, dtype=I32)
TO = (torch.tensor(0.9), torch.tensor(7, dtype=I32))
# How a result may leave: output_scale, output_zero_point, output_dtype.
OUTPUTS = [
    (None, None, None),
    (None, None, F32),
    (None, None, F16),
    (None, None, BF16),
    (*TO, None),
    (*TO, U8),
    (*TO, I8),
]


def linear_static(*arguments: Any, **keywords: Any) -> Tensor:
    return operator("linear_static")(*arguments, **keywords)


def inputs(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    if dtype in FLOATS:
        return floats(*shape, dtype=dtype, seed=seed)
    return bytes_(*shape, dtype=dtype, seed=seed)


def check(
    x: Tensor,
    out_features: int,
    activation: str = "none",
    bias: bool = True,
    to: tuple[Any, ...] = (None, None, None),
) -> None:
    layer = quantized_linear(out_features, x.shape[-1])
    biases = floats(out_features, seed=3) if bias else None
    arguments = (x, SCALE, ZERO_POINT, *layer, biases, activation, *to)
    assert_same(linear_static(*arguments), reference.linear_static(*arguments))


class TestLinearStatic(OperatorTests):
    name = "linear_static"

    def exported(self) -> Any:
        linear, bias = quantized_linear(35, 70), floats(35)

        def function(x: Tensor) -> Any:
            float_result = operator(self.name)(x, SCALE, ZERO_POINT, *linear, bias, "relu")
            return float_result, operator(self.name)(
                x, SCALE, ZERO_POINT, *linear, bias, "none", *TO
            )

        shapes = ({0: DYNAMIC, 1: DYNAMIC},)
        return function, (floats(3, 5, 70),), (floats(2, 17, 70),), shapes


@pytest.mark.parametrize("dtype", INPUTS)
@pytest.mark.parametrize("in_features", [*range(10), 63, 64, 65, 255, 256, 257])
def test_every_depth(in_features: int, dtype: torch.dtype) -> None:
    check(inputs(7, in_features, dtype=dtype), 33)


@pytest.mark.parametrize("to", OUTPUTS)
@pytest.mark.parametrize("out_features", [0, 1, 7, 15, 16, 17, 31, 33, 47, 49, 63, 64, 65, 100])
def test_every_width(out_features: int, to: tuple[Any, ...]) -> None:
    check(bytes_(6, 37, dtype=U8), out_features, to=to)
    check(floats(6, 37), out_features, "relu", bias=False, to=to)


@pytest.mark.parametrize("dtype", INPUTS)
@pytest.mark.parametrize("rows", [*range(20), 100])
def test_every_number_of_rows(rows: int, dtype: torch.dtype) -> None:
    check(inputs(rows, 37, dtype=dtype), 49)
    check(inputs(rows, 36, dtype=dtype), 49, "relu", to=(*TO, I8))


@pytest.mark.parametrize("dtype", INPUTS)
@pytest.mark.parametrize("to", OUTPUTS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_every_way_in_and_out(
    activation: str, bias: bool, to: tuple[Any, ...], dtype: torch.dtype
) -> None:
    for shape in [(70,), (1, 70), (9, 70), (2, 3, 70), (2, 0, 70)]:
        check(inputs(*shape, dtype=dtype), 35, activation, bias, to)


@pytest.mark.parametrize("dtype", INPUTS)
@pytest.mark.parametrize(
    ("rows", "in_features", "out_features"),
    [(131, 517, 270), (131, 4100, 50), (3000, 5, 3), (5, 300, 1030)],
    ids=["middling", "deep", "tall", "wide"],
)
def test_many_blocks_over_both_threads(
    rows: int, in_features: int, out_features: int, dtype: torch.dtype
) -> None:
    check(inputs(rows, in_features, dtype=dtype), out_features, "relu", to=(*TO, U8))
    check(inputs(rows, in_features, dtype=dtype), out_features)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_equals_the_same_steps_in_pytorch(dtype: torch.dtype, activation: str) -> None:
    """What the fused operator replaces, spelled with torch's own operations."""
    x = floats(9, 70, dtype=dtype)
    packed, weight_scale, weight_sum = quantized_linear(35, 70)
    bias = floats(35)
    q = ((x.float() * (1 / SCALE)).round() + ZERO_POINT).clamp(0, 255).int()
    weight = reference.unpack_weight(packed, 35, 70).int()
    accumulator = (q[:, None] * weight).sum(2, dtype=I32)
    y = (accumulator - ZERO_POINT * weight_sum).float() * SCALE * weight_scale + bias
    if activation == "relu":
        y = y.relu()
    layer = (packed, weight_scale, weight_sum, bias, activation)
    assert_same(linear_static(x, SCALE, ZERO_POINT, *layer), y.to(dtype))
    expected = ((y * (1 / TO[0])).round() + TO[1]).clamp(-128, 127).to(I8)
    assert_same(linear_static(x, SCALE, ZERO_POINT, *layer, *TO, I8), expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("out_dtype", [U8, I8])
def test_equals_the_operators_it_fuses(
    out_dtype: torch.dtype, activation: str, dtype: torch.dtype
) -> None:
    """A float input quantized beforehand, and a float result quantized afterwards."""
    ops = torch.ops.torchquant
    x, layer = floats(4, 5, 70, dtype=dtype), (*quantized_linear(35, 70), floats(35), activation)
    codes = ops.quantize_per_tensor(x, SCALE, ZERO_POINT, 0, 255, U8)
    y = linear_static(codes, SCALE, ZERO_POINT, *layer)
    assert_same(linear_static(x, SCALE, ZERO_POINT, *layer), y.to(dtype))
    limits = torch.iinfo(out_dtype)
    expected = ops.quantize_per_tensor(y, *TO, limits.min, limits.max, out_dtype)
    assert_same(linear_static(x, SCALE, ZERO_POINT, *layer, *TO, out_dtype), expected)


def test_int8_input_is_the_uint8_input_shifted() -> None:
    """real = scale * (q - zero_point): 128 less in both changes nothing."""
    layer = quantized_linear(35, 70)
    x = bytes_(9, 70, dtype=U8)
    signed = (x.int() - 128).to(I8)
    assert_same(
        linear_static(signed, SCALE, ZERO_POINT - 128, *layer),
        linear_static(x, SCALE, ZERO_POINT, *layer),
    )


def test_layers_in_8_bits_equal_layers_with_floats_between() -> None:
    """The requantized output of one layer is the 8-bit input of the next."""
    first, second = quantized_linear(48, 70), quantized_linear(35, 48, seed=1)
    x = floats(9, 70)
    codes = linear_static(x, SCALE, ZERO_POINT, *first, None, "relu", *TO)
    assert codes.dtype == U8
    floats_between = linear_static(x, SCALE, ZERO_POINT, *first, None, "relu")
    assert_same(linear_static(codes, *TO, *second), linear_static(floats_between, *TO, *second))


def test_every_kind_of_scale_and_zero_point() -> None:
    """Values inside these tensors never raise: they have the contract's results."""
    layer, bias = quantized_linear(35, 70), floats(35, seed=3)
    scales = [0.0, -0.04, math.nan, math.inf, 1e-45, reference.FLT_MIN, reference.FLT_MAX, 0.04]
    zero_points = [0, -1, 255, 1 << 23, (1 << 23) + 1, -(1 << 30), 2**31 - 1, -(2**31)]
    for scale, zero_point in itertools.product(scales, zero_points):
        qparams = (torch.tensor(scale), torch.tensor(zero_point, dtype=I32))
        for x in (floats(9, 70), bytes_(9, 70), bytes_(9, 70, dtype=U8)):
            arguments = (x, *qparams, *layer, bias)
            assert_same(linear_static(*arguments), reference.linear_static(*arguments))
            requantized = (x, SCALE, ZERO_POINT, *layer, bias, "none", *qparams)
            assert_same(linear_static(*requantized), reference.linear_static(*requantized))


@pytest.mark.parametrize("dtype", FLOATS)
def test_bad_inputs_have_the_codes_of_the_contract(dtype: torch.dtype) -> None:
    """NaN is quantized to 0, infinities saturate; with a known scale no row turns NaN."""
    x = floats(9, 70, dtype=dtype)
    x[0, 3], x[4, 69], x[8, 0] = math.nan, math.inf, -math.inf
    check(x, 35)
    check(x, 35, "relu", to=(*TO, I8))


def test_results_that_are_nan_become_quant_min() -> None:
    packed, weight_scale, weight_sum = quantized_linear(35, 70)
    weight_scale[3] = math.nan
    layer = (packed, weight_scale, weight_sum, floats(35))
    for dtype, least in ((U8, 0), (I8, -128)):
        for activation in ("none", "relu"):
            arguments = (floats(9, 70), SCALE, ZERO_POINT, *layer, activation, *TO, dtype)
            result = linear_static(*arguments)
            assert (result[:, 3] == least).all()
            assert_same(result, reference.linear_static(*arguments))


def test_saturates_at_both_ends() -> None:
    layer, x = quantized_linear(35, 70), floats(9, 70)
    tiny = torch.tensor(1e-6)
    result = linear_static(x, SCALE, ZERO_POINT, *layer, None, "none", tiny, TO[1], I8)
    assert set(result.unique().tolist()) == {-128, 127}
    check(x, 35, to=(tiny, TO[1], I8))


def test_the_deepest_sums() -> None:
    """All ends of both ranges, as deep as is allowed."""
    for dtype, depth in ((U8, 65793), (I8, 131071)):
        weight = torch.full((17, depth), -128, dtype=I8)
        x = torch.full((2, depth), 255 if dtype == U8 else -128, dtype=dtype)
        sums = weight.sum(1, dtype=I32)
        layer = (reference.pack_weight(weight), torch.ones(17), sums)
        zero = torch.tensor(0, dtype=I32)
        arguments = (x, torch.tensor(1.0), zero, *layer)
        assert_same(linear_static(*arguments), reference.linear_static(*arguments))


@pytest.mark.parametrize("dtype", INPUTS)
def test_any_strides_of_the_input(dtype: torch.dtype) -> None:
    base = inputs(6, 8, 12, dtype=dtype)
    for x in (
        base.transpose(0, 2),
        base[::2, 1::3, ::4],
        base[:, :, 3],
        base[:, :, :4],
        base[:1, :, :1].expand(5, 8, 7),
        base[0, :1].expand(8, 12),
        base.as_strided((1, 8, 1), (0, 12, 0)),
        base.as_strided((8, 1), (12, 0)),
    ):
        check(x, 21, to=(*TO, U8))
        check(x, 21)


def test_any_strides_of_the_layer() -> None:
    packed, weight_scale, weight_sum = quantized_linear(35, 70)
    x, bias = bytes_(9, 70), floats(35)
    expected = reference.linear_static(
        x, SCALE, ZERO_POINT, packed, weight_scale, weight_sum, bias, "none", *TO
    )
    result = linear_static(
        x,
        SCALE.reshape(1, 1),
        ZERO_POINT.expand(1),
        packed.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        weight_scale.repeat_interleave(2)[::2],
        weight_sum.repeat_interleave(3)[::3],
        bias[:, None].expand(35, 2)[:, 1],
        "none",
        TO[0].reshape(1),
        TO[1].reshape(1, 1),
    )
    assert_same(result, expected)


def test_is_close_to_the_float_layer() -> None:
    """8-bit weights, inputs and outputs of normal data: about 1 % of the output's size each, and
    3 % allowed together."""
    torch.manual_seed(0)
    ops = torch.ops.torchquant
    linear, x = torch.nn.Linear(256, 64), torch.randn(50, 256)
    weight = linear.weight.detach()
    weight_scale, zero_point = ops.choose_qparams_per_channel(weight, 0, -128, 127, True)
    q = ops.quantize_per_channel(weight, weight_scale, zero_point, 0, -128, 127, I8)
    layer = (ops.pack_weight(q), weight_scale, q.sum(1, dtype=I32), linear.bias.detach())
    expected = linear(x).detach()
    from_ = ops.choose_qparams_per_tensor(x, 0, 255, False)
    to = ops.choose_qparams_per_tensor(expected, 0, 255, False)
    codes = linear_static(x, *from_, *layer, "none", *to)
    result = ops.dequantize_per_tensor(codes, *to)
    assert (result - expected).norm() < 0.03 * expected.norm()


def test_layers_without_inputs_give_the_bias() -> None:
    packed = operator("pack_weight")(torch.empty(5, 0, dtype=I8))
    layer = (packed, torch.ones(5), torch.zeros(5, dtype=torch.int32), floats(5))
    result = linear_static(torch.empty(3, 0), SCALE, ZERO_POINT, *layer)
    assert_same(result, layer[3].expand(3, 5).contiguous())


def test_a_narrower_input_meets_zeros_beyond_its_end() -> None:
    """10 inputs and 12 pack alike: the operator takes the width of the input."""
    weight = bytes_(35, 12)
    packed, sums = reference.pack_weight(weight), weight.sum(1, dtype=torch.int32)
    for dtype in FLOATS:
        arguments = (floats(9, 10, dtype=dtype), SCALE, ZERO_POINT, packed, torch.ones(35), sums)
        assert_same(linear_static(*arguments), reference.linear_static(*arguments))


@pytest.mark.any_kernels
def test_compiled_with_dynamic_rows_compiles_once() -> None:
    layer = quantized_linear(35, 70)
    torch.compiler.reset()
    compiled = torch.compile(
        lambda x: linear_static(x, SCALE, ZERO_POINT, *layer, None, "relu", *TO),
        fullgraph=True,
        dynamic=True,
        backend="aot_eager",
    )
    compiled(floats(6, 70))
    with torch.compiler.set_stance("fail_on_recompile"):
        for rows in (7, 20):
            x = floats(rows, 70)
            arguments = (x, SCALE, ZERO_POINT, *layer, None, "relu", *TO)
            assert_same(compiled(x), reference.linear_static(*arguments))


def test_relu_keeps_a_negative_zero_as_torch_does() -> None:
    weight = torch.tensor([[-59]], dtype=torch.int8)
    packed, sums = torch.ops.torchquant.pack_weight(weight), weight.sum(1, dtype=torch.int32)
    scale, zero_point = torch.tensor(1.9), torch.tensor(6, dtype=torch.int32)
    arguments = (torch.tensor([[3.7]]), scale, zero_point, packed, torch.zeros(1), sums)
    result = torch.ops.torchquant.linear_static(*arguments, None, "relu")
    assert_same(result, torch.relu(torch.tensor([[-0.0]])))
    assert_same(result, reference.linear_static(*arguments, None, "relu"))
    assert torch.signbit(result).item()
