"""torchquant.calibrate: what is observed, in which mode, and what is left of it in the model."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from calibrations import (
    METHODS,
    assert_same_state,
    calibrated,
    counts_of,
    exact_data,
    exact_model,
    range_of,
)
from models import Attention, Nested, Shared, Tied, encoder, encoder_layer
from samples import BF16, F16, floats
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import torchquant
from torchquant import Calibration


class Recorder(nn.Module):
    """A layer called twice, which doubles; one called for positive data; one that never is."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(4, 4, bias=False)
        with torch.no_grad():
            self.twice.weight.copy_(2 * torch.eye(4))
        self.rarely = nn.Linear(4, 4)
        self.never = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(x))
        return self.rarely(x) if bool((x[0, 0] > 0).item()) else x


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def refusal(
    model: nn.Module, batches: Any, kind: type[Exception] = ValueError, **keywords: Any
) -> str:
    before = hooks_of(model)
    with pytest.raises(kind) as error:
        torchquant.calibrate(model, batches, progress=False, **keywords)
    assert hooks_of(model) == before
    return str(error.value)


def test_counts_are_those_of_what_the_layers_took() -> None:
    model, x = exact_model(), exact_data()
    calibration = calibrated(model, x[:100], x[100:])
    hidden = torch.relu(model[0](x))
    assert calibration.names == ["0", "2"]
    for name, taken in (("0", x), ("2", hidden)):
        assert torch.equal(calibration.histograms[name].counts, counts_of(taken))
        assert calibration.histograms[name].range.tolist() == range_of(taken)
    assert calibration.calls == {"0": 2, "2": 2}
    assert calibration.batches == 2
    assert not calibration.interrupted
    assert (calibration.method, calibration.percentile) == ("mse", 99.99)


def test_outputs_are_observed_where_asked() -> None:
    model, x = exact_model(), exact_data()
    calibration = calibrated(model, x, outputs=True)
    assert calibration.names == ["0", "2", "0:output", "2:output"]
    for name, given in (("0:output", model[0](x)), ("2:output", model(x))):
        assert torch.equal(calibration.histograms[name].counts, counts_of(given))
        assert calibration.histograms[name].range.tolist() == range_of(given)
    assert calibration.calls == dict.fromkeys(calibration.names, 1)
    assert hooks_of(model) == 0


@pytest.mark.parametrize("batch_size", [1, 2, 3, 6, 64])
def test_batch_sizes_change_no_bit(batch_size: int) -> None:
    model, x = exact_model(), exact_data()
    whole = calibrated(model, x)
    parts = calibrated(model, *x.split(batch_size))
    assert_same_state(parts, whole, but_for=("calls", "batches"))
    assert parts.batches == len(x) // batch_size
    for name in whole.names:
        for method in METHODS:
            assert parts.qparams(name, method=method) == whole.qparams(name, method=method)


def test_order_changes_no_bit() -> None:
    model, x = exact_model(), exact_data()
    shuffled = x[torch.randperm(len(x))]
    forward, backward = calibrated(model, *x.split(6)), calibrated(model, *x.split(6)[::-1])
    assert_same_state(backward, forward)
    assert_same_state(calibrated(model, *shuffled.split(6)), forward)


def test_threads_change_no_bit() -> None:
    """Half a million values: enough for the operator to share out."""
    layer, x = nn.Linear(64, 1), floats(8192, 64)
    threads = torch.get_num_threads()
    states = []
    try:
        for count in (1, 2, 3, 4):
            torch.set_num_threads(count)
            states.append(calibrated(layer, x))
    finally:
        torch.set_num_threads(threads)
    for state in states:
        assert_same_state(state, states[0])
    assert torch.equal(states[0].histograms[""].counts, counts_of(x))


def test_merged_halves_equal_the_whole() -> None:
    model, x = exact_model(), exact_data()
    batches = x.split(6)
    merged = calibrated(model, *batches[::2]).merge(calibrated(model, *batches[1::2]))
    assert_same_state(merged, calibrated(model, *batches))


