"""quantize_dynamic, _static and _weights: which modules are replaced, what is kept of the model."""

from __future__ import annotations

import copy
import io
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from calibrations import METHODS, calibrated
from models import (
    MODELS,
    Attention,
    Nested,
    Shared,
    Tied,
    encoder,
    encoder_layer,
    int8_calls,
    make,
    operator_calls,
)
from operator_tests import assert_same
from samples import BF16, F16, floats
from torch import Tensor, nn

import torchquant
from torchquant import Calibration, replacement, weights
from torchquant.nn import DynamicLinear, StaticLinear, WeightOnlyLinear
from torchquant.weights import quantize_weight


def error_of(result: Any, expected: Any) -> float:
    """The largest relative error over the outputs of a model."""
    if isinstance(expected, Tensor):
        return ((result - expected).norm() / expected.norm()).item()
    return max(error_of(one, other) for one, other in zip(result, expected, strict=True))


def names_of(model: nn.Module, kind: type[nn.Module]) -> list[str]:
    return [name for name, module in model.named_modules() if type(module) is kind]


@pytest.mark.parametrize("name", MODELS)
def test_every_linear_call_runs_in_int8(name: str) -> None:
    """Without gradients too, where nn.TransformerEncoderLayer has its fused float path."""
    model, x, calls = make(name)
    assert int8_calls(model, x) == 0
    quantized = torchquant.quantize_dynamic(model)
    assert int8_calls(quantized, x) == calls
    with torch.no_grad():
        assert int8_calls(quantized, x) == calls
    with torch.inference_mode():
        assert int8_calls(quantized, x) == calls


@pytest.mark.parametrize("name", MODELS)
def test_the_output_is_close_to_the_float_model(name: str) -> None:
    """int8 costs about 1 % of the output's size for each layer on its way; the deepest has 6."""
    model, x, _ = make(name)
    with torch.no_grad():
        expected = model(x)
        result = torchquant.quantize_dynamic(model)(x)
    assert 0 < error_of(result, expected) < 0.05


@pytest.mark.parametrize("name", MODELS)
def test_the_result_is_that_of_replacing_each_layer_by_hand(name: str) -> None:
    model, x, _ = make(name)
    quantized = torchquant.quantize_dynamic(model)
    by_hand = copy.deepcopy(model)
    made: dict[nn.Module, nn.Module] = {}
    for module in list(by_hand.modules()):
        for child_name, child in list(module._modules.items()):
            if type(child) is nn.Linear:
                made.setdefault(child, DynamicLinear.from_float(child))
                setattr(module, child_name, made[child])
    if type(by_hand) is nn.Linear:
        by_hand = DynamicLinear.from_float(by_hand)
    # Training mode is the one without a fused path; every dropout here is 0.
    expected, result = by_hand.train()(x), quantized(x)
    for one, other in zip(_flat(result), _flat(expected), strict=True):
        assert_same(one.detach(), other.detach())


def _flat(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output)


@pytest.mark.parametrize("name", MODELS)
def test_the_original_is_left_alone(name: str) -> None:
    model, x, _ = make(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attributes = [copy.copy(vars(module)) for module in model.modules()]
    expected = model(x)
    torchquant.quantize_dynamic(model)
    assert {type(module) for module in model.modules()}.isdisjoint({DynamicLinear})
    assert [vars(module) for module in model.modules()] == attributes
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    for one, other in zip(_flat(model(x)), _flat(expected), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "linear"])
def test_inplace_changes_the_model_itself(name: str) -> None:
    model, x, calls = make(name)
    expected = torchquant.quantize_dynamic(model)(x)
    assert torchquant.quantize_dynamic(model, inplace=True) is model
    assert int8_calls(model, x) == calls
    for one, other in zip(_flat(model(x)), _flat(expected), strict=True):
        assert torch.equal(one, other)


def test_a_lone_linear_becomes_a_dynamic_one() -> None:
    for inplace in (False, True):
        quantized = torchquant.quantize_dynamic(nn.Linear(12, 20), inplace=inplace)
        assert type(quantized) is DynamicLinear


def test_nested_modules_are_found_under_their_names() -> None:
    model = Nested()
    linears = names_of(model, nn.Linear)
    quantized = torchquant.quantize_dynamic(model)
    assert names_of(quantized, DynamicLinear) == linears
    assert len(linears) == 7
    assert names_of(quantized, nn.Linear) == []


def test_a_shared_module_stays_one() -> None:
    quantized = torchquant.quantize_dynamic(Shared())
    assert isinstance(quantized.first, DynamicLinear)
    assert quantized.again is quantized.first
    assert quantized.block[0] is quantized.first


def test_layers_with_one_weight_share_the_quantized_one() -> None:
    model = Tied()
    with torch.no_grad():
        model.left.bias.fill_(1)
        model.right.bias.fill_(2)
    quantized = torchquant.quantize_dynamic(model)
    left, right = quantized.left, quantized.right
    assert isinstance(left, DynamicLinear)
    assert isinstance(right, DynamicLinear)
    assert left is not right
    for buffer in ("packed_weight", "weight_scale", "weight_sum"):
        assert getattr(left, buffer).data_ptr() == getattr(right, buffer).data_ptr()
    assert left.bias is not None
    assert right.bias is not None
    assert left.bias.eq(1).all()
    assert right.bias.eq(2).all()
    assert isinstance(quantized.embedding, nn.Embedding)
    assert torch.equal(quantized.embedding.weight, model.embedding.weight)


def test_tied_layers_stay_tied_in_copies_and_casts() -> None:
    quantized = torchquant.quantize_dynamic(Tied())
    for other in (
        copy.deepcopy(quantized),
        pickle.loads(pickle.dumps(quantized)),
        quantized.half(),
    ):
        assert other.left.packed_weight.data_ptr() == other.right.packed_weight.data_ptr()


def test_only_the_exact_type_is_replaced() -> None:
    class Special(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4), Special(4, 4))
    quantized = torchquant.quantize_dynamic(model)
    assert [type(module) for module in quantized] == [DynamicLinear, Special]


