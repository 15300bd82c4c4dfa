"""linear_dynamic: the bits that the same steps give when taken one by one in PyTorch."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import reference
import torch
from operator_tests import OperatorTests, assert_same, operator
from samples import BF16, F16, I8, U8, bytes_, floats, quantized_linear, scales
from torch import Tensor

DYNAMIC = torch.export.Dim.DYNAMIC
FLT_MIN, FLT_MAX = reference.FLT_MIN, reference.FLT_MAX
FLOATS = [torch.float32, F16, BF16]
DEPTHS = [*range(10), 63, 64, 65, 255, 256, 257]
WIDTHS = [0, 1, 15, 16, 17, 31, 33, 47, 48, 49, 63, 64, 65, 100]
ROWS = [*range(15), 100]


def linear_dynamic(*arguments: Any, **keywords: Any) -> Tensor:
    return operator("linear_dynamic")(*arguments, **keywords)


def check(x: Tensor, out_features: int, activation: str = "none", bias: bool = True) -> None:
    arguments = (
        x,
        *quantized_linear(out_features, x.shape[-1]),
        floats(out_features, seed=3) if bias else None,
        activation,
    )
    assert_same(linear_dynamic(*arguments), reference.linear_dynamic(*arguments))


class TestLinearDynamic(OperatorTests):
    name = "linear_dynamic"

    def exported(self) -> Any:
        linear, bias = quantized_linear(35, 70), floats(35)

        def function(x: Tensor) -> Any:
            return operator(self.name)(x, *linear, bias, "relu")

        shapes = ({0: DYNAMIC, 1: DYNAMIC},)
        return function, (floats(3, 5, 70),), (floats(2, 17, 70),), shapes

    def test_exports_with_dynamic_features(self) -> None:
        class Module(torch.nn.Module):
            def forward(self, *arguments: Tensor) -> Any:
                return torch.ops.torchquant.linear_dynamic(*arguments)

        def call(rows: int, out_features: int, in_features: int) -> tuple[Tensor, ...]:
            linear = quantized_linear(out_features, in_features)
            return floats(rows, in_features), *linear, floats(out_features)

        one = {0: DYNAMIC}
        shapes = ({0: DYNAMIC, 1: DYNAMIC}, {0: DYNAMIC, 1: DYNAMIC}, one, one, one)
        first, other = call(3, 35, 70), call(5, 50, 21)
        program = torch.export.export(Module(), first, dynamic_shapes=(shapes,))
        for arguments in (first, other):
            assert_same(program.module()(*arguments), reference.linear_dynamic(*arguments))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("in_features", DEPTHS)
def test_every_depth(in_features: int, dtype: torch.dtype) -> None:
    check(floats(7, in_features, dtype=dtype), 33)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("out_features", WIDTHS)
def test_every_width(out_features: int, dtype: torch.dtype) -> None:
    check(floats(6, 37, dtype=dtype), out_features)
    check(floats(6, 37, dtype=dtype), out_features, "relu", bias=False)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rows", ROWS)
def test_every_number_of_rows(rows: int, dtype: torch.dtype) -> None:
    check(floats(rows, 37, dtype=dtype), 49)
    check(floats(rows, 37, dtype=dtype), 49, "relu")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("shape", [(70,), (1, 70), (9, 70), (2, 3, 70), (2, 0, 70), (2, 1, 3, 70)])
def test_every_input_shape(
    shape: tuple[int, ...], activation: str, bias: bool, dtype: torch.dtype
) -> None:
    check(floats(*shape, dtype=dtype), 35, activation, bias)


@pytest.mark.parametrize(
    ("rows", "in_features", "out_features"),
    [(131, 517, 270), (131, 4100, 50), (3000, 5, 3), (5, 300, 1030)],
    ids=["middling", "deep", "tall", "wide"],
)
def test_many_blocks_over_both_threads(rows: int, in_features: int, out_features: int) -> None:
    check(floats(rows, in_features), out_features)
    check(floats(rows, in_features), out_features, "relu")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_equals_the_same_steps_in_pytorch(dtype: torch.dtype, activation: str) -> None:
    """What the fused operator replaces, spelled with torch's own operations."""
    x = floats(9, 70, dtype=dtype)
    packed, weight_scale, weight_sum = quantized_linear(35, 70)
    bias = floats(35)
    x32 = x.float()
    low, high = x32.amin(1, True).clamp(max=0).double(), x32.amax(1, True).clamp(min=0).double()
    scale = (high - low) / 255
    zero_point = (0 - (low / scale).round()).clamp(0, 255).int()
    scale = scale.float()
    q = ((x32 * (1 / scale)).round() + zero_point).clamp(0, 255).int()
    weight = reference.unpack_weight(packed, 35, 70).int()
    accumulator = (q[:, None] * weight).sum(2, dtype=torch.int32)
    y = (accumulator - zero_point * weight_sum).float() * scale * weight_scale + bias
    if activation == "relu":
        y = y.relu()
    result = linear_dynamic(x, packed, weight_scale, weight_sum, bias, activation)
    assert_same(result, y.to(dtype))


