"""torchquant.nn: a float layer's weight quantized, its state plain tensors."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
import torch.nn.utils.prune
from operator_tests import assert_same
from samples import BF16, F16, I8, I32, U8, bytes_, floats
from torch import Tensor, nn
from torch.nn.utils import prune

from torchquant.nn import DynamicLinear, QuantizedLinear, StaticLinear, WeightOnlyLinear
from torchquant.weights import quantize_weight

FLOAT32_BUFFERS = ("weight_scale", "bias")


def linear(in_features: int = 70, out_features: int = 35, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(in_features, out_features, bias)
    with torch.no_grad():
        layer.weight.copy_(floats(out_features, in_features))
        if bias:
            layer.bias.copy_(floats(out_features, seed=1))
    return layer


def expected_output(float_layer: nn.Linear, x: Tensor, activation: str = "none") -> Tensor:
    """By the reference alone: symmetric per output feature, absmax / 127, codes -128 to 127."""
    weight = float_layer.weight.detach().float()
    scale, zero_point = reference.choose_qparams_per_channel(weight, 0, -128, 127, True)
    q = reference.quantize_per_channel(weight, scale, zero_point, 0, -128, 127, I8)
    bias = None if float_layer.bias is None else float_layer.bias.detach().float()
    return reference.linear_dynamic(
        x, reference.pack_weight(q), scale, q.sum(1, dtype=I32), bias, activation
    )


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("dtype", [torch.float32, F16, BF16])
def test_equals_the_reference(bias: bool, activation: str, dtype: torch.dtype) -> None:
    float_layer = linear(bias=bias)
    layer = DynamicLinear.from_float(float_layer, activation)
    for shape in ((70,), (9, 70), (2, 3, 70), (2, 0, 70)):
        x = floats(*shape, dtype=dtype)
        assert_same(layer(x), expected_output(float_layer, x, activation))


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_a_half_layer_is_quantized_in_float32(dtype: torch.dtype) -> None:
    float_layer = linear().to(dtype)
    layer = DynamicLinear.from_float(float_layer)
    assert layer.bias is not None
    assert layer.bias.dtype == torch.float32
    assert_same(layer.bias, float_layer.bias.detach().float())
    x = floats(9, 70, dtype=dtype)
    assert_same(layer(x), expected_output(float_layer, x))


def test_state_is_plain_tensors_of_the_documented_shapes() -> None:
    layer = DynamicLinear.from_float(linear())
    state = {name: (value.dtype, tuple(value.shape)) for name, value in layer.state_dict().items()}
    assert state == {
        "packed_weight": (I8, (3, 18, 16, 4)),
        "weight_scale": (torch.float32, (35,)),
        "weight_sum": (I32, (35,)),
        "bias": (torch.float32, (35,)),
    }
    assert all(type(value) is Tensor for value in layer.state_dict().values())
    assert not list(layer.parameters())
    assert "bias" not in DynamicLinear.from_float(linear(bias=False)).state_dict()


def test_weight_scale_is_absmax_over_127() -> None:
    float_layer = linear()
    weight = float_layer.weight.detach()
    layer = DynamicLinear.from_float(float_layer)
    assert_same(layer.weight_scale, (weight.abs().amax(1).double() / 127).float())
    codes = reference.unpack_weight(layer.packed_weight, 35, 70)
    assert_same(layer.weight_sum, codes.sum(1, dtype=I32))
    assert codes.abs().amax(1).eq(127).all()


def test_weight_is_the_one_the_layer_stands_for() -> None:
    float_layer = linear()
    layer = DynamicLinear.from_float(float_layer)
    codes = reference.unpack_weight(layer.packed_weight, 35, 70)
    assert_same(layer.weight, codes.float() * layer.weight_scale[:, None])
    # Rounding to the nearest code is off by half a scale at most; 1e-6 allows for float32.
    error = (layer.weight - float_layer.weight).abs()
    assert (error <= 0.5 * layer.weight_scale[:, None] + 1e-6).all()


def test_a_zero_row_gives_the_bias() -> None:
    float_layer = linear()
    with torch.no_grad():
        float_layer.weight[3] = 0
    layer = DynamicLinear.from_float(float_layer)
    assert layer.weight_scale[3] == 1
    assert_same(layer(floats(9, 70))[:, 3].contiguous(), float_layer.bias[3].detach().repeat(9))


def test_from_float_leaves_the_float_layer_alone() -> None:
    float_layer = linear()
    before = copy.deepcopy(float_layer.state_dict())
    layer = DynamicLinear.from_float(float_layer)
    assert layer.bias is not None
    layer.bias.zero_()
    for name, value in float_layer.state_dict().items():
        assert torch.equal(value, before[name])
    assert float_layer.weight.requires_grad


def test_from_float_takes_subclasses_and_the_mode() -> None:
    class Special(nn.Linear):
        pass

    layer = DynamicLinear.from_float(Special(8, 4).eval())
    assert not layer.training
    assert DynamicLinear.from_float(Special(8, 4)).training


@pytest.mark.parametrize(
    "convert",
    [
        lambda layer: layer.half(),
        lambda layer: layer.bfloat16(),
        lambda layer: layer.double(),
        lambda layer: layer.to(F16),
        lambda layer: layer.to("cpu", BF16),
        lambda layer: layer.half().float(),
        lambda layer: nn.Sequential(layer).half()[0],
    ],
    ids=["half", "bfloat16", "double", "to-dtype", "to-device-and-dtype", "and-back", "parent"],
)
def test_casts_reach_no_bit_of_the_state(
    convert: Callable[[DynamicLinear], DynamicLinear],
) -> None:
    layer = DynamicLinear.from_float(linear())
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    converted = convert(layer)
    assert converted.state_dict().keys() == before.keys()
    for name, value in converted.state_dict().items():
        assert_same(value, before[name])
    assert set(dict(converted.named_buffers())) == set(before)


def test_moves_reach_the_whole_state() -> None:
    layer = DynamicLinear.from_float(linear()).to("meta")
    assert {value.device.type for value in layer.state_dict().values()} == {"meta"}
    half = DynamicLinear.from_float(linear()).to("meta", F16)
    assert {value.device.type for value in half.state_dict().values()} == {"meta"}
    assert half.weight_scale.dtype == torch.float32


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_state_dict_round_trips_into_an_empty_layer(bias: bool, tmp_path: Path) -> None:
    layer, x = DynamicLinear.from_float(linear(bias=bias)), floats(9, 70)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    empty = DynamicLinear(70, 35, bias=bias)
    assert not torch.equal(empty(x), layer(x))
    empty.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    assert_same(empty(x), layer(x))


def test_state_dict_round_trips_through_safetensors(tmp_path: Path) -> None:
    """Its tensors come back at odd addresses after a name of odd length."""
    safetensors = pytest.importorskip("safetensors.torch")
    layer, x = DynamicLinear.from_float(linear()), floats(9, 70)
    safetensors.save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    empty = DynamicLinear(70, 35)
    empty.load_state_dict(safetensors.load_file(tmp_path / "layer.safetensors"))
    assert_same(empty(x), layer(x))


def test_an_empty_layer_is_all_zero() -> None:
    assert_same(DynamicLinear(70, 35)(floats(9, 70)), torch.zeros(9, 35))


def test_loading_a_layer_of_another_shape_raises() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for packed_weight"):
        DynamicLinear(70, 60).load_state_dict(DynamicLinear(70, 35).state_dict())


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.deepcopy,
        lambda layer: pickle.loads(pickle.dumps(layer)),
    ],
    ids=["deepcopy", "pickle"],
)
def test_copies_equal_the_layer_and_share_nothing(
    duplicate: Callable[[DynamicLinear], DynamicLinear],
) -> None:
    layer, x = DynamicLinear.from_float(linear(), "relu"), floats(9, 70)
    expected = layer(x)
    other = duplicate(layer)
    assert_same(other(x), expected)
    assert other.bias is not None
    other.bias.add_(1)
    other.weight_scale.mul_(2)
    assert_same(layer(x), expected)


def test_a_whole_layer_saves_and_loads() -> None:
    layer, x = DynamicLinear.from_float(linear()), floats(9, 70)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    assert_same(torch.load(file, weights_only=False)(x), layer(x))


def test_an_input_that_requires_grad_gives_an_output_that_does_not(
    recwarn: pytest.WarningsRecorder,
) -> None:
    layer = DynamicLinear.from_float(linear())
    assert not layer(floats(9, 70).requires_grad_()).requires_grad
    assert not recwarn.list


def test_repr_shows_the_numbers() -> None:
    assert repr(DynamicLinear.from_float(linear(bias=False), "relu")) == (
        "DynamicLinear(in_features=70, out_features=35, bias=False, activation='relu')"
    )


@pytest.mark.parametrize(("in_features", "out_features"), [(1, 1), (3, 17), (64, 64), (65, 1)])
def test_layers_of_any_size(in_features: int, out_features: int) -> None:
    float_layer = linear(in_features, out_features)
    x = floats(5, in_features)
    assert_same(DynamicLinear.from_float(float_layer)(x), expected_output(float_layer, x))


def test_what_is_no_linear_layer_is_refused() -> None:
    with pytest.raises(
        TypeError,
        match=r"^linear must be a torch\.nn\.Linear, but got Conv2d: pass the layer itself, or a "
        r"whole model to torchquant\.quantize_dynamic or quantize_static$",
    ):
        DynamicLinear.from_float(nn.Conv2d(1, 1, 1))


def refusal(float_layer: nn.Linear, **keywords: str) -> str:
    with pytest.raises(ValueError, match=r"must|activation") as error:
        DynamicLinear.from_float(float_layer, **keywords)
    return str(error.value)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_refused(bad: float) -> None:
    float_layer = linear()
    with torch.no_grad():
        float_layer.weight[3, 5] = bad
    assert refusal(float_layer) == (
        "linear must have a finite weight, but [35, 70] holds NaN or Inf (as float32): quantize a "
        "model whose weights are sound"
    )


def test_a_weight_that_is_not_finite_as_float32_is_refused() -> None:
    float_layer = linear().double()
    with torch.no_grad():
        float_layer.weight[3, 5] = 1e300
    assert "holds NaN or Inf (as float32)" in refusal(float_layer)


def test_a_weight_without_data_is_refused() -> None:
    assert refusal(nn.Linear(70, 35, device="meta")) == (
        "linear must have a floating-point weight with data, but got torch.float32 on meta: load "
        "the model's weights first"
    )


def test_a_layer_with_hooks_is_refused() -> None:
    """They would be lost: weight_norm and pruning of the older kind compute the weight in one."""
    hooked = linear()
    hooked.register_forward_hook(lambda module, arguments, output: 2 * output)
    pre_hooked = prune.l1_unstructured(linear(), "weight", 0.5)
    for float_layer in (hooked, pre_hooked):
        assert refusal(float_layer) == (
            "linear must have no hooks, which a quantized layer would not run, but has some: "
            "remove them first (torch.nn.utils.remove_weight_norm, torch.nn.utils.prune.remove, "
            "handle.remove()), or leave the layer in float by filter_fn"
        )
    DynamicLinear.from_float(prune.remove(pre_hooked, "weight"))


def test_a_layer_too_deep_for_exact_sums_is_refused() -> None:
    DynamicLinear.from_float(nn.Linear(65793, 1))
    assert refusal(nn.Linear(65794, 1)) == (
        "linear must have at most 65793 inputs, or the int32 sums may overflow, but has 65794: "
        "leave it in float by filter_fn"
    )


def test_an_unknown_activation_is_refused_when_the_layer_is_made() -> None:
    assert refusal(linear(), activation="gelu") == (
        'activation must be "none" or "relu", but got \'gelu\': pass "none" and apply others to '
        "the output"
    )


@pytest.mark.parametrize("width", [69, 71, 72, 0, 140])
def test_an_input_of_another_width_is_refused(width: int) -> None:
    """71 and 72 fill the padding of the packed weight, which the operator cannot tell from 70."""
    layer = DynamicLinear.from_float(linear())
    with pytest.raises(RuntimeError) as error:
        layer(torch.ones(9, width))
    assert str(error.value) == (
        f"input must have 70 features in its last dimension, but got shape [9, {width}]: this "
        "layer was made for in_features=70"
    )


def test_the_state_is_float32_whatever_the_default_dtype() -> None:
    float_layer = linear()
    expected = DynamicLinear.from_float(float_layer).state_dict()
    torch.set_default_dtype(torch.float64)
    try:
        empty = DynamicLinear(70, 35)
        layer = DynamicLinear.from_float(float_layer)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, value in expected.items():
        assert empty.state_dict()[name].dtype == value.dtype
        assert_same(layer.state_dict()[name], value)


@pytest.mark.any_kernels
def test_compiles_whole_and_exports_with_dynamic_rows() -> None:
    layer = DynamicLinear.from_float(linear(), "relu")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_same(compiled(floats(9, 70)), layer(floats(9, 70)))
    rows = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(layer, (floats(9, 70),), dynamic_shapes=(rows,))
    assert_same(program.module()(floats(20, 70)), layer(floats(20, 70)))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    assert_same(torch.export.load(file).module()(floats(5, 70)), layer(floats(5, 70)))


# StaticLinear

SCALE, ZERO_POINT = torch.tensor(0.08), torch.tensor(117, dtype=I32)


def static_layer(
    bias: bool = True, activation: str = "none", weight_method: str = "minmax"
) -> StaticLinear:
    return StaticLinear.from_float(
        linear(bias=bias), SCALE, ZERO_POINT, activation, weight_method=weight_method
    )


def static_output(layer: StaticLinear, x: Tensor, **output: Any) -> Tensor:
    """By the reference, of the layer's own weight and the scale and zero point given to it."""
    return reference.linear_static(
        x,
        SCALE,
        ZERO_POINT,
        layer.packed_weight,
        layer.weight_scale,
        layer.weight_sum,
        layer.bias,
        layer.activation,
        **output,
    )


