"""Arguments of the Python functions that are of another type: refused by name, with the repair."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchquant
from torchquant import functional, observers, ops
from torchquant.calibration import Calibration
from torchquant.histogram import Histogram
from torchquant.nn import DynamicLinear, StaticLinear, WeightOnlyLinear

pytestmark = pytest.mark.any_kernels

X = torch.ones(2, 3)
CODES, SCALES = torch.ones(2, 3, dtype=torch.int8), torch.ones(2)
NO_INTEGERS: list[object] = [8.0, "8", True, None, math.nan]
NO_NUMBERS: list[object] = ["99", True, None]
OBSERVERS = [
    observers.MinMaxObserver,
    observers.PercentileObserver,
    observers.MSEObserver,
    observers.EntropyObserver,
    observers.PerChannelMinMaxObserver,
]
LAYERS = [DynamicLinear, StaticLinear, WeightOnlyLinear]


def calibration() -> Calibration:
    found = Calibration(["layer"])
    found.observe("layer", X)
    return found


def percentiles(value: Any) -> list[Callable[[], object]]:
    return [
        lambda: Calibration(["layer"], percentile=value),
        lambda: calibration().qparams("layer", percentile=value or ""),
        lambda: observers.PercentileObserver(value),
        lambda: torchquant.calibrate(nn.Linear(3, 2), [X], percentile=value, progress=False),
    ]


def integers(value: Any) -> list[tuple[str, Callable[[], object]]]:
    """Every argument that is an integer."""
    return [
        ("dim", lambda: functional.per_channel_quantize(X, 8, value)),
        ("dim", lambda: functional.per_channel_dequantize(CODES, SCALES, value)),
        ("num_bits", lambda: calibration().qparams("layer", num_bits=value)),
        ("num_bits", lambda: calibration().rows(num_bits=value)),
        ("num_bits", lambda: calibration().clip("layer", "mse", num_bits=value)),
        *(
            (name, lambda kind=kind, name=name: kind(**{name: value}))  # type: ignore[misc]
            for kind in OBSERVERS
            for name in ("quant_min", "quant_max")
        ),
        ("ch_axis", lambda: observers.PerChannelMinMaxObserver(ch_axis=value)),
        *(
            (name, lambda kind=kind, name=name: kind(**{**SIZES, name: value}))  # type: ignore[misc]
            for kind in LAYERS
            for name in SIZES
        ),
    ]


SIZES = {"in_features": 3, "out_features": 2}


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
def test_what_is_no_integer(value: object) -> None:
    for name, call in integers(value):
        with pytest.raises(TypeError) as error:
            call()
        message = f"{name} must be an integer, but got {value!r}: "
        assert str(error.value).startswith(message)
        assert len(str(error.value)) > len(message)


def test_integers_of_numpy_are_integers() -> None:
    one, two, eight = map(np.int64, (1, 2, 8))
    assert functional.per_channel_quantize(X, 8, one)[1].shape == (3,)  # type: ignore[arg-type]
    wanted = calibration().qparams("layer", num_bits=8)
    assert calibration().qparams("layer", num_bits=eight) == wanted  # type: ignore[arg-type]
    assert DynamicLinear(two, one)(torch.ones(1, 2)).shape == (1, 1)  # type: ignore[arg-type]
    observer = observers.PerChannelMinMaxObserver(one)  # type: ignore[arg-type]
    observer(X)
    assert observer.calculate_qparams()[0].shape == (3,)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number(value: object) -> None:
    for call in percentiles(value):
        with pytest.raises(TypeError, match=r"^percentile must be a number, but got ") as error:
            call()
        assert str(error.value).endswith(": 99.99 is usual")


@pytest.mark.parametrize("value", ["8", 8, None, ["mse"], True], ids=repr)
def test_what_is_none_of_the_strings(value: Any) -> None:
    linear = nn.Linear(3, 2)
    scale, zero_point = torch.tensor(0.1), torch.tensor(3, dtype=torch.int32)
    calls: list[tuple[str, Callable[[], object]]] = [
        ("method", lambda: Calibration(["layer"], value)),
        ("method", lambda: observers.HistogramObserver(value)),
        ("weight_method", lambda: torchquant.quantize_weights(linear, weight_method=value)),
        ("weight_method", lambda: WeightOnlyLinear.from_float(linear, weight_method=value)),
        (
            "weight_method",
            lambda: StaticLinear.from_float(linear, scale, zero_point, weight_method=value),
        ),
        ("dtype", lambda: torchquant.quantize_dynamic(linear, dtype=value)),
        *(
            ("activation", lambda kind=kind: kind(3, 2, activation=value))  # type: ignore[misc]
            for kind in LAYERS
        ),
    ]
    for name, call in calls:
        with pytest.raises(ValueError, match=f"^{name} must be ") as error:
            call()
        assert f"but got {value!r}: " in str(error.value)


@pytest.mark.parametrize("value", [0.1, "0.1", None, [0.1]], ids=repr)
@pytest.mark.parametrize("name", ["input_scale", "input_zero_point"])
def test_qparams_that_are_no_tensors(name: str, value: Any) -> None:
    qparams: dict[str, Any] = {
        "input_scale": torch.tensor(0.1),
        "input_zero_point": torch.tensor(3, dtype=torch.int32),
    }
    with pytest.raises(TypeError) as error:
        StaticLinear.from_float(nn.Linear(3, 2), **{**qparams, name: value})
    assert str(error.value) == (
        f"{name} must be a tensor, but got {value!r}: pass what Calibration.qparams returned"
    )


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", list(SIZES))
def test_negative_sizes(kind: type[nn.Module], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must not be negative, but got -1: pass that"):
        kind(**{**SIZES, name: -1})


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.bool, torch.complex64])
@pytest.mark.parametrize("kind", OBSERVERS)
def test_observers_take_float_tensors_only(kind: type[nn.Module], dtype: torch.dtype) -> None:
    observer = kind()
    with pytest.raises(RuntimeError) as error:
        observer(torch.ones(2, 3, dtype=dtype))
    assert str(error.value).splitlines()[0] == (
        f"input must be float32, float16 or bfloat16, but got {dtype}: convert it with .float()"
    )


@pytest.mark.parametrize("ch_axis", [2, -3])
@pytest.mark.parametrize("x", [torch.ones(2, 3), torch.ones(0, 3)], ids=["values", "empty"])
def test_a_channel_axis_that_is_not_there(ch_axis: int, x: Tensor) -> None:
    with pytest.raises(RuntimeError) as error:
        observers.PerChannelMinMaxObserver(ch_axis)(x)
    assert str(error.value) == (
        f"input must have a dimension ch_axis={ch_axis}, but got shape {list(x.shape)}: make an "
        "observer with the dimension of its channels"
    )


def test_operators_name_arguments_of_another_type() -> None:
    """Torch's own words: it checks them against the schema."""
    calls: list[tuple[str, Callable[[], object]]] = [
        ("num_bits", lambda: ops.pack_bits(CODES, 8.0)),  # type: ignore[arg-type]
        ("quant_min", lambda: ops.choose_qparams_per_tensor(X, 0.5, 255, False)),  # type: ignore[arg-type]
        ("axis", lambda: ops.dequantize_per_channel(CODES, SCALES, SCALES, "0")),  # type: ignore[arg-type]
        ("percentile", lambda: Histogram().qparams(0, 255, False, "mse", "99")),  # type: ignore[arg-type]
    ]
    for name, call in calls:
        with pytest.raises(RuntimeError, match=rf"for argument '{name}' but instead found type"):
            call()