def test_a_lone_linear_has_the_empty_name() -> None:
    x = floats(5, 12)
    calibration = calibrated(nn.Linear(12, 3), x)
    assert calibration.names == [""]
    assert torch.equal(calibration.histograms[""].counts, counts_of(x))


def test_names_are_those_of_the_model() -> None:
    model = Nested()
    expected = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    assert calibrated(model, floats(2, 5, 12)).names == expected
    assert "blocks.1.inner.2" in expected


def test_calls_are_counted_and_layers_never_called_named() -> None:
    below, above = torch.eye(4).diag().neg().diag(), 3 * torch.eye(4)
    calibration = calibrated(Recorder(), below, above)
    assert calibration.calls == {"twice": 4, "rarely": 1, "never": 0}
    assert calibration.never_called == ["never"]
    twice = counts_of(below, 2 * below + 0.0, above, 2 * above)
    assert torch.equal(calibration.histograms["twice"].counts, twice)
    assert calibration.histograms["twice"].range.tolist() == [-2.0, 6.0]
    assert torch.equal(calibration.histograms["rarely"].counts, counts_of(4 * above))


def test_a_shared_module_is_observed_once_a_call_under_its_first_name() -> None:
    calibration = calibrated(Shared(), floats(5, 16))
    assert calibration.calls == {"first": 3}
    assert calibration.histograms["first"].count == 3 * 5 * 16


def test_tied_layers_are_observed_apart() -> None:
    assert calibrated(Tied(), torch.arange(6).reshape(2, 3)).calls == {"left": 1, "right": 1}


def test_subclasses_are_not_observed() -> None:
    assert calibrated(Attention(), floats(2, 5, 16)).names == ["after"]


def test_filter_fn_leaves_layers_out() -> None:
    model = Nested()
    calibration = calibrated(
        model, floats(2, 5, 12), filter_fn=lambda module, name: module is not model.stem
    )
    assert "stem" not in calibration.names
    assert len(calibration.names) == 6


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, *, shift: float = 0.0) -> Tensor:
        return self.layer(input=x + shift)


def test_layers_called_by_keyword_are_observed() -> None:
    x = floats(5, 4)
    calibration = calibrated(Keywords(), {"x": x, "shift": 1.0})
    assert torch.equal(calibration.histograms["layer"].counts, counts_of(x + 1.0))


class Star(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, *tensors: Tensor, **more: Tensor) -> Tensor:
        return self.layer(sum((*tensors, *more.values()), torch.zeros(())))


def test_batches_of_each_kind() -> None:
    a, b = floats(5, 4), floats(5, 4, seed=1)
    expected = counts_of(a + b)
    for batch in ((a, b), [a, b], {"a": a, "b": b}):
        calibration = calibrated(Star(), batch)
        assert torch.equal(calibration.histograms["layer"].counts, expected)


def _generator(x: Tensor) -> Iterator[Tensor]:
    yield from x.split(6)


@pytest.mark.parametrize(
    "batches",
    [
        _generator,
        lambda x: ((part,) for part in x.split(6)),
        lambda x: DataLoader(TensorDataset(x), batch_size=6, shuffle=True),
        lambda x: DataLoader(x, batch_size=6),
        lambda x: map(list, zip(x.split(6), strict=True)),
        lambda x: dict(enumerate(x.split(6))).values(),
    ],
    ids=["generator", "of-tuples", "loader", "loader-of-tensors", "map", "view"],
)
def test_batches_may_be_any_iterable(batches: Callable[[Tensor], Any]) -> None:
    model, x = exact_model(), exact_data()
    calibration = torchquant.calibrate(model, batches(x), progress=False)
    assert_same_state(calibration, calibrated(model, *x.split(6)))


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_half_models_are_observed_as_they_compute(dtype: torch.dtype) -> None:
    model, x = exact_model().to(dtype), floats(7, 16, dtype=dtype)
    calibration = calibrated(model, x)
    hidden = torch.relu(model[0](x))
    assert torch.equal(calibration.histograms["0"].counts, counts_of(x))
    assert torch.equal(calibration.histograms["2"].counts, counts_of(hidden))