class Chain(nn.Module):
    """Two static layers, the first of which gives the codes of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first = static_layer(activation="relu")
        self.last = StaticLinear.from_float(
            linear(35, 9), torch.tensor(0.7), torch.tensor(0, dtype=I32)
        )
        self.first.requantize_for(self.last)
        self.last.output_dtype = torch.float32

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("weight_method", ["minmax", "mse"])
@pytest.mark.parametrize("dtype", [torch.float32, F16, BF16])
def test_static_equals_the_reference(
    bias: bool, activation: str, weight_method: str, dtype: torch.dtype
) -> None:
    layer = static_layer(bias, activation, weight_method)
    for shape in ((70,), (9, 70), (2, 3, 70), (2, 0, 70)):
        x = floats(*shape, dtype=dtype)
        result = layer(x)
        assert result.dtype == dtype
        assert_same(result, static_output(layer, x))


@pytest.mark.parametrize("dtype", [U8, I8])
def test_static_takes_codes_as_they_are(dtype: torch.dtype) -> None:
    layer, codes = static_layer(), bytes_(9, 70, dtype=dtype)
    assert_same(layer(codes), static_output(layer, codes))
    x = floats(9, 70)
    of_x = reference.quantize_per_tensor(x, SCALE, ZERO_POINT, 0, 255, U8)
    assert_same(layer(of_x), layer(x))


@pytest.mark.parametrize("weight_method", ["minmax", "mse"])
def test_static_has_the_weight_of_its_method(weight_method: str) -> None:
    float_layer = linear(32_768, 2)
    with torch.no_grad():
        float_layer.weight.clamp_(-2, 2)[0, 0] = 16.0  # not worth its range
    layer = StaticLinear.from_float(float_layer, SCALE, ZERO_POINT, weight_method=weight_method)
    codes, scale = quantize_weight(float_layer.weight.detach(), weight_method)
    assert_same(layer.weight_scale, scale)
    assert_same(layer.packed_weight, reference.pack_weight(codes))
    assert_same(layer.weight_sum, codes.sum(1, dtype=I32))
    dynamic = DynamicLinear.from_float(float_layer)
    assert torch.equal(dynamic.weight_scale, scale) == (weight_method == "minmax")


def test_static_state_is_plain_tensors_of_the_documented_shapes() -> None:
    def kinds(layer: nn.Module) -> dict[str, Any]:
        return {name: (v.dtype, tuple(v.shape)) for name, v in layer.state_dict().items()}

    weight = {
        "packed_weight": (I8, (3, 18, 16, 4)),
        "weight_scale": (torch.float32, (35,)),
        "weight_sum": (I32, (35,)),
        "bias": (torch.float32, (35,)),
        "input_scale": (torch.float32, ()),
        "input_zero_point": (I32, ()),
    }
    output = {"output_scale": (torch.float32, ()), "output_zero_point": (I32, ())}
    assert kinds(static_layer()) == weight
    assert kinds(Chain().first) == weight | output
    assert kinds(StaticLinear(70, 35)) == weight
    assert kinds(StaticLinear(70, 35, requantize=True)) == weight | output
    assert not list(static_layer().parameters())
    assert "bias" not in static_layer(bias=False).state_dict()


def test_static_copies_what_it_is_given() -> None:
    scale, zero_point = torch.tensor([0.08]), torch.tensor([[117]], dtype=I32)
    layer = StaticLinear.from_float(linear(), scale, zero_point)
    x = floats(9, 70)
    expected = layer(x)
    scale.fill_(9)
    zero_point.fill_(9)
    assert layer.input_scale.shape == layer.input_zero_point.shape == ()
    assert_same(layer(x), expected)
    assert_same(expected, static_output(layer, x))


def test_requantizing_gives_the_codes_of_the_reader() -> None:
    chain, x = Chain(), floats(9, 70)
    codes = chain.first(x)
    assert codes.dtype == U8
    expected = static_output(
        chain.first,
        x,
        output_scale=torch.tensor(0.7),
        output_zero_point=torch.tensor(0, dtype=I32),
    )
    assert_same(codes, expected)
    chain.last.input_scale.fill_(5)
    assert chain.first.output_scale == torch.tensor(0.7)


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_casts_of_a_chain_change_the_output_and_no_buffer(dtype: torch.dtype) -> None:
    chain, x = Chain(), floats(9, 70, dtype=dtype)
    before = {name: value.clone() for name, value in chain.state_dict().items()}
    expected = chain(x)
    assert expected.dtype == torch.float32
    chain.to(dtype)
    assert {layer.output_dtype for layer in (chain.first, chain.last)} == {None, dtype}
    for name, value in chain.state_dict().items():
        assert_same(value, before[name])
    assert_same(chain(x), expected.to(dtype))
    chain.float()
    assert_same(chain(x), expected)


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_a_cast_layer_alone_gives_what_it_takes(dtype: torch.dtype) -> None:
    layer = static_layer()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.to(dtype)
    assert layer.output_dtype is None
    for name, value in layer.state_dict().items():
        assert_same(value, before[name])
    for other in (torch.float32, dtype):
        assert layer(floats(9, 70, dtype=other)).dtype == other


def test_moves_reach_the_whole_static_state() -> None:
    chain = Chain().to("meta", F16)
    assert {value.device.type for value in chain.state_dict().values()} == {"meta"}
    assert chain.last.output_dtype == F16
    assert chain.first.output_scale.dtype == torch.float32


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.deepcopy,
        lambda layer: pickle.loads(pickle.dumps(layer)),
    ],
    ids=["deepcopy", "pickle"],
)
def test_copies_of_static_layers_share_nothing(duplicate: Callable[[Chain], Chain]) -> None:
    chain, x = Chain(), floats(9, 70)
    expected = chain(x)
    other = duplicate(chain)
    assert_same(other(x), expected)
    for value in other.state_dict().values():
        value.zero_()
    assert_same(chain(x), expected)


def test_static_state_dict_round_trips_into_empty_layers() -> None:
    chain, x = Chain(), floats(9, 70)
    empty = nn.ModuleDict(
        {
            "first": StaticLinear(70, 35, activation="relu", requantize=True),
            "last": StaticLinear(35, 9),
        }
    )
    empty.load_state_dict(chain.state_dict())
    assert_same(empty["last"](empty["first"](x)), chain(x))
    with pytest.raises(RuntimeError, match="output_scale"):
        StaticLinear(70, 35).load_state_dict(chain.first.state_dict())


def test_static_repr_shows_the_numbers() -> None:
    assert repr(Chain().first) == (
        "StaticLinear(in_features=70, out_features=35, bias=True, activation='relu', "
        "requantize=True)"
    )
    assert repr(static_layer(bias=False)).endswith(
        "bias=False, activation='none', requantize=False)"
    )


def static_refusal(kind: type[Exception] = ValueError, **changed: Any) -> str:
    arguments = {"linear": linear(), "input_scale": SCALE, "input_zero_point": ZERO_POINT}
    with pytest.raises(kind) as error:
        StaticLinear.from_float(**arguments | changed)
    return str(error.value)


@pytest.mark.parametrize(
    ("scale", "shown"),
    [
        (torch.tensor(0.0), "torch.float32 0.0"),
        (torch.tensor(-1.0), "torch.float32 -1.0"),
        (torch.tensor(math.nan), "torch.float32 nan"),
        (torch.tensor(math.inf), "torch.float32 inf"),
        (torch.tensor(1.0, dtype=torch.float64), "torch.float64 1.0"),
        (torch.ones(2), "torch.float32 [1.0, 1.0]"),
        (torch.ones(0), "torch.float32 []"),
    ],
)
def test_an_input_scale_that_is_none_is_refused(scale: Tensor, shown: str) -> None:
    assert static_refusal(input_scale=scale) == (
        f"input_scale must be one positive finite float32, but got {shown}: pass what "
        "Calibration.qparams returned"
    )


@pytest.mark.parametrize(
    ("zero_point", "shown"),
    [
        (torch.tensor(3), "torch.int64 3"),
        (torch.tensor(3.0), "torch.float32 3.0"),
        (torch.zeros(2, dtype=I32), "torch.int32 [0, 0]"),
    ],
)
def test_an_input_zero_point_that_is_none_is_refused(zero_point: Tensor, shown: str) -> None:
    assert static_refusal(input_zero_point=zero_point) == (
        f"input_zero_point must be one int32 from 0 to 255, but got {shown}: pass what "
        "Calibration.qparams returned"
    )


def test_static_refuses_what_dynamic_does() -> None:
    broken = linear()
    with torch.no_grad():
        broken.weight[3, 5] = math.nan
    assert static_refusal(linear=broken).startswith(
        "linear must have a finite weight, but [35, 70]"
    )
    assert static_refusal(TypeError, linear=nn.Conv2d(1, 1, 1)).startswith(
        "linear must be a torch.nn.Linear, but got Conv2d: "
    )
    assert static_refusal(activation="gelu") == (
        'activation must be "none" or "relu", but got \'gelu\': pass "none" and apply others to '
        "the output"
    )
    assert static_refusal(weight_method="max") == (
        'weight_method must be "minmax" or "mse", but got \'max\': "minmax" keeps every weight in '
        "range"
    )


@pytest.mark.parametrize("width", [69, 71, 72])
@pytest.mark.parametrize("dtype", [torch.float32, U8])
def test_an_input_of_another_width_is_refused_by_static(width: int, dtype: torch.dtype) -> None:
    with pytest.raises(RuntimeError) as error:
        static_layer()(torch.ones(9, width, dtype=dtype))
    assert str(error.value) == (
        f"input must have 70 features in its last dimension, but got shape [9, {width}]: this "
        "layer was made for in_features=70"
    )


def test_static_refuses_float64() -> None:
    with pytest.raises(RuntimeError, match=r"torch\.float64"):
        static_layer()(floats(9, 70).double())


# TorchScript is deprecated as a whole.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.any_kernels
@pytest.mark.parametrize("make", [static_layer, Chain], ids=["alone", "chain"])
def test_static_goes_every_road(make: Callable[[], nn.Module]) -> None:
    layer, x, more = make(), floats(9, 70), floats(20, 70)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(layer), file)
    file.seek(0)
    torch.compiler.reset()
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    for road in (
        torch.jit.load(file),
        torch.jit.trace(layer, (x,)),
        torch.compile(layer, fullgraph=True, backend="aot_eager"),
        program.module(),
    ):
        assert_same(road(x), layer(x))
        assert_same(road(more), layer(more))


# TorchScript is deprecated as a whole.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.any_kernels
def test_a_half_chain_scripts() -> None:
    chain, x = Chain().half(), floats(9, 70, dtype=F16)
    scripted = torch.jit.script(chain)
    assert scripted(x).dtype == F16
    assert_same(scripted(x), chain(x))


def test_static_passes_no_gradient(recwarn: pytest.WarningsRecorder) -> None:
    assert not static_layer()(floats(9, 70).requires_grad_()).requires_grad
    assert not recwarn.list


def test_static_state_is_float32_whatever_the_default_dtype() -> None:
    expected = StaticLinear(70, 35, requantize=True).state_dict()
    torch.set_default_dtype(torch.float64)
    try:
        empty = StaticLinear(70, 35, requantize=True).state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    for name, value in expected.items():
        assert_same(empty[name], value)


# WeightOnlyLinear


def weight_only_output(float_layer: nn.Linear, x: Tensor, activation: str = "none") -> Tensor:
    """PyTorch's own operations on the weight that the reference quantizes and dequantizes."""
    weight = float_layer.weight.detach().float()
    scale, zero_point = reference.choose_qparams_per_channel(weight, 0, -128, 127, True)
    q = reference.quantize_per_channel(weight, scale, zero_point, 0, -128, 127, I8)
    restored = reference.dequantize_per_channel(q, scale, zero_point, 0, out_dtype=x.dtype)
    bias = None if float_layer.bias is None else float_layer.bias.detach().to(x.dtype)
    output = nn.functional.linear(x, restored, bias)
    return torch.relu(output) if activation == "relu" else output


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("dtype", [torch.float32, F16, BF16])
def test_weight_only_is_float_on_the_quantized_weight(
    bias: bool, activation: str, dtype: torch.dtype
) -> None:
    float_layer = linear(bias=bias)
    layer = WeightOnlyLinear.from_float(float_layer, activation)
    for shape in ((70,), (9, 70), (2, 3, 70), (2, 0, 70)):
        x = floats(*shape, dtype=dtype)
        assert_same(layer(x), weight_only_output(float_layer, x, activation))


