"""torchquant.observers: modules that record ranges, by the ecosystem's protocol."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from calibrations import counts_of, range_of
from operator_tests import assert_same
from samples import BF16, F16, floats
from torch import Tensor, nn

from torchquant import Calibration
from torchquant.observers import (
    EntropyObserver,
    HistogramObserver,
    MinMaxObserver,
    MSEObserver,
    PercentileObserver,
    PerChannelMinMaxObserver,
)

OBSERVERS: dict[str, Callable[..., HistogramObserver]] = {
    "minmax": MinMaxObserver,
    "percentile": PercentileObserver,
    "mse": MSEObserver,
    "entropy": EntropyObserver,
}
ALL: dict[str, Callable[..., nn.Module]] = {**OBSERVERS, "per-channel": PerChannelMinMaxObserver}

CODES = [(0, 255, False), (-128, 127, True), (-8, 7, True), (0, 15, False), (-128, 127, False)]


def observed(observer: Any, *tensors: Tensor) -> Any:
    for tensor in tensors:
        observer(tensor)
    return observer


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    state, expected = one.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    for name, value in state.items():
        assert_same(value, expected[name])
    for result, wanted in zip(one.calculate_qparams(), other.calculate_qparams(), strict=True):
        assert_same(result, wanted)


@pytest.mark.parametrize("name", ALL)
def test_forward_gives_its_input_back(name: str) -> None:
    x = floats(5, 6)
    before = x.clone()
    assert ALL[name]()(x) is x
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ALL)
def test_gradients_pass(name: str) -> None:
    x = floats(5, 6).requires_grad_()
    observer = ALL[name]()
    (2 * observer(3 * x)).sum().backward()
    assert x.grad is not None
    assert x.grad.eq(6).all()
    assert not any(value.requires_grad for value in observer.state_dict().values())


@pytest.mark.parametrize("name", OBSERVERS)
def test_the_state_is_the_histogram(name: str) -> None:
    a, b = floats(5, 6), 3 * floats(7, seed=1)
    observer = observed(OBSERVERS[name](), a, b)
    assert set(observer.state_dict()) == {"counts", "range"}
    assert torch.equal(observer.counts, counts_of(a, b))
    assert observer.range.tolist() == range_of(a, b)
    assert not list(observer.parameters())


@pytest.mark.parametrize(("quant_min", "quant_max", "symmetric"), CODES)
@pytest.mark.parametrize("name", OBSERVERS)
def test_qparams_are_those_of_the_operator(
    name: str, quant_min: int, quant_max: int, symmetric: bool
) -> None:
    x = floats(50, 60)
    observer = observed(
        OBSERVERS[name](quant_min=quant_min, quant_max=quant_max, symmetric=symmetric), x
    )
    expected = torch.ops.torchquant.histogram_qparams(
        observer.counts, observer.range, quant_min, quant_max, symmetric, name, 99.99
    )
    assert_same(observer.calculate_qparams(), expected)
    assert (observer.method, observer.percentile) == (name, 99.99)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", OBSERVERS)
def test_qparams_are_those_of_a_calibration(name: str, symmetric: bool) -> None:
    codes = (-128, 127) if symmetric else (0, 255)
    observer, calibration = OBSERVERS[name](**_codes(codes, symmetric)), Calibration(["x"])
    for x in (floats(50, 60), floats(9, seed=1), floats(0, 3)):
        observer(x)
        calibration.observe("x", x)
    result = observer.calculate_qparams()
    assert_same(result, calibration.qparams("x", method=name, symmetric=symmetric))
    assert [value.shape for value in result] == [(), ()]


def _codes(codes: tuple[int, int], symmetric: bool) -> dict[str, Any]:
    return {"quant_min": codes[0], "quant_max": codes[1], "symmetric": symmetric}


def test_the_percentile_is_the_one_given() -> None:
    x = floats(50, 60)
    scales = [observed(PercentileObserver(p), x).calculate_qparams()[0].item() for p in (90, 99)]
    calibration = Calibration(["x"])
    calibration.observe("x", x)
    assert scales == [
        calibration.qparams("x", method="percentile", percentile=p)[0].item() for p in (90, 99)
    ]
    assert scales[0] < scales[1]


def test_minmax_is_exact() -> None:
    x = floats(50, 60)
    expected = torch.ops.torchquant.choose_qparams_per_tensor(x, 0, 255, False)
    assert_same(observed(MinMaxObserver(), *x.split(7)).calculate_qparams(), expected)


@pytest.mark.parametrize("name", OBSERVERS)
def test_nothing_observed_gives_scale_1(name: str) -> None:
    scale, zero_point = OBSERVERS[name](quant_min=5, quant_max=9).calculate_qparams()
    assert (scale.item(), zero_point.item()) == (1.0, 5)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
@pytest.mark.parametrize(("quant_min", "quant_max", "symmetric"), CODES)
def test_per_channel_is_the_exact_range_of_each_slice(
    axis: int, quant_min: int, quant_max: int, symmetric: bool
) -> None:
    x = floats(4, 3, 5) * torch.tensor([0.1, 1, 10]).view(3, 1)
    parts = x.split(2, dim=0) if axis in (1, 2, -1) else x.split(2, dim=1)
    observer = observed(PerChannelMinMaxObserver(axis, quant_min, quant_max, symmetric), *parts)
    slices = x.movedim(axis, 0).reshape(x.size(axis), -1)
    assert_same(observer.min_val, slices.amin(1))
    assert_same(observer.max_val, slices.amax(1))
    assert_same(
        observer.calculate_qparams(),
        torch.ops.torchquant.choose_qparams_per_channel(x, axis, quant_min, quant_max, symmetric),
    )


def test_per_channel_takes_one_value_for_each() -> None:
    """A tensor of one dimension, such as a bias."""
    observer = observed(
        PerChannelMinMaxObserver(), torch.tensor([1.0, -2.0]), torch.tensor([3.0, 4])
    )
    assert observer.min_val.tolist() == [1.0, -2.0]
    assert observer.max_val.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("dtype", [F16, BF16])
@pytest.mark.parametrize("name", ALL)
def test_half_inputs_are_observed_as_float32(name: str, dtype: torch.dtype) -> None:
    x = floats(5, 6, dtype=dtype)
    assert_same_state(observed(ALL[name](), x), observed(ALL[name](), x.float()))


@pytest.mark.parametrize("name", ALL)
def test_empty_inputs_change_nothing(name: str) -> None:
    x = floats(5, 6)
    observer = observed(ALL[name](), x[:0], x, x[:0])
    assert_same_state(observer, observed(ALL[name](), x))


@pytest.mark.parametrize("name", ALL)
def test_works_under_inference_mode(name: str) -> None:
    x, observer = floats(5, 6), ALL[name]()
    with torch.inference_mode():
        observer(x)
    observer(2 * x)
    assert_same_state(observer, observed(ALL[name](), x, 2 * x))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", OBSERVERS)
def test_nan_and_inf_are_refused(name: str, bad: float) -> None:
    observer = observed(OBSERVERS[name](), torch.tensor([1.0, bad]), floats(5))
    with pytest.raises(RuntimeError) as error:
        observer.calculate_qparams()
    assert str(error.value).splitlines()[0] == (
        "counts must hold finite values only, but got 1 of NaN or Inf: find out where the observed "
        "tensor took them from, or observe again without them"
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("symmetric", [True, False])
def test_nan_and_inf_of_a_channel_are_refused(bad: float, symmetric: bool) -> None:
    x = floats(3, 4)
    x[1, 2] = bad
    observer = observed(PerChannelMinMaxObserver(symmetric=symmetric), x, floats(3, 4))
    with pytest.raises(ValueError, match="NaN") as error:
        observer.calculate_qparams()
    assert str(error.value) == (
        "NaN or Inf was observed: find out where the observed tensor took them from"
    )


def test_a_channel_observer_that_saw_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing") as error:
        PerChannelMinMaxObserver().calculate_qparams()
    assert str(error.value) == "nothing was observed: pass tensors through the observer first"


def test_another_number_of_channels_is_refused() -> None:
    observer = observed(PerChannelMinMaxObserver(-1), floats(5, 6))
    with pytest.raises(ValueError, match="channels") as error:
        observer(floats(5, 7))
    assert str(error.value) == (
        "input must have 6 channels, as before, but got 7 in dimension -1: one observer for each "
        "tensor"
    )


@pytest.mark.parametrize(
    ("quant_min", "quant_max", "symmetric", "message"),
    [
        (
            5,
            5,
            False,
            "quant_min and quant_max must satisfy -65536 <= quant_min < quant_max <= 65535, but "
            "got 5 and 5: int8 is -128 and 127, uint8 is 0 and 255",
        ),
        (
            0,
            65536,
            False,
            "quant_min and quant_max must satisfy -65536 <= quant_min < quant_max <= 65535, but "
            "got 0 and 65536: int8 is -128 and 127, uint8 is 0 and 255",
        ),
        (
            -65537,
            0,
            False,
            "quant_min and quant_max must satisfy -65536 <= quant_min < quant_max <= 65535, but "
            "got -65537 and 0: int8 is -128 and 127, uint8 is 0 and 255",
        ),
        (
            0,
            255,
            True,
            "quant_min and quant_max must lie on both sides of 0 when symmetric is true, but got 0 "
            "and 255: pass -128 and 127, or symmetric=False",
        ),
        (
            -128,
            0,
            True,
            "quant_min and quant_max must lie on both sides of 0 when symmetric is true, but got "
            "-128 and 0: pass -128 and 127, or symmetric=False",
        ),
    ],
)
@pytest.mark.parametrize("name", ALL)
def test_codes_that_are_none_are_refused(
    name: str, quant_min: int, quant_max: int, symmetric: bool, message: str
) -> None:
    with pytest.raises(ValueError, match="quant_min") as error:
        ALL[name](quant_min=quant_min, quant_max=quant_max, symmetric=symmetric)
    assert str(error.value) == message


@pytest.mark.parametrize("percentile", [50, 100.1, math.nan])
def test_percentiles_that_are_none_are_refused(percentile: float) -> None:
    with pytest.raises(ValueError, match="percentile") as error:
        PercentileObserver(percentile)
    assert str(error.value) == (
        f"percentile must lie in (50, 100], but got {percentile}: 99.99 is usual"
    )


@pytest.mark.parametrize("name", OBSERVERS)
def test_float64_is_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match=r"got torch\.float64: convert it with \.float\(\)"):
        OBSERVERS[name]()(floats(5).double())


def _saved_script(module: torch.jit.ScriptModule) -> Any:
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


# TorchScript is deprecated as a whole.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.any_kernels
@pytest.mark.parametrize("name", ALL)
def test_scripts_saves_and_loads(name: str) -> None:
    a, b = floats(5, 6), floats(5, 6, seed=1) * 3
    scripted = torch.jit.script(ALL[name]())
    assert torch.equal(scripted(a), a)
    loaded = _saved_script(scripted)
    assert_same_state(loaded, observed(ALL[name](), a))
    loaded(b)
    assert_same_state(loaded, observed(ALL[name](), a, b))
    assert_same_state(scripted, observed(ALL[name](), a))
    loaded.reset()
    loaded(b)
    assert_same_state(loaded, observed(ALL[name](), b))
    loaded(torch.full((5, 6), math.nan))
    with pytest.raises((RuntimeError, torch.jit.Error), match="NaN or Inf"):
        loaded.calculate_qparams()


# TorchScript is deprecated as a whole.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.any_kernels
def test_a_scripted_model_observes() -> None:
    model = nn.Sequential(MSEObserver(), nn.Linear(6, 3), PerChannelMinMaxObserver(-1))
    x = floats(5, 6)
    scripted = torch.jit.script(model)
    with torch.no_grad():
        y = scripted(x)
    assert torch.equal(scripted.state_dict()["0.counts"], counts_of(x))
    assert torch.equal(scripted.state_dict()["2.max_val"], y.amax(0))


@pytest.mark.parametrize("name", ALL)
def test_the_state_dict_round_trips(name: str) -> None:
    observer = observed(ALL[name](), floats(5, 6))
    file = io.BytesIO()
    torch.save(observer.state_dict(), file)
    file.seek(0)
    fresh = observed(ALL[name](), floats(5, 6, seed=3) * 9)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert_same_state(fresh, observer)
    fresh(9 * floats(5, 6))
    assert_same_state(observer, observed(ALL[name](), floats(5, 6)))
    parent = nn.Sequential(ALL[name]())
    parent.load_state_dict({f"0.{key}": value for key, value in observer.state_dict().items()})
    assert_same_state(parent[0], observer)


def test_a_channel_observer_loads_an_unused_one() -> None:
    observer = observed(PerChannelMinMaxObserver(), floats(5, 6))
    observer.load_state_dict(PerChannelMinMaxObserver().state_dict())
    assert observer.min_val.shape == (0,)


@pytest.mark.filterwarnings("ignore:.*meta parameter:UserWarning")
@pytest.mark.parametrize("name", ALL)
def test_loading_leaves_an_observer_on_its_device(name: str) -> None:
    observer = ALL[name]().to("meta")
    observer.load_state_dict(observed(ALL[name](), floats(5, 6)).state_dict())
    assert {value.device.type for value in observer.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("name", ALL)
def test_copies_are_equal_and_apart(name: str, duplicate: Callable[[Any], Any]) -> None:
    observer = observed(ALL[name](), floats(5, 6))
    other = duplicate(observer)
    assert_same_state(other, observer)
    other(9 * floats(5, 6))
    assert_same_state(observer, observed(ALL[name](), floats(5, 6)))
    assert_same_state(other, observed(ALL[name](), floats(5, 6), 9 * floats(5, 6)))


@pytest.mark.parametrize(
    "convert",
    [
        lambda m: m.half(),
        lambda m: m.to(BF16),
        lambda m: m.double(),
        lambda m: nn.Sequential(m).half()[0],
    ],
)
@pytest.mark.parametrize("name", ALL)
def test_casts_reach_no_bit_of_the_state(name: str, convert: Callable[[Any], Any]) -> None:
    observer = convert(observed(ALL[name](), floats(5, 6)))
    expected = observed(ALL[name](), floats(5, 6))
    assert_same_state(observer, expected)
    assert_same_state(
        observed(observer, floats(5, 6, seed=1)), observed(expected, floats(5, 6, seed=1))
    )


@pytest.mark.parametrize("name", ALL)
def test_reset_forgets(name: str) -> None:
    for sign in (-1, 1):
        x = sign * (1 + floats(5, 6).abs())
        observer = observed(ALL[name](), 100 * floats(5, 6))
        observer.reset()
        assert_same_state(observed(observer, x), observed(ALL[name](), x))


@pytest.mark.parametrize("name", OBSERVERS)
def test_merge_adds_what_another_observed(name: str) -> None:
    a, b = floats(5, 6), floats(7, seed=1) * 3
    one, other = observed(OBSERVERS[name](), a), observed(MinMaxObserver(), b)
    assert one.merge(other) is one
    assert_same_state(one, observed(OBSERVERS[name](), a, b))
    assert_same_state(other, observed(MinMaxObserver(), b))


@pytest.mark.parametrize(
    ("observer", "text"),
    [
        (MSEObserver(), "MSEObserver(quant_min=0, quant_max=255, symmetric=False)"),
        (
            PerChannelMinMaxObserver(1),
            "PerChannelMinMaxObserver(ch_axis=1, quant_min=-128, quant_max=127, symmetric=True)",
        ),
    ],
)
def test_repr_shows_the_numbers(observer: nn.Module, text: str) -> None:
    assert repr(observer) == text


def test_the_state_is_float32_whatever_the_default_dtype() -> None:
    x = floats(5, 6)
    torch.set_default_dtype(torch.float64)
    try:
        observers = {name: observed(kind(), x) for name, kind in ALL.items()}
    finally:
        torch.set_default_dtype(torch.float32)
    for name, observer in observers.items():
        assert_same_state(observer, observed(ALL[name](), x))
