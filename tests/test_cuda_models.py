"""Layers, conversion, calibration, observers and files on a GPU: what they are on the CPU.

The float operations of these models are exact, whatever the order of their sums, so that all of
their results compare to the bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from calibrations import METHODS, assert_same_state, calibrated, exact_data, exact_model
from models import MODELS, make
from on_device import DEVICE, needs_device, results_difference
from operator_tests import Results, assert_same
from samples import BF16, F16, I8, I32, U8, bytes_, floats
from torch import Tensor, nn

import torchquant
from torchquant import functional, observers, ops
from torchquant.nn import DynamicLinear, QuantizedLinear, StaticLinear, WeightOnlyLinear
from torchquant.weights import check_weight, quantize_weight, snr_db

pytestmark = [needs_device, pytest.mark.any_kernels]


def assert_same_as_on_the_cpu(result: Results, expected: Results) -> None:
    found = results_difference("", result, expected)
    assert not found, found


def on_device(module: nn.Module) -> nn.Module:
    """A copy of it there."""
    return copy.deepcopy(module).to(DEVICE)


def chain() -> nn.Sequential:
    """Layers with nothing but relus between them."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(70, 33), nn.ReLU(), nn.Linear(33, 64), nn.Linear(64, 17, bias=False), nn.ReLU()
    ).eval()


def dynamic(model: nn.Module) -> nn.Module:
    return torchquant.quantize_dynamic(model)


def static(model: nn.Module) -> nn.Module:
    """By a calibration on the CPU, wherever the model is."""
    calibration = calibrated(chain(), floats(50, 70))
    return torchquant.quantize_static(model, calibration)


def static_unchained(model: nn.Module) -> nn.Module:
    calibration = calibrated(chain(), floats(50, 70))
    return torchquant.quantize_static(model, calibration, chain=False)


CONVERSIONS = {"dynamic": dynamic, "static": static, "static-unchained": static_unchained}
EVERY_CONVERSION = pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS)
Convert = Callable[[nn.Module], nn.Module]


def assert_same_model(one: nn.Module, other: nn.Module) -> None:
    """The tensors of one on the device, those of the other on the CPU."""
    state, expected = one.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    for key, value in state.items():
        found = results_difference("", value, expected[key])
        assert not found, f"{key}: {found}"


@EVERY_CONVERSION
def test_a_converted_model_moves(convert: Convert) -> None:
    model = convert(chain())
    moved_model = on_device(model)
    assert_same_model(moved_model, model)
    for dtype in (torch.float32, F16, BF16):
        for shape in ((70,), (1, 70), (9, 70), (2, 3, 70), (0, 70)):
            x = floats(*shape, dtype=dtype)
            if dtype != torch.float32 and convert is static:
                continue  # chained layers give float32, which what follows may not take
            assert_same_as_on_the_cpu(moved_model(x.to(DEVICE)), model(x))
    assert_same(moved_model.to("cpu")(floats(9, 70)), model(floats(9, 70)))


@EVERY_CONVERSION
def test_a_model_is_converted_where_it_is(convert: Convert) -> None:
    """Weights, their sums and the ranges of activations, too."""
    model, there = convert(chain()), convert(chain().to(DEVICE))
    assert_same_model(there, model)
    x = floats(9, 70)
    assert_same_as_on_the_cpu(there(x.to(DEVICE)), model(x))
    for one, other in zip(there.modules(), model.modules(), strict=True):
        if isinstance(one, QuantizedLinear):
            assert isinstance(other, QuantizedLinear)
            assert one.weight_snr_db == pytest.approx(other.weight_snr_db, rel=1e-14)


@EVERY_CONVERSION
def test_state_dicts_cross_devices(convert: Convert) -> None:
    model, x = convert(chain()), floats(9, 70)
    there = on_device(model)
    for buffer in there.buffers():
        buffer.zero_()
    there.load_state_dict(model.state_dict())
    assert_same_as_on_the_cpu(there(x.to(DEVICE)), model(x))
    back = copy.deepcopy(model)
    for buffer in back.buffers():
        buffer.zero_()
    back.load_state_dict(there.state_dict())
    assert_same(back(x), model(x))