def test_a_parametrized_linear_is_left_in_float() -> None:
    """Its class is made by torch.nn.utils.parametrize, so it is no exact nn.Linear."""
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    quantized = torchquant.quantize_dynamic(nn.Sequential(normed, nn.Linear(4, 4)))
    assert [type(module) is DynamicLinear for module in quantized] == [False, True]
    assert quantized(floats(3, 4)).shape == (3, 4)


def test_attention_keeps_its_out_proj() -> None:
    """A subclass of nn.Linear whose weight nn.MultiheadAttention reads itself."""
    model = Attention().eval()
    quantized = torchquant.quantize_dynamic(model)
    assert type(quantized.attention.out_proj) is type(model.attention.out_proj)
    x = floats(2, 5, 16)
    expected, _ = model.attention(x, x, x)
    result, _ = quantized.attention(x, x, x)
    assert torch.equal(result, expected)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_fast_path_of_an_encoder_layer_is_off(norm_first: bool, activation: str) -> None:
    torch.manual_seed(0)
    model = encoder_layer(norm_first=norm_first, activation=activation).eval()
    quantized = torchquant.quantize_dynamic(model)
    x = floats(2, 5, 16)
    with torch.no_grad():
        assert int8_calls(quantized, x) == 2
        # 2 % where 1 % is usual for one int8 layer.
        assert 0 < error_of(quantized(x), model(x)) < 0.02


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")  # the float model's own
def test_the_fast_path_of_an_encoder_with_padding_is_off() -> None:
    """Padding is what lets nn.TransformerEncoder turn its input into a nested tensor."""
    torch.manual_seed(0)
    model = encoder().eval()
    quantized = torchquant.quantize_dynamic(model)
    x = floats(2, 5, 16)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        assert int8_calls(quantized, x, src_key_padding_mask=padding) == 4
        result = quantized(x, src_key_padding_mask=padding)
        expected = model(x, src_key_padding_mask=padding)
    # 5 % as above; what is padded is 0 in float's nested tensors and is compared with nothing.
    assert error_of(result[~padding], expected[~padding]) < 0.05


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")  # the float model's own
@pytest.mark.parametrize("left_in_float", ["layers.0", "layers.1", "layers.0.linear1"])
def test_an_encoder_quantized_in_part_takes_padding(left_in_float: str) -> None:
    """The layers that stay in float keep their fast path; those beside them cannot have it."""
    torch.manual_seed(0)
    model = encoder().eval()
    quantized = torchquant.quantize_dynamic(
        model, filter_fn=lambda module, name: not name.startswith(left_in_float)
    )
    x, padding = floats(2, 5, 16), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    calls = len(names_of(quantized, DynamicLinear))
    with torch.no_grad():
        assert int8_calls(quantized, x, src_key_padding_mask=padding) == calls
        result = quantized(x, src_key_padding_mask=padding)
        expected = model(x, src_key_padding_mask=padding)
    # 5 % as above.
    assert 0 < error_of(result[~padding], expected[~padding]) < 0.05


def test_a_whole_transformer() -> None:
    torch.manual_seed(0)
    model = nn.Transformer(16, 4, 2, 2, 40, dropout=0.0, batch_first=True).eval()
    quantized = torchquant.quantize_dynamic(model)
    arguments = (floats(2, 5, 16), floats(2, 7, 16, seed=1))
    with torch.no_grad():
        assert int8_calls(quantized, *arguments) == 8
        # About 1 % a layer; 8 of them.
        assert 0 < error_of(quantized(*arguments), model(*arguments)) < 0.05


def test_an_encoder_left_in_float_keeps_its_fast_path() -> None:
    model = nn.ModuleDict({"encoder": encoder_layer(), "head": nn.Linear(16, 3)}).eval()
    quantized = torchquant.quantize_dynamic(model, filter_fn=lambda module, name: name == "head")
    assert quantized["encoder"].activation_relu_or_gelu == model["encoder"].activation_relu_or_gelu


def test_filter_fn_is_asked_for_each_linear_by_its_name() -> None:
    asked: list[tuple[type[nn.Module], str]] = []

    def keep_heads(module: nn.Module, name: str) -> bool:
        asked.append((type(module), name))
        return not name.startswith("heads.")

    model = Nested()
    quantized = torchquant.quantize_dynamic(model, filter_fn=keep_heads)
    assert asked == [(nn.Linear, name) for name in names_of(model, nn.Linear)]
    assert names_of(quantized, nn.Linear) == ["heads.a", "heads.b"]
    assert len(names_of(quantized, DynamicLinear)) == 5


def test_filter_fn_sees_the_modules_of_the_model_given() -> None:
    model = Nested()
    chosen = model.blocks[1].inner[2]
    quantized = torchquant.quantize_dynamic(model, filter_fn=lambda module, name: module is chosen)
    assert names_of(quantized, DynamicLinear) == ["blocks.1.inner.2"]


@pytest.mark.parametrize(
    "modules", [{nn.Linear}, [nn.Linear], (nn.Linear,), frozenset({nn.Linear})]
)
def test_modules_may_be_any_collection(modules: Any) -> None:
    quantized = torchquant.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), modules)
    assert type(quantized[0]) is DynamicLinear


@pytest.mark.parametrize("name", MODELS)
def test_state_dict_round_trips(name: str, tmp_path: Path) -> None:
    model, x, _ = make(name)
    quantized = torchquant.quantize_dynamic(model)
    torch.save(quantized.state_dict(), tmp_path / "model.pt")
    torch.manual_seed(1)
    other = torchquant.quantize_dynamic(MODELS[name][0]().eval())
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    for one, wanted in zip(_flat(other(x)), _flat(quantized(x)), strict=True):
        assert torch.equal(one, wanted)