def test_strided_and_expanded_inputs() -> None:
    x = floats(16, 9).t()
    calibration = calibrated(nn.Linear(16, 3), x, floats(1, 16).expand(4, 16))
    expected = counts_of(x, floats(1, 16).expand(4, 16))
    assert torch.equal(calibration.histograms[""].counts, expected)


def test_a_layer_with_no_rows_was_called_and_gives_scale_1() -> None:
    calibration = calibrated(nn.Linear(4, 4), torch.empty(0, 4))
    assert calibration.calls == {"": 1}
    assert calibration.never_called == []
    scale, zero_point = calibration.qparams("")
    assert (scale.item(), zero_point.item()) == (1.0, 0)


def test_runs_under_inference_mode_and_can_be_used_outside() -> None:
    model, x = exact_model(), exact_data()
    with torch.inference_mode():
        inside = calibrated(model, x)
    outside = calibrated(model, x)
    assert_same_state(inside, outside)
    assert_same_state(inside.merge(outside), calibrated(model, x, x))
    inside.observe("0", x)
    with torch.inference_mode():
        outside.merge(calibrated(model, x))
    assert outside.batches == 2


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_layers_of_an_encoder_are_observed_in_every_mode(mode: Callable[[], Any]) -> None:
    """Its fused path would call none of them."""
    model, x = encoder(), floats(2, 5, 16)
    with mode():
        calibration = calibrated(model, x)
    assert calibration.calls == dict.fromkeys(
        ["layers.0.linear1", "layers.0.linear2", "layers.1.linear1", "layers.1.linear2"], 1
    )


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_an_encoder_with_padding_is_observed(mode: Callable[[], Any]) -> None:
    """nn.TransformerEncoder would turn a padded input into a nested tensor."""
    model, x = encoder(), floats(2, 5, 16)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    nested = model.use_nested_tensor
    with mode():
        calibration = calibrated(model, {"src": x, "src_key_padding_mask": padding})
    assert calibration.histograms["layers.1.linear2"].count == 2 * 5 * 40
    assert model.use_nested_tensor is nested


def test_gradients_are_off() -> None:
    seen: list[bool] = []
    model = exact_model()
    handle = model[1].register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    calibrated(model, exact_data())
    handle.remove()
    assert seen == [False]


def normalized() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(12), nn.Dropout(0.9), nn.Linear(12, 3))


def test_a_model_in_training_is_calibrated_in_evaluation() -> None:
    model, x = normalized().train(), exact_data()
    model[2].eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    calibration = calibrated(model, x)
    assert [module.training for module in model.modules()] == modes
    assert modes == [True, True, True, False, True]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    model.eval()
    assert torch.equal(calibration.histograms["3"].counts, counts_of(model[:3](x)))


class Failing(nn.Module):
    """Raises what it is told to, in the batch it is told to."""

    def __init__(self, error: BaseException, batch: int) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.error, self.left = error, batch

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.left == 0:
            raise self.error
        self.left -= 1
        return self.second(x)


def test_an_error_of_the_model_passes_and_leaves_nothing_behind() -> None:
    error = ZeroDivisionError("of the model")
    model = Failing(error, 1).train()
    assert refusal(model, [exact_data()] * 3, ZeroDivisionError) == "of the model"
    assert all(module.training for module in model.modules())


def test_an_error_of_the_data_passes_and_leaves_nothing_behind() -> None:
    def batches() -> Iterator[Tensor]:
        yield exact_data()
        raise OSError("disk")

    model = exact_model().train()
    assert refusal(model, batches(), OSError) == "disk"
    assert all(module.training for module in model.modules())


def test_ctrl_c_keeps_what_was_seen() -> None:
    model, x = Failing(KeyboardInterrupt(), 2).train(), exact_data()
    with pytest.warns(UserWarning, match="calibration was interrupted") as caught:
        calibration = calibrated(model, x, x, x, x)
    assert [str(warning.message) for warning in caught] == [
        "calibration was interrupted: it has 2 whole batches, and what the layers saw of the next"
    ]
    assert caught[0].filename.endswith("calibrations.py")
    assert calibration.interrupted
    assert calibration.batches == 2
    assert calibration.calls == {"first": 3, "second": 2}
    assert torch.equal(calibration.histograms["first"].counts, 3 * counts_of(x))
    assert hooks_of(model) == 0
    assert all(module.training for module in model.modules())
    assert "interrupted: the last batch is only partly in it" in calibration.summary()