@pytest.mark.parametrize("weight_method", ["minmax", "mse"])
def test_weight_only_has_the_state_of_a_dynamic_layer(weight_method: str) -> None:
    float_layer = linear()
    state = WeightOnlyLinear.from_float(float_layer, weight_method=weight_method).state_dict()
    codes, scale = quantize_weight(float_layer.weight.detach(), weight_method)
    assert_same(state["packed_weight"], reference.pack_weight(codes))
    assert_same(state["weight_scale"], scale)
    assert_same(state["weight_sum"], codes.sum(1, dtype=I32))
    assert_same(state["bias"], float_layer.bias.detach())
    empty, x = WeightOnlyLinear(70, 35), floats(9, 70)
    assert_same(empty(x), torch.zeros(9, 35))
    empty.load_state_dict(state)
    assert_same(empty.weight, codes.float() * scale[:, None])
    assert state.keys() == DynamicLinear(70, 35).state_dict().keys()


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("dtype", [torch.float32, F16, BF16])
def test_weight_only_passes_the_gradient_of_float(activation: str, dtype: torch.dtype) -> None:
    float_layer = linear()
    layer = WeightOnlyLinear.from_float(float_layer, activation)
    x, other = (floats(9, 70, dtype=dtype).requires_grad_() for _ in range(2))
    upstream = floats(9, 35, dtype=dtype, seed=2)
    layer(x).backward(upstream)
    weight_only_output(float_layer, other, activation).backward(upstream)
    assert x.grad is not None
    assert x.grad.ne(0).any()
    assert_same(x.grad, other.grad)