def _saved_whole(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), _saved_whole],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies_give_the_same_result(
    name: str, duplicate: Callable[[nn.Module], nn.Module]
) -> None:
    model, x, calls = make(name)
    quantized = torchquant.quantize_dynamic(model)
    other = duplicate(quantized)
    assert int8_calls(other, x) == calls
    for one, wanted in zip(_flat(other(x)), _flat(quantized(x)), strict=True):
        assert torch.equal(one, wanted)


@pytest.mark.parametrize("dtype", [F16, BF16])
@pytest.mark.parametrize("name", ["mlp", "nested", "encoder"])
def test_a_half_model_keeps_scales_and_biases_in_float32(name: str, dtype: torch.dtype) -> None:
    model, x, calls = make(name)
    quantized = torchquant.quantize_dynamic(model).to(dtype)
    for module in quantized.modules():
        if isinstance(module, DynamicLinear):
            assert module.weight_scale.dtype == torch.float32
            assert module.bias is None or module.bias.dtype == torch.float32
    assert int8_calls(quantized, x.to(dtype)) == calls
    # 3 % more than in float32: bfloat16 keeps 8 bits in every step between the layers.
    assert error_of(quantized(x.to(dtype)), model(x)) < 0.08
    for output in _flat(quantized(x.to(dtype))):
        assert output.dtype == dtype


def test_training_mode_is_kept() -> None:
    for training in (True, False):
        model = Nested().train(training)
        assert all(m.training == training for m in torchquant.quantize_dynamic(model).modules())


def test_quantizing_twice_says_that_nothing_is_left() -> None:
    quantized = torchquant.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(ValueError, match=r"nothing to quantize.*\(found .*1 DynamicLinear"):
        torchquant.quantize_dynamic(quantized)


@pytest.mark.any_kernels
def test_a_quantized_model_compiles_whole_and_exports_with_dynamic_rows() -> None:
    model, x, _ = make("nested")
    quantized = torchquant.quantize_dynamic(model)
    torch.compiler.reset()
    compiled = torch.compile(quantized, fullgraph=True, backend="aot_eager")
    rows = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(quantized, (x,), dynamic_shapes=(rows,))
    more = floats(4, 9, 12)
    for road, y in ((compiled, x), (program.module(), x), (program.module(), more)):
        for one, wanted in zip(road(y), quantized(y), strict=True):
            assert_same(one.detach(), wanted.detach())


def test_a_model_with_nothing_to_quantize_says_what_it_found() -> None:
    with pytest.raises(ValueError, match=r"^mod") as error:
        torchquant.quantize_dynamic(
            nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.ReLU())
        )
    assert str(error.value) == (
        "model has nothing to quantize: no module is exactly a Linear "
        "(found 2 Conv2d, 1 Sequential, 1 ReLU). Subclasses and functional calls are left in float"
    )
    with pytest.raises(ValueError, match="NonDynamicallyQuantizableLinear"):
        torchquant.quantize_dynamic(nn.MultiheadAttention(16, 4))


def test_a_filter_that_refuses_all_is_named() -> None:
    with pytest.raises(ValueError, match=r"^mod") as error:
        torchquant.quantize_dynamic(nn.Linear(4, 4), filter_fn=lambda module, name: False)
    assert str(error.value) == (
        "model has nothing to quantize: filter_fn refused every Linear (found 1 Linear)"
    )


@pytest.mark.parametrize(
    ("modules", "remark"),
    [
        ({nn.Conv2d}, "Conv2d must stay in float; "),
        ([nn.Linear, nn.Conv2d], "Conv2d must stay in float; "),
        ([nn.LSTM, nn.Linear, nn.GRU], "LSTM, GRU must stay in float; "),
        ([], ""),
    ],
)
def test_modules_that_cannot_be_quantized_are_named(modules: Any, remark: str) -> None:
    with pytest.raises(ValueError, match=r"^modules") as error:
        torchquant.quantize_dynamic(nn.Linear(4, 4), modules)
    assert str(error.value) == (
        f"modules must be {{torch.nn.Linear}}, but got {modules!r}: {remark}leave modules out to "
        "quantize every nn.Linear"
    )


@pytest.mark.parametrize(
    "modules",
    [
        nn.Linear,
        "fc1",
        {"fc1"},
        [nn.Linear, "fc1"],
        {nn.Linear: torch.ao.quantization.default_dynamic_qconfig},
        {"fc1": torch.ao.quantization.per_channel_dynamic_qconfig},
    ],
    ids=["type", "name", "names", "types-and-names", "qconfig-spec", "qconfigs-by-name"],
)
def test_what_torch_ao_takes_beyond_types_is_refused(modules: Any) -> None:
    """A qconfig must not be left out in silence, nor a name be taken for no layer."""
    with pytest.raises(TypeError) as error:
        torchquant.quantize_dynamic(nn.Linear(4, 4), modules)
    assert str(error.value) == (
        f"modules must be a set of module types, but got {modules!r}: pass {{torch.nn.Linear}}"
        ", and choose layers by name with filter_fn=lambda module, name: name in names"
    )


def test_a_filter_that_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError) as error:
        torchquant.quantize_dynamic(nn.Linear(4, 4), filter_fn="head")
    assert str(error.value) == (
        "filter_fn must be a function of (module, name), but got 'head': return False from it for "
        "layers that stay in float"
    )


@pytest.mark.parametrize("dtype", [torch.qint8, torch.int8])
def test_the_call_of_torch_ao_gives_the_same_model(dtype: torch.dtype) -> None:
    model, x, _ = make("mlp")
    expected = torchquant.quantize_dynamic(model)(x)
    for quantized in (
        torchquant.quantize_dynamic(model, {nn.Linear}, dtype),
        torchquant.quantize_dynamic(model, None, dtype),
        torchquant.quantize_dynamic(model, {nn.Linear}, dtype=dtype, inplace=True),
    ):
        assert names_of(quantized, DynamicLinear) == ["0", "2"]
        assert_same(quantized(x), expected)


