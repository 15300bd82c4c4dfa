"""`torchquant bench`: whether a linear layer is faster in INT8 than in float on this machine."""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import repeat
from random import Random
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

import torchquant
from torchquant import ops
from torchquant.commands import CommandError, Commands, add_command, one_line, print_json
from torchquant.nn import DynamicLinear
from torchquant.tables import Value, table
from torchquant.weights import MAX_IN_FEATURES

Call = Callable[[], object]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
INT8 = "int8"

LEAST_ROUNDS = 5
SAMPLE_SECONDS = 1e-3  # enough for the clock
CALM = 1.5

DESCRIPTION = """\
Times one linear layer, M rows of K inputs to N outputs, in float32, in bfloat16 and in INT8
(torchquant.ops.linear_dynamic, quantizing its input included), in turn, round after round, and
prints the medians: vs float32 is float32's time over INT8's, above 1 where INT8 is faster. The
verdict is "faster" or "slower" where INT8 was so in three of four rounds at least, and "even"
otherwise. Unrest is the greatest of the medians over its least time: far above 1, something else
kept the machine busy. The weights are used over and over, so small ones stay in the caches."""

EXAMPLES = """\
  torchquant bench
  torchquant bench --shape 1,4096,4096 32,768,3072 --seconds 3
  torchquant bench --dtype bfloat16 --json > bench.json
"""


class Shape(NamedTuple):
    """Rows, inputs and outputs of a layer."""

    m: int
    k: int
    n: int

    def __str__(self) -> str:
        return " x ".join(map(str, self))


DEFAULT_SHAPES = (
    Shape(1, 768, 768),
    Shape(1, 768, 3072),
    Shape(1, 4096, 4096),
    Shape(8, 768, 768),
    Shape(32, 768, 3072),
    Shape(128, 768, 768),
    Shape(256, 1024, 4096),
)


def add_parser(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(
        commands, "bench", "time INT8 beside float on this machine", DESCRIPTION, EXAMPLES
    )
    defaults = " ".join(",".join(map(str, shape)) for shape in DEFAULT_SHAPES)
    parser.add_argument(
        "--shape",
        nargs="+",
        action="extend",
        type=_shape,
        metavar="M,K,N",
        help=f"rows, inputs and outputs; default: {defaults}",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="what your model computes in: what INT8 takes and gives, and what the verdict is "
        "against; default: %(default)s",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=1.0,
        metavar="S",
        help="how long to measure each shape; default: %(default)s",
    )
    parser.set_defaults(run=run)


def _shape(text: str) -> Shape:
    try:
        shape = Shape(*map(int, text.split(",")))
    except (ValueError, TypeError):
        shape = Shape(0, 0, 0)
    if min(shape) < 1:
        raise argparse.ArgumentTypeError(
            f"must be three positive integers M,K,N, but got {text!r}: 32,768,3072 for example"
        )
    if shape.k > MAX_IN_FEATURES:
        raise argparse.ArgumentTypeError(
            f"K must be at most {MAX_IN_FEATURES}, or the int32 sums may overflow, but got "
            f"{text!r}: no INT8 layer takes so many inputs"
        )
    return shape


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be positive, but got {text!r}: 1 for example")
    return seconds


def run(options: argparse.Namespace) -> None:
    """Measures, then prints."""
    rows = []
    shapes = options.shape or DEFAULT_SHAPES
    with tqdm(shapes, desc="timing", unit="shape", leave=False, disable=None) as bar:
        for shape in bar:
            bar.set_postfix_str(str(shape))
            calls = _calls(shape, DTYPES[options.dtype])
            rows.append(_row(shape, _sample(calls, options.seconds), options.dtype))
    if max(row["unrest"] for row in rows) > CALM:
        print(
            "torchquant bench: something else kept this machine busy, see unrest: take the times "
            "again when it is quiet",
            file=sys.stderr,
        )
    environment: dict[str, Value] = {
        "torchquant": torchquant.__version__,
        "torch": str(torch.__version__),
        "kernels": ops.active_kernels(),
        "threads": torch.get_num_threads(),
        "dtype": options.dtype,
    }
    if options.json:
        print_json({**environment, "rows": rows})
        return
    print(", ".join(f"{name} {value}" for name, value in environment.items()))
    print("\n".join(["", *table(rows), "", _conclusion(rows, options.dtype)]))


@torch.inference_mode()
def _calls(shape: Shape, dtype: torch.dtype) -> Mapping[str, Call]:
    """The same layer in each way; CommandError where it does not fit memory."""
    try:
        layer = torch.nn.Linear(shape.k, shape.n)
        x = torch.randn(shape.m, shape.k)
        calls: dict[str, Call] = {
            name: partial(
                torch.nn.functional.linear, x.to(kind), layer.weight.to(kind), layer.bias.to(kind)
            )
            for name, kind in DTYPES.items()
        }
        quantized = DynamicLinear.from_float(layer)
        calls[INT8] = partial(
            ops.linear_dynamic,
            x.to(dtype),
            quantized.packed_weight,
            quantized.weight_scale,
            quantized.weight_sum,
            quantized.bias,
        )
        for call in calls.values():
            call()
    except RuntimeError as error:
        raise CommandError(f"{shape} cannot be measured here: {one_line(error)}") from error
    return calls


@torch.inference_mode()
def _sample(calls: Mapping[str, Call], seconds: float) -> Mapping[str, Sequence[float]]:
    """Seconds of each call in each round. All meet the same machine, in an order that changes."""
    counts = {
        name: math.ceil(SAMPLE_SECONDS / min(_time(call, 1) for _ in range(3)))
        for name, call in calls.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < LEAST_ROUNDS or time.perf_counter() < end:
        for name in Random(rounds).sample(list(calls), len(calls)):
            calls[name]()  # brings back to the caches what the one before took
            samples[name].append(_time(calls[name], counts[name]))
        rounds += 1
    return samples


def _time(call: Call, count: int) -> float:
    """Seconds of one call, the mean of several in succession."""
    start = time.perf_counter()
    for _ in repeat(None, count):
        call()
    return (time.perf_counter() - start) / count


def _row(shape: Shape, samples: Mapping[str, Sequence[float]], dtype: str) -> dict[str, Any]:
    medians = {name: statistics.median(times) for name, times in samples.items()}
    times = {f"{name}_us": 1e6 * seconds for name, seconds in medians.items()}
    ratios = {f"vs_{name}": medians[name] / medians[INT8] for name in DTYPES}
    return {
        **shape._asdict(),
        **times,
        **ratios,
        "int8_gops": 2 * math.prod(shape) / medians[INT8] / 1e9,
        "rounds": len(samples[INT8]),
        "unrest": max(medians[name] / min(samples[name]) for name in samples),
        "verdict": _verdict(samples[dtype], samples[INT8]),
    }


def _verdict(float_times: Sequence[float], int8_times: Sequence[float]) -> str:
    """What INT8 is, by the quartiles of the ratio of both in each round."""
    ratios = [one / other for one, other in zip(float_times, int8_times, strict=True)]
    lower, _, upper = statistics.quantiles(ratios, method="inclusive")
    return "faster" if lower > 1 else "slower" if upper < 1 else "even"


def _conclusion(rows: Sequence[Mapping[str, Any]], dtype: str) -> str:
    gains = [
        " x ".join(str(row[side]) for side in Shape._fields)
        for row in rows
        if row["verdict"] == "faster"
    ]
    which = f": {', '.join(gains)}" if gains else ""
    return f"INT8 is faster than {dtype} on {len(gains)} of {len(rows)} shapes{which}"