@pytest.mark.parametrize("width", [69, 71, 72, 0])
def test_an_input_of_another_width_is_refused_by_weight_only(width: int) -> None:
    layer = WeightOnlyLinear.from_float(linear())
    with pytest.raises(RuntimeError, match=r"^input must have 70 features in its last dimension"):
        layer(torch.ones(9, width))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, U8])
def test_weight_only_refuses_other_dtypes(dtype: torch.dtype) -> None:
    with pytest.raises(RuntimeError) as error:
        WeightOnlyLinear.from_float(linear())(torch.ones(9, 70, dtype=dtype))
    assert str(error.value) == (
        f"input must be float32, float16 or bfloat16, but got {dtype}: convert it with .float()"
    )


def test_weight_only_refuses_what_it_cannot_be_made_of() -> None:
    with pytest.raises(TypeError, match=r"^linear must be a torch\.nn\.Linear, but got Conv2d"):
        WeightOnlyLinear.from_float(nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match=r"^linear must have a floating-point weight with data"):
        WeightOnlyLinear.from_float(nn.Linear(70, 35, device="meta"))
    with pytest.raises(ValueError, match=r'^weight_method must be "minmax" or "mse", but got'):
        WeightOnlyLinear.from_float(linear(), weight_method="entropy")
    with pytest.raises(ValueError, match=r'^activation must be "none" or "relu", but got'):
        WeightOnlyLinear.from_float(linear(), activation="gelu")