@pytest.mark.parametrize(
    ("dtype", "repair"),
    [
        (torch.float16, "weights of 16 bits are model.to(torch.float16)"),
        (torch.bfloat16, "weights of 16 bits are model.to(torch.bfloat16)"),
        (torch.quint8, "leave it out, for weights have 8 signed bits"),
        (torch.quint4x2, "leave it out, for weights have 8 signed bits"),
        (torch.float32, "leave it out, for weights have 8 signed bits"),
        ("qint8", "leave it out, for weights have 8 signed bits"),
        (None, "leave it out, for weights have 8 signed bits"),
    ],
    ids=str,
)
def test_another_dtype_is_refused(dtype: Any, repair: str) -> None:
    model, _, _ = make("mlp")
    with pytest.raises(ValueError, match=r"^dtype") as error:
        torchquant.quantize_dynamic(model, {nn.Linear}, dtype, inplace=True)
    assert str(error.value) == (
        f"dtype must be torch.qint8 or torch.int8, but got {dtype!r}: {repair}"
    )
    assert names_of(model, nn.Linear) == ["0", "2"]


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(
        TypeError,
        match=r"^model must be a torch\.nn\.Module, but got dict: pass the model itself$",
    ):
        torchquant.quantize_dynamic({})


def test_a_refused_layer_is_named_and_the_model_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
    with torch.no_grad():
        model[1][0].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"^1\.0 must have a finite weight"):
        torchquant.quantize_dynamic(model, inplace=True)
    assert names_of(model, nn.Linear) == ["0", "1.0"]
    quantized = torchquant.quantize_dynamic(model, filter_fn=lambda module, name: name != "1.0")
    assert names_of(quantized, DynamicLinear) == ["0"]


def test_filter_fn_is_asked_under_every_name_of_a_shared_module() -> None:
    """It is one module, so one refusal keeps it in float everywhere."""
    asked: list[str] = []

    def record(module: nn.Module, name: str) -> bool:
        asked.append(name)
        return True

    torchquant.quantize_dynamic(Shared(), filter_fn=record)
    assert asked == ["first", "again", "block.0"]
    with pytest.raises(ValueError, match="filter_fn refused every Linear"):
        torchquant.quantize_dynamic(Shared(), filter_fn=lambda module, name: name != "again")


# quantize_static


def static(name: str, **options: Any) -> tuple[nn.Module, nn.Module, Tensor, int]:
    """A model, the static one of a calibration on its input, the input, and its linear calls."""
    model, x, calls = make(name)
    return model, torchquant.quantize_static(model, calibrated(model, x), **options), x, calls


@pytest.mark.parametrize("name", MODELS)
def test_every_linear_call_runs_statically(name: str) -> None:
    model, quantized, x, calls = static(name)
    assert operator_calls("linear_static", model, x) == 0
    with torch.inference_mode():
        assert operator_calls("linear_static", quantized, x) == calls
    assert operator_calls("linear_static", quantized, x) == calls
    assert int8_calls(quantized, x) == 0


@pytest.mark.parametrize("weight_method", ["minmax", "mse"])
@pytest.mark.parametrize("name", MODELS)
def test_the_static_output_is_close_to_the_float_model(name: str, weight_method: str) -> None:
    """6 % of the output's size for six layers on its way; 4 % where rows have their own ranges."""
    model, quantized, x, _ = static(name, weight_method=weight_method)
    with torch.no_grad():
        assert 0 < error_of(quantized(x), model(x)) < 0.06


@pytest.mark.parametrize("name", MODELS)
def test_the_static_result_is_that_of_replacing_each_layer_by_hand(name: str) -> None:
    model, quantized, x, _ = static(name)
    calibration = calibrated(model, x)
    by_hand = copy.deepcopy(model)
    made: dict[nn.Module, StaticLinear] = {}
    for layer_name, layer in by_hand.named_modules():
        if type(layer) is nn.Linear:
            made[layer] = StaticLinear.from_float(layer, *calibration.qparams(layer_name))
    for module in list(by_hand.modules()):
        for child_name, child in list(module._modules.items()):
            if child in made:
                setattr(module, child_name, made[child])
    by_hand = made.get(by_hand, by_hand)
    # Training mode is the one without a fused path; every dropout here is 0.
    for one, other in zip(_flat(quantized(x)), _flat(by_hand.train()(x)), strict=True):
        assert_same(one.detach(), other.detach())


@pytest.mark.parametrize("name", MODELS)
def test_the_original_is_left_alone_by_static(name: str) -> None:
    model, x, _ = make(name)
    calibration = calibrated(model, x)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attributes = [copy.copy(vars(module)) for module in model.modules()]
    torchquant.quantize_static(model, calibration)
    assert [vars(module) for module in model.modules()] == attributes
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", [name for name in MODELS if name != "linear"])
def test_static_inplace_changes_the_model_itself(name: str) -> None:
    model, quantized, x, calls = static(name)
    calibration = calibrated(model, x)
    expected = quantized(x)
    assert torchquant.quantize_static(model, calibration, inplace=True) is model
    assert operator_calls("linear_static", model, x) == calls
    for one, other in zip(_flat(model(x)), _flat(expected), strict=True):
        assert torch.equal(one, other)


def test_a_lone_linear_becomes_a_static_one() -> None:
    layer, x = nn.Linear(12, 20), floats(5, 12)
    calibration = calibrated(layer, x)
    for inplace in (False, True):
        quantized = torchquant.quantize_static(layer, calibration, inplace=inplace)
        assert type(quantized) is StaticLinear
        assert (quantized.input_scale, quantized.input_zero_point) == calibration.qparams("")
    assert type(layer) is nn.Linear


@pytest.mark.parametrize("method", METHODS)
def test_ranges_are_those_of_the_method(method: str) -> None:
    model, x = nn.Linear(12, 20), floats(500, 12)
    calibration = calibrated(model, x, method="entropy")
    quantized = torchquant.quantize_static(model, calibration, method=method)
    expected = calibration.qparams("", method=method)
    assert (quantized.input_scale, quantized.input_zero_point) == expected
    default = torchquant.quantize_static(model, calibration)
    assert (default.input_scale, default.input_zero_point) == calibration.qparams("")
    assert torch.equal(default.input_scale, expected[0]) == (method == "entropy")


