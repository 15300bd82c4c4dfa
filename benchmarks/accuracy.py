"""What static and dynamic quantization cost a calibrated model, layer by layer and in the end."""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from subjects import Inputs, Subject, outputs
from table import Value
from timing import Probe, interleave
from torch import Tensor, nn

import torchquant
from torchquant.histogram import METHODS

Row = dict[str, Value]


def _layer_snr(model: nn.Module, quantized: nn.Module, inputs: Inputs) -> dict[str, float]:
    """The SNR in dB of each quantized layer's output, given the float model's input to it."""
    sums: dict[str, Tensor] = {}
    with torch.inference_mode():
        handles = [
            layer.register_forward_hook(_adds_error(sums, name, quantized.get_submodule(name)))
            for name, layer in model.named_modules()
            if type(layer) is nn.Linear
        ]
        for batch in inputs:
            model(*batch)
        for handle in handles:
            handle.remove()
    return {name: 10 * (signal / noise).log10().item() for name, (signal, noise) in sums.items()}


def _adds_error(sums: dict[str, Tensor], name: str, quantized: nn.Module) -> Callable[..., None]:
    def hook(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        exact = output.double()
        noise = (quantized(*arguments).double() - exact).square().sum()
        sums[name] = sums.get(name, 0) + torch.stack((exact.square().sum(), noise))

    return hook


def _row(subject: Subject, name: str, model: nn.Module, layers: nn.Module | None) -> Row:
    row: Row = {"model": name, **subject.score(outputs(model, subject.tests))}
    snr = [] if layers is None else _layer_snr(subject.model, layers, subject.tests).values()
    row["layer SNR, mean"] = statistics.mean(snr) if snr else None
    row["layer SNR, least"] = min(snr) if snr else None
    return row


def _torch_ao_static(layers: nn.Sequential, calibration: Inputs) -> nn.Module:
    """PyTorch's own static INT8, histogram observers and per-channel weights: of a Sequential."""
    quantization = torch.ao.quantization
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        model = nn.Sequential(
            quantization.QuantStub(), *copy.deepcopy(layers), quantization.DeQuantStub()
        ).eval()
        config = quantization.get_default_qconfig("x86")  # type: ignore[no-untyped-call]
        model.qconfig = config
        prepared = quantization.prepare(model)  # type: ignore[no-untyped-call]
        outputs(prepared, calibration)
        converted: nn.Module = quantization.convert(prepared)  # type: ignore[no-untyped-call]
        return converted


def _variants(
    subject: Subject, calibration: torchquant.Calibration
) -> Iterator[tuple[str, nn.Module, nn.Module | None]]:
    """Name, model, and the same with layers that each can be run alone."""
    yield "float32", subject.model, None
    dynamic = torchquant.quantize_dynamic(subject.model)
    yield "dynamic", dynamic, dynamic
    for method in METHODS:
        for weights in ("minmax", "mse"):
            apart, chained = (
                torchquant.quantize_static(
                    subject.model, calibration, method=method, weight_method=weights, chain=chain
                )
                for chain in (False, True)
            )
            yield f"static, {method}, weights {weights}", chained, apart
    if isinstance(subject.model, nn.Sequential) and subject.name == "MNIST MLP":
        peer = _torch_ao_static(subject.model, subject.calibration)
        yield "torch.ao static, x86", peer, None


def _seconds(models: dict[str, nn.Module], tests: Inputs, rounds: int) -> dict[str, float]:
    """Of all tests: the median over rounds that run every model in turn."""
    probes = {name: _probe(model, tests) for name, model in models.items()}
    samples = interleave(probes, dict.fromkeys(probes, rounds), lambda: None)
    return {name: statistics.median(times) for name, times in samples.items()}


def _probe(model: nn.Module, tests: Inputs) -> Probe:
    def probe() -> float:
        start = time.perf_counter()
        outputs(model, tests)
        return time.perf_counter() - start

    return probe


def measure(subject: Subject, rounds: int) -> list[Row]:
    """Return a row for each way to quantize the subject."""
    calibration = torchquant.calibrate(subject.model, subject.calibration, progress=False)
    variants = list(_variants(subject, calibration))
    rows = [_row(subject, *variant) for variant in variants]
    seconds = _seconds({name: model for name, model, _ in variants}, subject.tests, rounds)
    return [{**row, "ms": 1e3 * seconds[str(row["model"])]} for row in rows]


def layers(subject: Subject) -> list[Row]:
    """Return a row for each layer: the SNR of its output by each way to quantize it."""
    calibration = torchquant.calibrate(subject.model, subject.calibration, progress=False)
    ways = {"dynamic": torchquant.quantize_dynamic(subject.model)} | {
        method: torchquant.quantize_static(subject.model, calibration, method=method, chain=False)
        for method in METHODS
    }
    snr = {name: _layer_snr(subject.model, way, subject.tests) for name, way in ways.items()}
    return [
        {"model": subject.name, "layer": layer} | {name: snr[name][layer] for name in ways}
        for layer in snr["dynamic"]
    ]


def cost_of_calibration(subject: Subject, rounds: int) -> Row:
    """Return the time of calibrating over that of running the same batches, in turn; medians."""
    plain, observed = [], []
    for run in range(rounds + 1):  # the first warms up
        start = time.perf_counter()
        outputs(subject.model, subject.calibration)
        middle = time.perf_counter()
        torchquant.calibrate(subject.model, subject.calibration, progress=False)
        if run > 0:
            plain.append(middle - start)
            observed.append(time.perf_counter() - middle)
    ratios = [after / before for before, after in zip(plain, observed, strict=True)]
    return {
        "model": subject.name,
        "plain forward, s": statistics.median(plain),
        "calibrating, s": statistics.median(observed),
        "ratio": statistics.median(ratios),
    }