@pytest.mark.any_kernels
@pytest.mark.parametrize("dtype", [torch.float32, F16, BF16])
def test_weight_only_compiles_whole_and_exports_with_dynamic_rows(dtype: torch.dtype) -> None:
    layer = WeightOnlyLinear.from_float(linear(), "relu")
    x, more = floats(9, 70, dtype=dtype), floats(20, 70, dtype=dtype)
    torch.compiler.reset()
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for road in (
        torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager"),
        program.module(),
        torch.export.load(file).module(),
    ):
        assert_same(road(x), layer(x))
        assert_same(road(more), layer(more))


@pytest.mark.any_kernels
def test_weight_only_passes_the_gradient_when_compiled() -> None:
    layer = WeightOnlyLinear.from_float(linear(), "relu")
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    x, other = (floats(9, 70).requires_grad_() for _ in range(2))
    compiled(x).sum().backward()
    layer(other).sum().backward()
    assert x.grad is not None
    assert_same(x.grad, other.grad)


# weight_snr_db

EMPTY_LAYERS = [DynamicLinear(70, 35), StaticLinear(70, 35), WeightOnlyLinear(70, 35)]


def quantized_layers(float_layer: nn.Linear) -> list[QuantizedLinear]:
    return [
        DynamicLinear.from_float(float_layer),
        StaticLinear.from_float(float_layer, SCALE, ZERO_POINT),
        WeightOnlyLinear.from_float(float_layer),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, F16, torch.float64])