@EVERY_CONVERSION
def test_files_are_the_same_from_every_device(convert: Convert, tmp_path: Path) -> None:
    model, x = convert(chain()), floats(9, 70)
    torchquant.save_quantized(model, tmp_path / "cpu.safetensors")
    torchquant.save_quantized(on_device(model), tmp_path / "device.safetensors")
    saved = (tmp_path / "device.safetensors").read_bytes()
    assert saved == (tmp_path / "cpu.safetensors").read_bytes()
    there = torchquant.load_quantized(chain().to(DEVICE), tmp_path / "cpu.safetensors")
    assert_same_model(there, model)
    assert_same_as_on_the_cpu(there(x.to(DEVICE)), model(x))


def listed(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["dynamic", "static", "weights"])
def test_every_model_runs_and_gives_what_it_gives_on_the_cpu(name: str, kind: str) -> None:
    """But for the float operations in it, which no device rounds like another."""
    model, x, _ = make(name)
    convert: dict[str, Convert] = {
        "dynamic": torchquant.quantize_dynamic,
        "static": lambda model: torchquant.quantize_static(model, calibrated(model, x)),
        "weights": torchquant.quantize_weights,
    }
    quantized = convert[kind](model)
    with torch.no_grad():
        expected, result = quantized(x), on_device(quantized)(x.to(DEVICE))
    pairs = (
        [(result, expected)] if isinstance(result, Tensor) else zip(result, expected, strict=True)
    )
    for one, other in pairs:
        assert one.device.type == DEVICE
        # A value beside a tie may go to the next code.
        assert (one.cpu() - other).norm() <= 0.02 * other.norm()


@pytest.mark.parametrize("dtype", [torch.float32, F16, BF16], ids=str)
def test_layers(dtype: torch.dtype) -> None:
    linear = nn.Linear(70, 35).to(dtype)
    scale, zero_point = torch.tensor(0.08), torch.tensor(117, dtype=I32)
    makers: list[Callable[[nn.Linear], QuantizedLinear]] = [
        lambda linear: DynamicLinear.from_float(linear, "relu"),
        lambda linear: StaticLinear.from_float(linear, scale, zero_point),
        WeightOnlyLinear.from_float,
    ]
    x = floats(9, 70, dtype=dtype)
    for from_float in makers:
        layer, there = from_float(linear), from_float(on_device(linear))  # type: ignore[arg-type]
        assert_same_model(there, layer)
        assert_same_as_on_the_cpu(there.weight, layer.weight)
        result, expected = there(x.to(DEVICE)), layer(x)
        if isinstance(layer, WeightOnlyLinear):
            torch.testing.assert_close(result.cpu(), expected, rtol=0.02, atol=0.02)
        else:
            assert_same_as_on_the_cpu(result, expected)
        there.half()
        assert there.weight_scale.dtype == torch.float32
        assert_same_model(there, layer)


def test_a_weight_only_layer_is_exact_on_exact_data() -> None:
    linear, x = exact_model()[0], exact_data()
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.weight.mul_(127 / 64)  # a scale of 1/64
    layer = WeightOnlyLinear.from_float(linear)
    assert layer.weight_scale.unique().tolist() == [1 / 64]
    there = on_device(layer)
    assert_same_as_on_the_cpu(there(x.to(DEVICE)).detach(), layer(x).detach())


def test_gradients_pass_through_weight_only_layers() -> None:
    layer = on_device(WeightOnlyLinear.from_float(nn.Linear(70, 35)))
    x = floats(9, 70).to(DEVICE).requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.device.type == DEVICE


def test_weights() -> None:
    for dtype in (torch.float32, F16, BF16):
        weight = floats(35, 70, dtype=dtype)
        there = weight.to(DEVICE)
        assert_same_as_on_the_cpu(quantize_weight(there), quantize_weight(weight))
        codes, scale = quantize_weight(there, "mse")
        assert codes.device.type == scale.device.type == DEVICE
        close = ops.dequantize_per_channel(
            codes, scale, torch.zeros_like(scale, dtype=I32), 0
        ).cpu()
        assert snr_db(weight.float(), close) > 30
    bad = nn.Linear(4, 3).to(DEVICE)
    with torch.no_grad():
        bad.weight[1, 2] = torch.nan
    with pytest.raises(ValueError, match="layer must have a finite weight"):
        check_weight(bad, "layer")