@pytest.mark.parametrize("dtype", FLOATS)
def test_equals_the_operators_it_fuses(dtype: torch.dtype) -> None:
    ops = torch.ops.torchquant
    x = floats(4, 5, 70, dtype=dtype)
    packed, weight_scale, weight_sum = quantized_linear(35, 70)
    scale, zero_point = ops.choose_qparams_per_token(x, 0, 255, False)
    q = ops.quantize_per_token(x, scale, zero_point, 0, 255, U8)
    accumulator = ops.int8_matmul_packed(q, packed, 35)
    y = (accumulator - zero_point * weight_sum).float() * scale * weight_scale
    assert_same(linear_dynamic(x, packed, weight_scale, weight_sum), y.to(dtype))


def test_is_close_to_the_float_layer() -> None:
    """8-bit weights and activations of normal data: about 1 % of the output's size; 2 % allowed."""
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(256, 64), torch.randn(50, 256)
    weight = linear.weight.detach()
    scale, zero_point = torch.ops.torchquant.choose_qparams_per_channel(weight, 0, -128, 127, True)
    q = torch.ops.torchquant.quantize_per_channel(weight, scale, zero_point, 0, -128, 127, I8)
    packed, weight_sum = torch.ops.torchquant.pack_weight(q), q.sum(1, dtype=torch.int32)
    result = linear_dynamic(x, packed, scale, weight_sum, linear.bias.detach())
    expected = linear(x).detach()
    assert (result - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_row_is_nan_and_touches_no_other(
    bad: float, activation: str, dtype: torch.dtype
) -> None:
    """Bad input is never turned into plausible numbers, and relu keeps NaN."""
    linear, bias = quantized_linear(35, 70), floats(35, seed=3)
    x = floats(13, 70, dtype=dtype)
    expected = linear_dynamic(x, *linear, bias, activation)
    for row, column in itertools.product((0, 5, 12), (0, 33, 69)):
        y = x.clone()
        y[row, column] = bad
        result = linear_dynamic(y, *linear, bias, activation)
        assert result[row].isnan().all()
        others = torch.arange(13) != row
        assert_same(result[others], expected[others])


@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_of_zeros_give_the_bias(dtype: torch.dtype) -> None:
    linear, bias = quantized_linear(35, 70), floats(35, seed=3)
    x = floats(5, 70, dtype=dtype)
    x[1], x[3] = 0.0, -0.0
    result = linear_dynamic(x, *linear, bias)
    assert_same(result[1], bias.to(dtype))
    assert_same(result[3], bias.to(dtype))
    assert_same(linear_dynamic(x, *linear)[1], torch.zeros(35, dtype=dtype))


def test_one_sided_rows() -> None:
    """Zero stays in the range: zero points 0 and 255."""
    for x in (floats(5, 70).abs() + 1, -floats(5, 70).abs() - 1):
        check(x, 35)


@pytest.mark.parametrize("size", [1e-45, 1e-39, FLT_MIN, 1e-30, 1e30, 1e38])
def test_rows_of_every_size(size: float) -> None:
    """From denormals, whose scale is held at FLT_MIN, to products that overflow."""
    x = (floats(5, 70) * size).clamp(-FLT_MAX, FLT_MAX)
    check(x, 35)
    check(x, 35, "relu")


def test_every_kind_of_weight_scale_and_bias() -> None:
    packed, _, weight_sum = quantized_linear(35, 70)
    kinds = [0.0, -0.5, math.nan, math.inf, -math.inf, 1e-45, FLT_MIN, FLT_MAX, 0.1]
    weight_scale = torch.tensor((kinds * 4)[:35])
    bias = torch.tensor((kinds[::-1] * 5)[3:38])
    for arguments in (
        (floats(9, 70), packed, weight_scale, weight_sum, bias),
        (floats(9, 70), packed, weight_scale, weight_sum, None),
        (floats(9, 70), packed, scales(35), weight_sum, bias),
    ):
        assert_same(linear_dynamic(*arguments), reference.linear_dynamic(*arguments))
        result = linear_dynamic(*arguments, activation="relu")
        expected = reference.linear_dynamic(*arguments, activation="relu")
        # relu of -0.0 is either zero: torch's own vectorised and scalar ones differ.
        assert_same(result + 0.0, expected + 0.0)


def test_relu_keeps_nan_of_every_origin() -> None:
    packed, weight_scale, weight_sum = quantized_linear(35, 70)
    weight_scale[3], bias = math.nan, floats(35)
    bias[20] = math.nan
    result = linear_dynamic(floats(7, 70), packed, weight_scale, weight_sum, bias, "relu")
    assert result.isnan().any(0).nonzero().flatten().tolist() == [3, 20]
    assert result[:, 3].isnan().all()
    assert (result[:, :3] >= 0).all()


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_the_output_is_rounded_once(dtype: torch.dtype) -> None:
    """Half outputs are the float32 ones rounded, though the bias is added before."""
    linear, bias = quantized_linear(35, 70), 100 * floats(35, seed=3)
    x = floats(9, 70, dtype=dtype)
    assert_same(
        linear_dynamic(x, *linear, bias), linear_dynamic(x.float(), *linear, bias).to(dtype)
    )


def test_half_overflow_is_infinite() -> None:
    linear = quantized_linear(35, 70)
    result = linear_dynamic(torch.full((3, 70), 6e4, dtype=F16), *linear)
    assert result.isinf().any()
    assert not result.isnan().any()


def test_extremes_of_activations_and_weights() -> None:
    """255 * -128 * 2 fits no 16 bits; the whole sum fits int32."""
    for size in (70, 4096, 65793):
        weight = torch.full((17, size), -128, dtype=I8)
        arguments = (
            torch.ones(2, size),
            reference.pack_weight(weight),
            torch.ones(17),
            weight.sum(1, dtype=torch.int32),
        )
        assert_same(linear_dynamic(*arguments), reference.linear_dynamic(*arguments))


def test_deeper_sums_are_refused() -> None:
    arguments = (torch.ones(1, 65794), torch.zeros(1, 16449, 16, 4, dtype=I8))
    weight_sum = torch.zeros(3, dtype=torch.int32)
    with pytest.raises(RuntimeError, match=r"^input must have at most 65793 .* but got 65794: "):
        linear_dynamic(*arguments, torch.ones(3), weight_sum)


@pytest.mark.parametrize("dtype", FLOATS)
def test_any_strides_of_the_input(dtype: torch.dtype) -> None:
    base = floats(6, 8, 10, dtype=dtype)
    for x in (
        base.transpose(0, 2),
        base.transpose(1, 2),
        base[::2, 1::3, ::4],
        base[:, :, 3],
        base[:1, :, :1].expand(5, 8, 7),
        base[0, :1].expand(8, 10),
        base.flip(0),
        base.as_strided((1, 8, 1), (0, 10, 0)),
        base.as_strided((1, 10), (0, 1)),
        base.as_strided((8, 1), (10, 0)),
        floats(2, 6, 5, 3, dtype=dtype).contiguous(memory_format=torch.channels_last),
    ):
        check(x, 21)


def test_any_strides_of_the_layer() -> None:
    packed, weight_scale, weight_sum = quantized_linear(35, 70)
    x, bias = floats(9, 70), floats(35)
    expected = reference.linear_dynamic(x, packed, weight_scale, weight_sum, bias)
    result = linear_dynamic(
        x,
        packed.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        weight_scale.repeat_interleave(2)[::2],
        weight_sum.repeat_interleave(3)[::3],
        bias.flip(0).flip(0)[:, None].expand(35, 2)[:, 1],
    )
    assert_same(result, expected)


def test_the_padding_of_a_packed_weight_is_zero_and_harmless() -> None:
    """Depth 70 leaves 2 padded inputs a row, which must meet no activation."""
    weight = bytes_(35, 70)
    packed = operator("pack_weight")(weight)
    sums = weight.sum(1, dtype=torch.int32)
    x = torch.full((3, 70), 5.0)
    expected = reference.linear_dynamic(x, packed, torch.ones(35), sums)
    assert_same(linear_dynamic(x, packed, torch.ones(35), sums), expected)


def test_keywords_and_defaults() -> None:
    packed, weight_scale, weight_sum = quantized_linear(35, 70)
    x, bias = floats(9, 70), floats(35)
    assert_same(
        linear_dynamic(
            activation="relu",
            bias=bias,
            weight_sum=weight_sum,
            weight_scale=weight_scale,
            packed_weight=packed,
            input=x,
        ),
        linear_dynamic(x, packed, weight_scale, weight_sum, bias, "relu"),
    )
    assert_same(
        linear_dynamic(x, packed, weight_scale, weight_sum),
        linear_dynamic(x, packed, weight_scale, weight_sum, None, "none"),
    )


def test_layers_without_inputs_give_the_bias() -> None:
    packed = operator("pack_weight")(torch.empty(5, 0, dtype=I8))
    layer = (packed, torch.ones(5), torch.zeros(5, dtype=torch.int32), floats(5))
    result = linear_dynamic(torch.empty(3, 0), *layer)
    assert_same(result, layer[3].expand(3, 5).contiguous())


def test_a_narrower_input_meets_zeros_beyond_its_end() -> None:
    """10 inputs and 12 pack alike: the operator takes the width of the input."""
    weight = bytes_(35, 12)
    packed, sums = reference.pack_weight(weight), weight.sum(1, dtype=torch.int32)
    for dtype in FLOATS:
        arguments = (floats(9, 10, dtype=dtype), packed, torch.ones(35), sums)
        assert_same(linear_dynamic(*arguments), reference.linear_dynamic(*arguments))


@pytest.mark.any_kernels
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_gradients_pass_beside_it_and_not_through_it(compiled: bool) -> None:
    """A quantized layer amid differentiable ones: a constant to autograd, not an error."""
    linear = quantized_linear(35, 70)

    def function(x: Tensor) -> Tensor:
        return linear_dynamic(x, *linear).sum() + (3 * x).sum()

    if compiled:
        torch.compiler.reset()
        function = torch.compile(function, fullgraph=True, backend="aot_eager")
    x = floats(9, 70).requires_grad_()
    function(x).backward()
    assert x.grad is not None
    assert_same(x.grad, torch.full((9, 70), 3.0))


@pytest.mark.any_kernels
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # inductor's own
def test_compiled_by_inductor_between_other_operations() -> None:
    linear, bias = quantized_linear(35, 70), floats(35)

    def function(x: Tensor) -> Tensor:
        return linear_dynamic(x * 2, *linear, bias, "relu") + 1

    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="inductor")
    assert_same(compiled(floats(9, 70)), function(floats(9, 70)))


@pytest.mark.any_kernels
def test_compiled_with_dynamic_rows_compiles_once() -> None:
    linear = quantized_linear(35, 70)
    torch.compiler.reset()
    compiled = torch.compile(
        lambda x: linear_dynamic(x, *linear), fullgraph=True, dynamic=True, backend="aot_eager"
    )
    compiled(floats(6, 70))
    with torch.compiler.set_stance("fail_on_recompile"):
        for rows in (7, 20):
            x = floats(rows, 70)
            assert_same(compiled(x), reference.linear_dynamic(x, *linear))