def test_weights_are_those_of_the_weight_method() -> None:
    model = nn.Sequential(nn.Linear(32_768, 2), nn.ReLU())
    with torch.no_grad():
        model[0].weight.uniform_(-1, 1)[0, 0] = 8.0  # not worth its range
    calibration = calibrated(model, floats(2, 32_768))
    scales = []
    for method in ("minmax", "mse"):
        quantized = torchquant.quantize_static(model, calibration, weight_method=method)
        assert_same(quantized[0].weight_scale, quantize_weight(model[0].weight, method)[1])
        scales.append(quantized[0].weight_scale[0].item())
    assert scales[1] < scales[0]
    default = torchquant.quantize_static(model, calibration)
    assert default[0].weight_scale[0].item() == scales[0]


def test_a_saved_calibration_gives_the_same_model(tmp_path: Path) -> None:
    model, quantized, x, _ = static("nested")
    calibrated(model, x).save(tmp_path / "calibration")
    loaded = Calibration.load(tmp_path / "calibration")
    for one, other in zip(torchquant.quantize_static(model, loaded)(x), quantized(x), strict=True):
        assert torch.equal(one, other)


def test_static_filter_fn_leaves_layers_in_float() -> None:
    model, quantized, _, _ = static("nested", filter_fn=lambda module, name: name != "heads.a")
    assert names_of(quantized, nn.Linear) == ["heads.a"]
    assert len(names_of(quantized, StaticLinear)) == 6
    assert names_of(model, StaticLinear) == []


def test_layers_that_were_not_observed_stay_in_float() -> None:
    model, x, _ = make("nested")
    calibration = calibrated(model, x, filter_fn=lambda module, name: name.startswith("heads"))
    quantized = torchquant.quantize_static(model, calibration)
    assert names_of(quantized, StaticLinear) == ["heads.a", "heads.b"]


def test_observed_outputs_change_nothing() -> None:
    model, quantized, x, _ = static("mlp")
    calibration = calibrated(model, x, outputs=True)
    assert_same(torchquant.quantize_static(model, calibration)(x), quantized(x))


def test_static_keeps_shared_and_tied_modules() -> None:
    _, quantized, _, _ = static("shared")
    assert isinstance(quantized.first, StaticLinear)
    assert quantized.again is quantized.first
    assert quantized.block[0] is quantized.first
    _, quantized, _, _ = static("tied")
    left, right = quantized.left, quantized.right
    for buffer in ("packed_weight", "weight_scale", "weight_sum"):
        assert getattr(left, buffer).data_ptr() == getattr(right, buffer).data_ptr()
    assert left.input_scale.data_ptr() != right.input_scale.data_ptr()


def test_static_attention_keeps_its_out_proj() -> None:
    model, quantized, _, _ = static("attention")
    assert type(quantized.attention.out_proj) is type(model.attention.out_proj)
    assert type(quantized.after) is StaticLinear


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")  # the float model's own
def test_a_static_encoder_takes_padding() -> None:
    torch.manual_seed(0)
    model, x = encoder().eval(), floats(2, 5, 16)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    batch = {"src": x, "src_key_padding_mask": padding}
    quantized = torchquant.quantize_static(model, calibrated(model, batch))
    with torch.no_grad():
        assert operator_calls("linear_static", quantized, **batch) == 4
        # 6 % as above; what is padded is 0 in float's nested tensors and is compared with nothing.
        assert 0 < error_of(quantized(**batch)[~padding], model(**batch)[~padding]) < 0.06


@pytest.mark.parametrize("dtype", [F16, BF16])
@pytest.mark.parametrize("name", ["mlp", "nested", "encoder"])
def test_a_static_model_casts(name: str, dtype: torch.dtype) -> None:
    """The chain of the MLP too, whose last layer takes uint8 and gives what the model computes."""
    model, quantized, x, calls = static(name)
    expected = [output.detach() for output in _flat(model(x))]
    quantized = quantized.to(dtype)
    assert operator_calls("linear_static", quantized, x.to(dtype)) == calls
    outputs = _flat(quantized(x.to(dtype)))
    assert {output.dtype for output in outputs} == {dtype}
    # 3 % more than in float32: bfloat16 keeps 8 bits in every step between the layers.
    for output, wanted in zip(outputs, expected, strict=True):
        assert error_of(output.float(), wanted) < 0.09


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), _saved_whole],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies_of_static_models_give_the_same_result(
    name: str, duplicate: Callable[[nn.Module], nn.Module]
) -> None:
    _, quantized, x, _ = static(name)
    for one, wanted in zip(_flat(duplicate(quantized)(x)), _flat(quantized(x)), strict=True):
        assert torch.equal(one, wanted)


def test_training_mode_is_kept_by_static() -> None:
    for training in (True, False):
        model, x = Nested().train(training), floats(2, 5, 12)
        quantized = torchquant.quantize_static(model, calibrated(model, x))
        assert all(module.training == training for module in quantized.modules())


def static_refusal(
    model: nn.Module, calibration: Any, kind: type[Exception] = ValueError, **options: Any
) -> str:
    """The message; the model must be as it was, though it was to be changed in place."""
    kinds = {name: type(module) for name, module in model.named_modules()}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(kind) as error:
        torchquant.quantize_static(model, calibration, inplace=True, **options)
    assert {name: type(module) for name, module in model.named_modules()} == kinds
    for key, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[key].nan_to_num())
    return str(error.value)