def test_weight_report() -> None:
    options: dict[str, Any] = {"group_size": 16, "progress": False}
    expected = torchquant.weight_report(chain(), **options)
    found = torchquant.weight_report(chain().to(DEVICE), **options)
    assert found.rows() == expected.rows()
    assert found.totals() == expected.totals()


# Calibration


def test_calibration() -> None:
    model, x = exact_model(), exact_data()
    expected = calibrated(model, *x.split(50), outputs=True)
    found = calibrated(on_device(model), *x.to(DEVICE).split(50), outputs=True)
    assert_same_state(found, expected)
    for name in expected.names:
        for method in METHODS:
            for symmetric in (False, True):
                assert_same(
                    found.qparams(name, method=method, symmetric=symmetric),
                    expected.qparams(name, method=method, symmetric=symmetric),
                )
    assert found.summary() == expected.summary()
    assert_same_state(
        found.merge(expected), expected.merge(calibrated(model, *x.split(50), outputs=True))
    )


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_calibration_of_half_activations(dtype: torch.dtype) -> None:
    x = floats(64, 16, dtype=dtype)
    layer = nn.Linear(16, 3).to(dtype)
    assert_same_state(calibrated(on_device(layer), x.to(DEVICE)), calibrated(layer, x))


def test_a_model_calibrated_and_quantized_there() -> None:
    model, x = exact_model(), exact_data()
    there = on_device(model)
    expected = torchquant.quantize_static(model, calibrated(model, x))
    found = torchquant.quantize_static(there, calibrated(there, x.to(DEVICE)))
    assert_same_model(found, expected)
    assert_same_as_on_the_cpu(found(x.to(DEVICE)), expected(x))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_and_inf_are_named(bad: float) -> None:
    model, x = on_device(exact_model()), exact_data().to(DEVICE)
    x[7, 3] = bad
    with pytest.raises(ValueError, match="0 saw NaN or Inf in batch 0"):
        calibrated(model, x)


def test_a_saved_calibration_is_the_same(tmp_path: Path) -> None:
    calibrated(exact_model(), exact_data()).save(tmp_path / "cpu.safetensors")
    there = calibrated(on_device(exact_model()), exact_data().to(DEVICE))
    there.save(tmp_path / "device.safetensors")
    saved = (tmp_path / "device.safetensors").read_bytes()
    assert saved == (tmp_path / "cpu.safetensors").read_bytes()


# Observers

OBSERVERS: dict[str, Callable[[], nn.Module]] = {
    "minmax": observers.MinMaxObserver,
    "percentile": observers.PercentileObserver,
    "mse": observers.MSEObserver,
    "entropy": observers.EntropyObserver,
    "per-channel": observers.PerChannelMinMaxObserver,
}
EVERY_OBSERVER = pytest.mark.parametrize("make_observer", OBSERVERS.values(), ids=OBSERVERS)


def observed(observer: Any, *tensors: Tensor) -> Any:
    for tensor in tensors:
        assert observer(tensor) is tensor
    return observer


@EVERY_OBSERVER
def test_observers(make_observer: Callable[[], Any]) -> None:
    tensors = floats(5, 60), 3 * floats(5, 7, seed=1), floats(5, 9, dtype=F16), floats(8, 5).t()
    expected = observed(make_observer(), *tensors)
    found = observed(make_observer().to(DEVICE), *(tensor.to(DEVICE) for tensor in tensors))
    assert_same_model(found, expected)
    assert_same_as_on_the_cpu(found.calculate_qparams(), expected.calculate_qparams())
    half = found.half()
    assert_same_as_on_the_cpu(half.calculate_qparams(), expected.calculate_qparams())
    found.reset()
    expected.reset()
    assert_same_model(found, expected)


@EVERY_OBSERVER
def test_states_of_observers_cross_devices(make_observer: Callable[[], Any]) -> None:
    """And stay on the device of the one that loads them."""
    expected = observed(make_observer(), floats(5, 60))
    found = make_observer().to(DEVICE)
    found.load_state_dict(expected.state_dict())
    assert_same_model(found, expected)
    back = make_observer()
    back.load_state_dict(found.state_dict())
    for name, value in back.state_dict().items():
        assert value.device.type == "cpu"
        assert_same(value, expected.state_dict()[name])