def test_ctrl_c_in_the_data_keeps_what_was_seen() -> None:
    def batches() -> Iterator[Tensor]:
        yield exact_data()
        raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="it has 1 whole batches"):
        calibration = torchquant.calibrate(exact_model(), batches(), progress=False)
    assert calibration.interrupted
    assert_same_state(calibration, calibrated(exact_model(), exact_data()), but_for=["interrupted"])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, F16, BF16])
def test_nan_and_inf_name_the_layer_and_the_batch(bad: float, dtype: torch.dtype) -> None:
    model, x = exact_model().to(dtype), exact_data().to(dtype)
    wrong = x.clone()
    wrong[7, 3] = bad
    assert refusal(model, [x, x, wrong, x]) == (
        "0 saw NaN or Inf in batch 2: look at what this batch holds, compute in float32, or leave "
        "the layer out by filter_fn"
    )


def test_nan_that_the_model_makes_names_the_first_layer_to_see_it() -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.Sequential(nn.LogSigmoid(), nn.Linear(8, 4)))
    with torch.no_grad():
        model[0].weight.mul_(torch.finfo(torch.float32).max)
    assert refusal(model, [exact_data()]).startswith("1.1 saw NaN or Inf in batch 0: ")
    assert calibrated(model, exact_data(), filter_fn=lambda module, name: name == "0").batches == 1


def test_nan_in_an_output_is_named() -> None:
    layer = nn.Linear(16, 8)
    with torch.no_grad():
        layer.bias[3] = torch.nan
    assert refusal(layer, [exact_data()], outputs=True).startswith(
        ":output saw NaN or Inf in batch"
    )
    assert refusal(nn.Linear(16, 8), [exact_data() / 0]).startswith("model saw NaN or Inf in batch")


def test_a_float64_model_is_refused_with_the_repair() -> None:
    message = refusal(exact_model().double(), [exact_data().double()])
    assert message == (
        "0 must take float32, float16 or bfloat16, but took torch.float64 in batch 0: convert "
        "model and batches with .float()"
    )


def test_labels_in_a_loader_are_named() -> None:
    loader = DataLoader(TensorDataset(exact_data(), torch.zeros(192)), batch_size=6)
    message = refusal(exact_model(), loader)
    assert re.fullmatch(
        r"batch 0 gives Tensor, Tensor, but forward takes \(input.*\) \(too many positional "
        r"arguments\): leave labels out, as in \(\(x,\) for x, _ in loader\)",
        message,
    )
    left_out = torchquant.calibrate(exact_model(), ((x,) for x, _ in loader), progress=False)
    assert left_out.batches == 32


def test_keywords_that_forward_does_not_take_are_named() -> None:
    message = refusal(Keywords(), [{"x": exact_data(), "y": exact_data()}])
    assert message.startswith("batch 0 gives x, y, but forward takes (x: ")
    assert "got an unexpected keyword argument 'y'" in message


@pytest.mark.parametrize("empty", [[], (), iter(()), DataLoader(TensorDataset(torch.empty(0, 16)))])
def test_no_batches_are_refused(empty: Any) -> None:
    assert refusal(exact_model(), empty) == (
        "batches gave none: pass a list or a DataLoader, for an iterator that was used up gives "
        "nothing more"
    )


def test_a_generator_used_up_is_refused() -> None:
    batches = _generator(exact_data())
    assert torchquant.calibrate(exact_model(), batches, progress=False).batches == 32
    assert refusal(exact_model(), batches).startswith("batches gave none")


@pytest.mark.parametrize(
    ("batches", "name"),
    [
        (exact_data(), "Tensor"),
        ({"input": exact_data()}, "dict"),
        ("batches", "str"),
        (None, "NoneType"),
        (3, "int"),
    ],
)
def test_batches_that_are_none_are_refused(batches: Any, name: str) -> None:
    assert refusal(exact_model(), batches, TypeError) == (
        f"batches must be an iterable of batches, but got {name}: pass a list of one batch, "
        "[batch], or a DataLoader"
    )


