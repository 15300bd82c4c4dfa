"""Calibration: how fast tensors are observed, what it adds to a forward, and what the methods cost.

    python benchmarks/calibration.py                     # all tables, in some ten minutes
    python benchmarks/calibration.py --quick --only observe
    python benchmarks/calibration.py --only minilm --json figures.json

observe: GB/s read, against torch.histc (2048 bins between ends that it finds in a pass before),
torch.aminmax (which only finds the ends), and the HistogramObserver of torch.ao, on 2^24 float32,
Gaussian and with half of them zero, as after a ReLU. qparams: the time of each method over one
state. mlp, cnn and minilm: accuracy, or similarity to float32, and time, by method, with the mean
and the least SNR of the layers' outputs; layers: that of each one. Figures are medians over
interleaved rounds; see timing.py.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import accuracy
import torch
from commandline import make_parser, matching, stream_of_tables, write_json
from header import describe, header_text
from peak import cores
from subjects import SUBJECTS
from table import Value, heading, render
from timing import Call, Plan, sample_calls
from torch import Tensor
from tqdm import tqdm

from torchquant import ops
from torchquant.histogram import METHODS, Histogram

_FULL, _QUICK = Plan(rounds=9, budget=2.0), Plan(rounds=2, budget=0.2)
_VALUES, _FEW_VALUES = 1 << 24, 1 << 16
_CALIBRATION_ROUNDS = 5

Row = dict[str, Value]


@dataclass(frozen=True)
class Part:
    """A table: its name, what it shows, and what measures it."""

    name: str
    title: str
    measure: Callable[[Plan, bool], list[Row]]


def _median_seconds(calls: dict[str, Call], plan: Plan) -> dict[str, float]:
    samples = sample_calls(calls, plan, torch.get_num_threads(), "timing")
    return {name: statistics.median(seconds) for name, seconds in samples.items()}


def _peer() -> torch.ao.quantization.HistogramObserver:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.ao is deprecated
        return torch.ao.quantization.HistogramObserver()


def _observers(x: Tensor) -> dict[str, Call]:
    state = Histogram()
    peer = _peer()
    return {
        "ops.histogram_observe_": lambda: ops.histogram_observe_(state.counts, state.range, x),
        "torch.histc, 2048 bins": lambda: torch.histc(x.float(), 2048),
        "torch.aminmax": lambda: torch.aminmax(x),
        "torch.ao HistogramObserver": lambda: peer(x),
    }


def _observe(plan: Plan, quick: bool) -> list[Row]:
    normal = torch.randn(_FEW_VALUES if quick else _VALUES)
    inputs = {"Gaussian": normal, "half zeros": normal.relu(), "bfloat16": normal.bfloat16()}
    rows = []
    for name, x in tqdm(inputs.items(), desc="observe", leave=False, disable=None):
        seconds = _median_seconds(_observers(x), plan)
        ours = seconds["ops.histogram_observe_"]
        rows += [
            {
                "input": name,
                "by": by,
                "GB/s": x.nbytes / time / 1e9,
                "ns a value": time / x.numel() * 1e9,
                "time / ours": time / ours,
            }
            for by, time in seconds.items()
        ]
    return rows


def _qparams(plan: Plan, quick: bool) -> list[Row]:
    x = torch.randn(_FEW_VALUES if quick else _VALUES)
    state = Histogram()
    state.observe(x)
    peer = _peer()
    peer(x)
    calls: dict[str, Call] = {
        f"{method}, {'symmetric' if symmetric else 'affine'}": _reader(state, symmetric, method)
        for method in METHODS
        for symmetric in (True, False)
    }
    calls["torch.ao HistogramObserver, affine"] = peer.calculate_qparams
    seconds = _median_seconds(calls, plan)
    return [{"method": name, "ms": 1e3 * time} for name, time in seconds.items()]


def _reader(state: Histogram, symmetric: bool, method: str) -> Call:
    quant_min, quant_max = (-127, 127) if symmetric else (0, 255)
    return lambda: state.qparams(quant_min, quant_max, symmetric, method, 99.99)


def _accuracy(name: str) -> Callable[[Plan, bool], list[Row]]:
    return lambda plan, quick: accuracy.measure(SUBJECTS[name](), 1 if quick else plan.rounds)


def _layers(plan: Plan, quick: bool) -> list[Row]:
    return [row for make in SUBJECTS.values() for row in accuracy.layers(make())]


def _cost(plan: Plan, quick: bool) -> list[Row]:
    rounds = 1 if quick else _CALIBRATION_ROUNDS
    return [accuracy.cost_of_calibration(make(), rounds) for make in SUBJECTS.values()]


PARTS = (
    Part("observe", "Observing a tensor", _observe),
    Part("qparams", "Choosing scale and zero point from a state", _qparams),
    Part("cost", "Calibrating, against a plain forward", _cost),
    Part("mlp", "MNIST MLP, 1,000 digits that were not trained on", _accuracy("mlp")),
    Part("cnn", "MNIST CNN, the same digits", _accuracy("cnn")),
    Part("layers", "SNR of each layer's output, dB, given a float input", _layers),
    Part("minilm", "all-MiniLM-L6-v2, 512 sentences not calibrated on", _accuracy("minilm")),
)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__ or "", threads="all processors", only="parts", rounds=_FULL.rounds)
    return parser.parse_args()


def _measure(arguments: argparse.Namespace) -> Iterator[tuple[Part, int, list[Row]]]:
    plan = _QUICK if arguments.quick else _FULL
    plan = replace(plan, rounds=arguments.rounds or plan.rounds)
    parts = matching(PARTS, lambda part: part.name, arguments.only or ["*"], "part")
    for threads in dict.fromkeys(arguments.threads or [cores()]):
        torch.set_num_threads(threads)
        for part in parts:
            yield part, threads, part.measure(plan, arguments.quick)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print each table when it is there, and write what else was asked for."""
    out = stream_of_tables(arguments.json)
    threads = arguments.threads or [cores()]
    header = describe(threads, [ops.active_kernels()], arguments.rounds or _FULL.rounds, {})
    print(header_text(header), file=out, flush=True)
    report: dict[str, object] = {"header": header}
    for part, count, rows in _measure(arguments):
        title = f"{part.title}, threads: {count}"
        print(heading(title, markdown=arguments.markdown), file=out)
        print(render(rows, markdown=arguments.markdown), file=out, flush=True)
        report[f"{part.name}, threads: {count}"] = rows
    if arguments.json:
        write_json(report, arguments.json)


def main() -> None:
    """Run from the command line."""
    arguments = parse_arguments()
    if arguments.list:
        print("\n".join(f"{part.name:8}  {part.title}" for part in PARTS))
        return
    logging.disable(logging.WARNING)
    run(arguments)


if __name__ == "__main__":
    main()