def test_the_calibration_of_another_model_is_refused() -> None:
    model, x, _ = make("mlp")
    other = nn.Sequential(nn.Linear(12, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    assert static_refusal(model, calibrated(other, x)) == (
        "calibration must be of this model, but it has no nn.Linear of the name 1, 3: calibrate "
        "the model that is quantized"
    )


@pytest.mark.parametrize("given", [{}, None, "calibration.safetensors"])
def test_what_is_no_calibration_is_refused(given: object) -> None:
    model, _, _ = make("mlp")
    assert static_refusal(model, given, TypeError) == (
        f"calibration must be a Calibration, but got {type(given).__name__}: pass what "
        "torchquant.calibrate(model, batches) returned"
    )


def test_a_layer_that_no_batch_reached_is_refused() -> None:
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.never = nn.Linear(12, 12), nn.Linear(12, 12)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    model, x = Sometimes(), floats(5, 12)
    calibration = calibrated(model, x, x)
    assert static_refusal(model, calibration) == (
        "never was never called in 2 batches, so its range is not known: calibrate with data that "
        "reaches it, or leave it in float by filter_fn"
    )
    quantized = torchquant.quantize_static(
        model, calibration, filter_fn=lambda module, name: name != "never"
    )
    assert names_of(quantized, StaticLinear) == ["layer"]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"method": "max"},
            ValueError,
            "method must be one of minmax, percentile, mse, entropy, but got 'max': \"mse\" suits "
            "most activations",
        ),
        (
            {"weight_method": "percentile"},
            ValueError,
            'weight_method must be "minmax" or "mse", but got \'percentile\': "minmax" keeps every '
            "weight in range",
        ),
        (
            {"modules": {nn.Conv2d}},
            ValueError,
            f"modules must be {{torch.nn.Linear}}, but got { ({nn.Conv2d})!r}: Conv2d must stay in "
            "float; leave modules out to quantize every nn.Linear",
        ),
        (
            {"modules": nn.Linear},
            TypeError,
            "modules must be a set of module types, but got <class "
            "'torch.nn.modules.linear.Linear'>: pass {torch.nn.Linear}, and choose layers by name "
            "with filter_fn=lambda module, name: name in names",
        ),
        (
            {"filter_fn": "head"},
            TypeError,
            "filter_fn must be a function of (module, name), but got 'head': return False from it "
            "for layers that stay in float",
        ),
        (
            {"filter_fn": lambda module, name: False},
            ValueError,
            "model has nothing to quantize: filter_fn refused every Linear (found 2 Linear, 1 "
            "Sequential, 1 ReLU)",
        ),
    ],
)
def test_wrong_arguments_of_static_are_refused(
    options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    model, x, _ = make("mlp")
    assert static_refusal(model, calibrated(model, x), kind, **options) == message


def test_a_filter_that_refuses_what_was_calibrated_is_named() -> None:
    model, x, _ = make("mlp")
    calibration = calibrated(model, x, filter_fn=lambda module, name: name == "0")
    message = static_refusal(model, calibration, filter_fn=lambda module, name: name == "2")
    assert message == (
        "model has no calibrated layer left to quantize: filter_fn refused each of 0"
    )


def test_a_model_that_is_no_module_is_refused_by_static() -> None:
    model, x, _ = make("mlp")
    with pytest.raises(TypeError) as error:
        torchquant.quantize_static({}, calibrated(model, x))
    assert (
        str(error.value) == "model must be a torch.nn.Module, but got dict: pass the model itself"
    )


def test_layers_that_cannot_be_static_are_named() -> None:
    model, x, _ = make("mlp")
    calibration = calibrated(model, x)
    handle = model[2].register_forward_pre_hook(lambda module, arguments: None)
    assert static_refusal(model, calibration) == (
        "2 must have no hooks, which a quantized layer would not run, but has some: remove them "
        "first (torch.nn.utils.remove_weight_norm, torch.nn.utils.prune.remove, handle.remove()), "
        "or leave the layer in float by filter_fn"
    )
    handle.remove()
    with torch.no_grad():
        model[2].weight[1, 1] = torch.nan
    assert static_refusal(model, calibration).startswith("2 must have a finite weight, but [3, 20]")


# quantize_weights


def weight_only_calls(model: nn.Module, x: Tensor) -> tuple[int, int]:
    """How often weights were dequantized, and how often anything was computed in int8."""
    return operator_calls("dequantize_per_channel", model, x), int8_calls(model, x)


@pytest.mark.parametrize("name", MODELS)
def test_every_linear_call_takes_an_8_bit_weight(name: str) -> None:
    model, x, calls = make(name)
    assert weight_only_calls(model, x) == (0, 0)
    quantized = torchquant.quantize_weights(model)
    assert weight_only_calls(quantized, x) == (calls, 0)
    with torch.inference_mode():
        assert weight_only_calls(quantized, x) == (calls, 0)


@pytest.mark.parametrize("weight_method", ["minmax", "mse"])
@pytest.mark.parametrize("name", MODELS)
def test_the_result_is_that_of_the_float_model_with_the_quantized_weights(
    name: str, weight_method: str
) -> None:
    model, x, _ = make(name)
    quantized = torchquant.quantize_weights(model, weight_method=weight_method)
    with torch.no_grad():
        for layer_name, layer in model.named_modules():
            if type(layer) is nn.Linear:  # a new weight, for that of an embedding stays in float
                codes, scale = quantize_weight(layer.weight.detach(), weight_method)
                replaced = quantized.get_submodule(layer_name)
                assert_same(replaced.weight_scale, scale)
                layer.weight = nn.Parameter(codes.float() * scale[:, None])
    # Training mode is the one without a fused path; every dropout here is 0.
    for one, other in zip(_flat(quantized(x)), _flat(model.train()(x)), strict=True):
        assert_same(one.detach(), other.detach())


def test_the_weight_method_reaches_every_layer() -> None:
    model = nn.Sequential(nn.Linear(32_768, 2), nn.Sequential(nn.Linear(32_768, 2)))
    with torch.no_grad():
        for layer in (model[0], model[1][0]):
            layer.weight.copy_(floats(2, 32_768).clamp(-2, 2))[:, 0] = 16.0  # not worth its range
    minmax, mse = (
        torchquant.quantize_weights(model, weight_method=method) for method in ("minmax", "mse")
    )
    for name in names_of(mse, WeightOnlyLinear):
        layer = mse.get_submodule(name)
        _, scale = quantize_weight(model.get_submodule(name).weight.detach(), "mse")
        assert_same(layer.weight_scale, scale)
        assert (scale < minmax.get_submodule(name).weight_scale).all()
        assert layer.weight_snr_db > minmax.get_submodule(name).weight_snr_db


def test_weights_keep_what_dynamic_keeps() -> None:
    for model in (Nested().train(), Nested().eval()):
        chosen = torchquant.quantize_weights(
            model, {nn.Linear}, filter_fn=lambda module, name: not name.startswith("heads.")
        )
        assert names_of(chosen, nn.Linear) == ["heads.a", "heads.b"]
        assert len(names_of(chosen, WeightOnlyLinear)) == 5
        assert all(module.training == model.training for module in chosen.modules())
        assert names_of(model, WeightOnlyLinear) == []
    shared = torchquant.quantize_weights(Shared())
    assert shared.first is shared.again is shared.block[0]
    tied = torchquant.quantize_weights(Tied())
    assert tied.left is not tied.right
    assert tied.left.packed_weight is tied.right.packed_weight
    assert tied.left.weight_snr_db == tied.right.weight_snr_db
    attention = torchquant.quantize_weights(Attention())
    assert names_of(attention, WeightOnlyLinear) == ["after"]


def test_weights_are_quantized_in_place_on_request() -> None:
    model, x, _ = make("encoder")
    expected = torchquant.quantize_weights(model)(x)
    assert torchquant.quantize_weights(model, inplace=True) is model
    assert_same(model(x), expected)
    assert type(torchquant.quantize_weights(nn.Linear(3, 2), inplace=True)) is WeightOnlyLinear


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_a_half_model_gets_weights_of_its_dtype(dtype: torch.dtype) -> None:
    model, x, calls = make("mlp")
    for quantized in (
        torchquant.quantize_weights(model.to(dtype)),
        torchquant.quantize_weights(model).to(dtype),
    ):
        assert quantized(x.to(dtype)).dtype == dtype
        assert weight_only_calls(quantized, x.to(dtype)) == (calls, 0)


def test_gradients_pass_through_8_bit_weights() -> None:
    model, x, _ = make("encoder")
    x.requires_grad_()
    torchquant.quantize_weights(model)(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.ne(0).all()


def test_a_layer_of_any_number_of_inputs_gets_an_8_bit_weight() -> None:
    """Nothing is summed in int32."""
    layer, x = nn.Linear(65_794, 1), floats(2, 65_794)
    quantized = torchquant.quantize_weights(layer)
    assert_same(quantized(x), nn.functional.linear(x, quantized.weight, quantized.bias))


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"weight_method": "max"}, ValueError, r'^weight_method must be "minmax" or "mse", but'),
        ({"modules": {nn.Conv2d}}, ValueError, r"^modules must be \{torch\.nn\.Linear\}, but got"),
        ({"filter_fn": "head"}, TypeError, r"^filter_fn must be a function of \(module, name\)"),
        ({"filter_fn": lambda module, name: False}, ValueError, "filter_fn refused every Linear"),
        ({}, ValueError, r"^2 must have a finite weight, but \[3, 20\] holds NaN or Inf"),
    ],
    ids=["method", "modules", "filter", "nothing-left", "nan"],
)
def test_what_cannot_have_8_bit_weights_is_refused_and_left_alone(
    options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    model, _, _ = make("mlp")
    with torch.no_grad():
        model[2].weight[1, 1] = torch.nan
    with pytest.raises(kind, match=message):
        torchquant.quantize_weights(model, inplace=True, **options)
    assert names_of(model, nn.Linear) == ["0", "2"]


def test_a_layer_with_hooks_gets_no_8_bit_weight() -> None:
    model, _, _ = make("mlp")
    model[2].register_forward_hook(lambda module, arguments, output: 2 * output)
    with pytest.raises(ValueError, match=r"^2 must have no hooks"):
        torchquant.quantize_weights(model, inplace=True)
    assert names_of(model, nn.Linear) == ["0", "2"]


# What may go wrong on the way


QUANTIZE = {
    "dynamic": lambda model, x, **options: torchquant.quantize_dynamic(model, **options),
    "static": lambda model, x, **options: torchquant.quantize_static(
        model, calibrated(model, x), **options
    ),
    "weights": lambda model, x, **options: torchquant.quantize_weights(model, **options),
}
each_conversion = pytest.mark.parametrize("quantize", QUANTIZE.values(), ids=QUANTIZE.keys())


@each_conversion
def test_none_means_every_linear(quantize: Callable[..., nn.Module]) -> None:
    model, x, _ = make("mlp")
    assert_same(quantize(model, x, modules=None)(x), quantize(model, x)(x))


@each_conversion
def test_each_layer_is_checked_once(
    quantize: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, _ = make("mlp")
    checked: list[str] = []
    monkeypatch.setattr(weights, "check_weight", lambda layer, name: checked.append(name))
    quantize(model, x)
    assert checked == ["0", "2"]


class Stubborn(nn.Module):
    """Ctrl-C comes as a layer of it is replaced: before, or after."""

    def __init__(self, before: bool) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(12, 12) for _ in range(3))
        self.all_of_them = [self.first, self.second, self.third]
        self.before, self.armed = before, False

    def __setattr__(self, name: str, value: Any) -> None:
        strikes = name == "second" and self.__dict__.get("armed", False)
        if strikes and self.before:
            self.armed = False
            signal.raise_signal(signal.SIGINT)
        super().__setattr__(name, value)
        if strikes:
            self.armed = False
            signal.raise_signal(signal.SIGINT)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(torch.relu(self.second(torch.relu(self.first(x)))))


@each_conversion
@pytest.mark.parametrize("before", [True, False])
def test_ctrl_c_in_place_leaves_the_whole_model_in_float(
    quantize: Callable[..., nn.Module], before: bool
) -> None:
    model, x = Stubborn(before).eval(), floats(5, 12)
    layers, expected = dict(model.named_modules()), model(x)
    model.armed = True
    with pytest.raises(KeyboardInterrupt):
        quantize(model, x, inplace=True)
    assert dict(model.named_modules()) == layers
    assert model.all_of_them == [model.first, model.second, model.third]
    assert torch.equal(model(x), expected)
    assert len(names_of(quantize(model, x, inplace=True), nn.Linear)) == 0


def test_ctrl_c_in_place_leaves_an_encoder_its_fast_path() -> None:
    model, x, _ = make("encoder")
    layer = model.layers[1]
    with pytest.MonkeyPatch.context() as patch:
        put = replacement.Place.put

        def strike(self: replacement.Place, new: nn.Module, old: nn.Module) -> None:
            if self.parent is layer and type(new) is DynamicLinear:
                raise KeyboardInterrupt
            put(self, new, old)

        patch.setattr(replacement.Place, "put", strike)
        with pytest.raises(KeyboardInterrupt):
            torchquant.quantize_dynamic(model, inplace=True)
    assert names_of(model, DynamicLinear) == []
    assert model.use_nested_tensor is True
    assert layer.activation_relu_or_gelu == 1
    assert torch.equal(model(x), make("encoder")[0](x))


class Listed(nn.Module):
    """Layers that it has by name, and calls from a plain container."""

    def __init__(self, hold: Callable[[list[nn.Module]], Any]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)
        self.held = hold([self.first, self.second])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        held = self.held
        while not isinstance(held, nn.Module):
            held = list(held.values() if isinstance(held, dict) else held)[-1]
        return held(x)


@each_conversion
@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize(
    "hold",
    [
        list,
        tuple,
        lambda layers: dict(enumerate(layers)),
        lambda layers: {layers[1]},
        lambda layers: [("a", (1, [layers[1]]))],
    ],
    ids=["list", "tuple", "dict", "set", "nested"],
)
def test_a_layer_in_a_plain_container_is_replaced_there_too(
    quantize: Callable[..., nn.Module], inplace: bool, hold: Callable[[list[nn.Module]], Any]
) -> None:
    torch.manual_seed(0)
    model, x = Listed(hold).eval(), floats(5, 12)
    quantized = quantize(model, x, inplace=inplace)
    expected = quantized.second(torch.relu(quantized.first(x)))
    assert type(quantized.second) is not nn.Linear
    assert_same(quantized(x), expected)
    if not inplace:
        assert type(model.second) is nn.Linear
        assert not torch.equal(model(x), expected)


def test_a_list_that_holds_itself_ends() -> None:
    model = Listed(list)
    model.held.append(model.held)
    quantized = torchquant.quantize_dynamic(model)
    assert quantized.held[0] is quantized.first
    assert type(quantized.first) is DynamicLinear


@each_conversion
def test_a_model_wrapped_by_compile_is_refused(quantize: Callable[..., nn.Module]) -> None:
    model, x, _ = make("mlp")
    message = (
        "must not be wrapped by torch.compile, but is: pass what was compiled, its _orig_mod, and "
        "compile the result"
    )
    for wrapped, name in (
        (torch.compile(model), "model"),
        (nn.Sequential(nn.Identity(), torch.compile(model)), "1"),
    ):
        with pytest.raises(ValueError, match="must not be wrapped") as error:
            quantize(wrapped, x)
        assert str(error.value) == f"{name} {message}"


@pytest.mark.any_kernels
def test_a_model_compiled_in_place_is_calibrated_and_quantized() -> None:
    """nn.Module.compile leaves names alone; what it compiled knows nothing of later hooks."""
    torch.compiler.reset()
    torch.manual_seed(0)
    model, x = Listed(list).eval(), floats(5, 12)
    expected = torchquant.quantize_static(model, calibrated(model, x))(x)
    graphs: list[Any] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    model.compile(backend=backend)
    with torch.no_grad():
        model(x)
    calibration = calibrated(model, x)
    assert len(graphs) == 1
    assert calibration.calls == {"first": 1, "second": 1}
    assert_same(torchquant.quantize_static(model, calibration)(x), expected)
    torchquant.quantize_static(model, calibration, inplace=True)
    with torch.no_grad():
        assert_same(model(x), expected)


def other_widths() -> tuple[nn.Module, nn.Module, Tensor]:
    """Two models with layers of the same names, and data of the first."""
    return (
        nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 3)),
        nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 3)),
        floats(5, 12),
    )