@pytest.mark.parametrize(("batch", "name"), [("text", "str"), (3.0, "float"), (None, "NoneType")])
def test_a_batch_of_another_type_is_refused(batch: Any, name: str) -> None:
    assert refusal(exact_model(), [exact_data(), batch], TypeError) == (
        f"batch 1 must be a tensor, a tuple, a list or a dict, but is a {name}: convert it to what "
        "the model's forward takes"
    )


@pytest.mark.parametrize(
    ("keywords", "kind", "message"),
    [
        (
            {"method": "max"},
            ValueError,
            "method must be one of minmax, percentile, mse, entropy, but got 'max': \"mse\" suits "
            "most activations",
        ),
        (
            {"percentile": 50},
            ValueError,
            "percentile must lie in (50, 100], but got 50: 99.99 is usual",
        ),
        (
            {"percentile": 100.5},
            ValueError,
            "percentile must lie in (50, 100], but got 100.5: 99.99 is usual",
        ),
        (
            {"percentile": torch.nan},
            ValueError,
            "percentile must lie in (50, 100], but got nan: 99.99 is usual",
        ),
        (
            {"filter_fn": "0"},
            TypeError,
            "filter_fn must be a function of (module, name), but got '0': return False from it for "
            "layers that stay in float",
        ),
        (
            {"filter_fn": lambda module, name: False},
            ValueError,
            "model has nothing to quantize: filter_fn refused every Linear (found 2 Linear, 1 "
            "Sequential, 1 ReLU)",
        ),
    ],
)
def test_arguments_that_are_wrong_are_refused(
    keywords: dict[str, Any], kind: type[Exception], message: str
) -> None:
    assert refusal(exact_model(), [exact_data()], kind, **keywords) == message


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError) as error:
        torchquant.calibrate(lambda x: x, [exact_data()], progress=False)
    assert str(error.value) == (
        "model must be a torch.nn.Module, but got function: pass the model itself"
    )


# TorchScript is deprecated as a whole.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.any_kernels
def test_scripted_layers_are_not_found() -> None:
    scripted = torch.jit.script(exact_model())
    assert refusal(scripted, [exact_data()]) == (
        "model has nothing to quantize: no module is exactly a Linear (found 4 "
        "RecursiveScriptModule). Subclasses and functional calls are left in float"
    )
    mixed = nn.Sequential(nn.Linear(16, 16), scripted)
    assert calibrated(mixed, exact_data()).names == ["0"]


def test_the_model_computes_the_same_afterwards() -> None:
    model, x = encoder_layer().eval(), floats(2, 5, 16)
    fast_path = model.activation_relu_or_gelu
    with torch.inference_mode():
        expected = model(x)
        calibrated(model, x)
        assert torch.equal(model(x), expected)
    assert model.activation_relu_or_gelu == fast_path


def test_hooks_of_the_user_run_and_stay() -> None:
    model, x = exact_model(), exact_data()
    calls: list[str] = []
    model[0].register_forward_pre_hook(lambda module, arguments: (2 * arguments[0],))
    model[0].register_forward_hook(lambda *_: calls.append("after"))
    calibration = calibrated(model, x)
    assert calls == ["after"]
    assert hooks_of(model) == 2
    # The pre-hook was there first, so what the layer takes is what it gives.
    assert torch.equal(calibration.histograms["0"].counts, counts_of(2 * x))


def test_progress_is_shown_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    torchquant.calibrate(exact_model(), exact_data().split(64))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "calibrating: 100%" in shown.err
    assert "3/3" in shown.err
    torchquant.calibrate(exact_model(), exact_data().split(64), progress=False)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_calibrating_twice_and_merging_adds_up() -> None:
    model, x = exact_model(), exact_data()
    first = calibrated(model, x)
    twice = calibrated(model, x).merge(first)
    assert isinstance(twice, Calibration)
    assert_same_state(twice, calibrated(model, x, x))
    assert first.batches == 1