def test_weight_snr_is_that_of_the_float32_weight(dtype: torch.dtype) -> None:
    float_layer = linear().to(dtype)
    weight = float_layer.weight.detach().float()
    for layer in quantized_layers(float_layer):
        expected = reference.quantization_error(weight, layer.weight)[3]
        assert type(layer.weight_snr_db) is float
        # The reference sums in another order.
        assert layer.weight_snr_db == pytest.approx(expected.item(), rel=1e-12)
        assert 35 < layer.weight_snr_db < 50


def test_weight_snr_tells_the_methods_apart() -> None:
    float_layer = linear(32_768, 1)
    with torch.no_grad():
        float_layer.weight.clamp_(-2, 2)[0, 0] = 16.0  # not worth its range
    minmax, mse = (
        WeightOnlyLinear.from_float(float_layer, weight_method=method).weight_snr_db
        for method in ("minmax", "mse")
    )
    assert minmax is not None
    assert mse is not None
    assert mse > minmax


def test_weight_snr_is_infinite_where_nothing_is_lost() -> None:
    float_layer = nn.Linear(4, 2)
    with torch.no_grad():
        float_layer.weight.copy_(torch.tensor([[127.0, 1, -5, 0], [0, 0, 0, 0]]))
    with pytest.warns(UserWarning, match="zero-element"):  # of nn.Linear
        nothing = nn.Linear(0, 3)
    for layer in (*quantized_layers(float_layer), *quantized_layers(nothing)):
        assert layer.weight_snr_db == math.inf


