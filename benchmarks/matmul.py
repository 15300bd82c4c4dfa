"""INT8 products and linear layers: torchquant against its peers and the machine's peak, in one run.

    pip install -r benchmarks/requirements.txt      # the peers that are not in PyTorch; optional
    python benchmarks/matmul.py                     # the table: a quarter of an hour or more
    python benchmarks/matmul.py --quick --shape 128,768,768 --threads 1
    python benchmarks/matmul.py --set streaming --json streaming.json

Every contender is called as its user would call it, in inference mode, with a fresh output
(OpenVINO writes into its request's own). One round samples each of them, in an order of its own,
and the machine's peak too; the figures are medians over the rounds, so that all meet the same
machine. Where the machine runs lesser sets of kernels, ours run on each, in processes that wait at
rest; the peers and the best set share this process. Thread pools keep the waiting policies that
they come with, and every sample waits until the threads of the one before have stopped spinning.
See timing.py.

Weights use all of int8 and quantized inputs all of uint8. A peer whose sums saturate in 16 bits, as
several do on processors without VNNI, then shows in the column of errors. What does not run here
is listed as missing, with the reason.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from commandline import make_parser, matching, stream_of_tables, write_json
from contender import Contender
from header import describe, header_text
from measure import Bench, Block
from peak import Peak, cores
from plot import roofline
from problem import Shape
from report import LEGEND, absences_text, as_json, block_text, odd_text, small_text, summary_text
from shapes import ODD, OTHER, SMALL, STREAMING, STREAMING_LAYERS, TABLE
from stage import CONTENDERS, KERNEL_SETS, stages
from timing import Plan

_SHAPES = {"table": TABLE, "other": OTHER, "streaming": STREAMING}
_FULL, _QUICK = Plan(rounds=15, budget=6.0), Plan(rounds=3, budget=1.0)
_SMALL_CONTENDERS = ("linear_dynamic float32", "F.linear float32")
_STREAMING_CONTENDERS = (
    "int8_matmul_packed",
    "linear_dynamic float32",
    "F.linear *",
    "torch._int_mm",
    "ONNX Runtime MatMulInteger",
    "quantized::linear_dynamic x86",
    "ONNX Runtime DynamicQuantizeMatMul",
)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(
        __doc__ or "", threads="1 and all processors", only="contenders", rounds=_FULL.rounds
    )
    sets = ("table", "other", "odd", "small", "streaming")
    parser.add_argument("--set", choices=sets, default="table", help="which shapes")
    parser.add_argument(
        "--shape", type=Shape.parse, action="append", metavar="M,K,N", help="instead of a set"
    )
    parser.add_argument(
        "--kernels", nargs="+", choices=KERNEL_SETS, help="default: all that run here, but scalar"
    )
    parser.add_argument("--plot", type=Path, metavar="PATH.png", help="a roofline")
    return parser.parse_args(arguments)


def choose_contenders(arguments: argparse.Namespace) -> list[Contender]:
    """Return the contenders that the set is about and `--only` leaves."""
    chosen = list(CONTENDERS.values())
    if not arguments.shape:
        if arguments.set == "odd":
            chosen = [contender for contender in chosen if contender.is_ours]
        elif arguments.set in ("small", "streaming"):
            small = arguments.set == "small"
            chosen = _named(chosen, _SMALL_CONTENDERS if small else _STREAMING_CONTENDERS)
    return _named(chosen, arguments.only) if arguments.only else chosen


def _named(contenders: Sequence[Contender], patterns: Sequence[str]) -> list[Contender]:
    return matching(contenders, lambda contender: contender.name, patterns, "contender")


def _measure_peak() -> tuple[Peak | None, dict[str, str]]:
    try:
        return Peak(), {}
    except (OSError, subprocess.CalledProcessError) as error:
        return None, {"peak": f"peak.cpp did not compile: {error}"}


def make_bench(arguments: argparse.Namespace) -> tuple[Bench, dict[str, str]]:
    """Start what measures; return it with the kernel sets and peaks that do not run here."""
    wanted = arguments.kernels or [name for name in KERNEL_SETS if name != "scalar"]
    found, unsupported = stages(wanted)
    measured = [name for name in found if name in wanted]
    if not measured:
        raise SystemExit("\n".join(unsupported.values()))
    plan = _QUICK if arguments.quick else _FULL
    plan = replace(plan, rounds=arguments.rounds or plan.rounds)
    peak, without_peak = _measure_peak()
    bench = Bench(found, measured, choose_contenders(arguments), peak, plan)
    return bench, {**unsupported, **without_peak}


def measure_blocks(
    bench: Bench, arguments: argparse.Namespace, threads: Sequence[int]
) -> Iterator[tuple[Block, str]]:
    """Measure block after block, and yield each with its text."""
    markdown: bool = arguments.markdown
    which = "shape" if arguments.shape else arguments.set
    for count in threads:
        if which == "odd":
            block = bench.measure([shape for pair in ODD for shape in pair], count)
            yield block, odd_text(block, ODD, markdown=markdown)
        elif which == "small":
            block = bench.measure(SMALL, count)
            yield block, small_text(block, markdown=markdown)
        else:
            layers = STREAMING_LAYERS if which == "streaming" else 1
            for shape in arguments.shape or _SHAPES[which]:
                block = bench.measure([shape], count, layers)
                yield block, block_text(block, shape, markdown=markdown)


def closing_text(blocks: Sequence[Block], *, markdown: bool) -> str:
    """Return the summary, what is missing, and how to read it all."""
    rows = [row for block in blocks for row in block.rows]
    absences = [absence for block in blocks for absence in block.absences]
    parts = [
        summary_text(rows, markdown=markdown),
        absences_text(absences, markdown=markdown),
        f"\n{LEGEND}",
    ]
    return "\n".join(parts)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print each table when it is there, and write what else was asked for."""
    bench, missing = make_bench(arguments)
    threads = list(dict.fromkeys(arguments.threads or (1, cores())))
    header = describe(threads, bench.measured, bench.plan.rounds, missing)
    out = stream_of_tables(arguments.json)
    print(header_text(header), file=out)
    blocks = []
    for block, text in measure_blocks(bench, arguments, threads):
        blocks.append(block)
        print(text, file=out, flush=True)
    print(closing_text(blocks, markdown=arguments.markdown), file=out)
    if arguments.json:
        write_json(as_json(header, blocks), arguments.json)
    if arguments.plot:
        title = f"{header['cpu']}, {bench.measured[0]}, {header['date']}"
        roofline(blocks, bench.measured[0], title, arguments.plot)


def main() -> None:
    """Run from the command line."""
    arguments = parse_arguments()
    if arguments.list:
        for each in CONTENDERS.values():
            print(f"{each.group:8} {each.dtypes!s:13} {each.name}")
        return
    # The best set is that of a process without it, and torchao logs what it cannot load.
    os.environ.pop("TORCHQUANT_KERNELS", None)
    logging.disable(logging.WARNING)
    run(arguments)


if __name__ == "__main__":
    main()