def test_observers_of_both_devices_merge() -> None:
    here, there = floats(5, 60), floats(7, 9, seed=1)
    expected = observed(observers.MSEObserver(), here, there)
    found = observed(observers.MSEObserver().to(DEVICE), there.to(DEVICE))
    assert_same_model(found.merge(observed(observers.MSEObserver(), here)), expected)
    on_cpu = observed(observers.MSEObserver(), here)
    on_cpu.merge(observed(observers.MSEObserver().to(DEVICE), there.to(DEVICE)))
    assert_same(on_cpu.counts, expected.counts)
    assert_same(on_cpu.range, expected.range)


# The default device


def test_a_default_device_changes_nothing(tmp_path: Path) -> None:
    """Calibrations stay on the CPU, layers go where the default says."""
    model, x = exact_model(), exact_data()
    calibration = calibrated(model, x)
    calibration.save(tmp_path / "calibration.safetensors")
    expected = torchquant.quantize_static(model, calibration)
    there = on_device(model)
    with torch.device(DEVICE):
        found = calibrated(there, x.to(DEVICE))
        assert_same_state(found, calibration)
        loaded = torchquant.Calibration.load(tmp_path / "calibration.safetensors")
        assert_same_state(loaded, calibration)
        assert loaded.summary() == calibration.summary()
        low, high, counts = loaded.histograms["0"].occupied()
        quantized = torchquant.quantize_static(there, loaded)
        layer = DynamicLinear(70, 35)
    assert (low <= high).all()
    assert counts.sum() == x.numel()
    assert_same_model(quantized, expected)
    assert layer.packed_weight.device.type == DEVICE


# The functions of a tensor


@pytest.mark.parametrize("dtype", [torch.float32, F16, BF16], ids=str)
def test_functional(dtype: torch.dtype) -> None:
    x = floats(7, 33, dtype=dtype)
    there = x.to(DEVICE)
    for bits in (2, 4, 8, 12, 16):
        q, scale = functional.symmetric_quantize(x, bits)
        found = functional.symmetric_quantize(there, bits)
        assert_same_as_on_the_cpu(found, (q, scale))
        restored = functional.symmetric_dequantize(*found)
        assert_same_as_on_the_cpu(restored, functional.symmetric_dequantize(q, scale))
        affine, expected = (
            functional.asymmetric_quantize(there, bits),
            functional.asymmetric_quantize(x, bits),
        )
        assert_same_as_on_the_cpu(affine, expected)
        assert_same_as_on_the_cpu(
            functional.asymmetric_dequantize(*affine), functional.asymmetric_dequantize(*expected)
        )
        for dim in (0, 1, -1):
            channels, wanted = (functional.per_channel_quantize(t, bits, dim) for t in (there, x))
            assert_same_as_on_the_cpu(channels, wanted)
            assert_same_as_on_the_cpu(
                functional.per_channel_dequantize(*channels, dim),
                functional.per_channel_dequantize(*wanted, dim),
            )


def test_compute_quantization_error() -> None:
    x, y = floats(91, 101), floats(91, 101, seed=1)
    expected = functional.compute_quantization_error(x, y)
    found = functional.compute_quantization_error(x.to(DEVICE), y.to(DEVICE))
    assert found.pop("snr_db") == pytest.approx(expected.pop("snr_db"), rel=1e-14)
    assert found == expected


def test_functions_of_operators() -> None:
    """Those of torchquant.ops, which take `out`."""
    x = floats(9, 13)
    scale, zero_point = ops.choose_qparams_per_tensor(x.to(DEVICE), 0, 255, False)
    out = torch.empty(9, 13, dtype=U8, device=DEVICE)
    assert ops.quantize_per_tensor(x.to(DEVICE), scale, zero_point, 0, 255, U8, out=out) is out
    expected = ops.quantize_per_tensor(x, scale.cpu(), zero_point.cpu(), 0, 255, U8)
    assert_same_as_on_the_cpu(out, expected)
    product = ops.int8_matmul(bytes_(3, 5).to(DEVICE), bytes_(5, 7, seed=1).to(DEVICE))
    assert_same_as_on_the_cpu(product, ops.int8_matmul(bytes_(3, 5), bytes_(5, 7, seed=1)))
    assert ops.pack_weight(torch.zeros(3, 5, dtype=I8, device=DEVICE)).device.type == DEVICE