@pytest.mark.parametrize("layer", EMPTY_LAYERS, ids=lambda layer: type(layer).__name__)
def test_weight_snr_of_an_empty_layer_is_unknown(layer: QuantizedLinear) -> None:
    assert layer.weight_snr_db is None


# TorchScript is deprecated as a whole.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.any_kernels
@pytest.mark.parametrize("snr", [None, 40.5, math.inf])
@pytest.mark.parametrize("index", range(3), ids=["dynamic", "static", "weight-only"])
def test_weight_snr_hinders_no_road(index: int, snr: float | None) -> None:
    layer, x = quantized_layers(linear())[index], floats(9, 70)
    layer.weight_snr_db = snr
    torch.compiler.reset()
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    scripted = torch.jit.script(layer)
    for road in (
        scripted,
        torch.jit.trace(layer, (x,)),
        torch.compile(layer, fullgraph=True, backend="aot_eager"),
        program.module(),
    ):
        assert_same(road(x), layer(x))
    assert scripted.weight_snr_db == snr
    assert copy.deepcopy(layer).weight_snr_db == snr
    assert pickle.loads(pickle.dumps(layer)).weight_snr_db == snr


def test_a_shared_weight_brings_its_snr() -> None:
    layer, other = DynamicLinear(70, 35), DynamicLinear.from_float(linear())
    layer.share_weight(other)
    assert layer.weight_snr_db == other.weight_snr_db is not None