def test_the_calibration_of_a_model_of_another_width_is_refused() -> None:
    model, other, x = other_widths()
    message = (
        "calibration must be of this model, but 2, with 40 inputs here, was calibrated with {}: "
        "calibrate the model that is quantized"
    )
    assert static_refusal(other, calibrated(model, x)) == message.format("20 inputs")
    narrow = calibrated(model, x, x)  # 200 values, which are whole rows of 40 too
    assert static_refusal(other, narrow) == message.format("20 inputs")


def test_a_loaded_calibration_of_another_width_is_refused(tmp_path: Path) -> None:
    """The file holds counts: those of no whole number of rows give it away."""
    model, other, x = other_widths()
    calibrated(model, x).save(tmp_path / "calibration")
    loaded = torchquant.Calibration.load(tmp_path / "calibration")
    assert static_refusal(other, loaded) == (
        "calibration must be of this model, but 2, with 40 inputs here, was calibrated with 100 "
        "values: calibrate the model that is quantized"
    )
    torchquant.quantize_static(model, loaded)
    with pytest.raises(ValueError, match="other must be a calibration of the same layers") as error:
        calibrated(model, x).merge(calibrated(other, x))
    assert str(error.value) == (
        "other must be a calibration of the same layers, but 2 has 40 inputs there and 20 here: "
        "calibrate the same model"
    )
