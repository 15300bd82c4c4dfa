"""The CUDA kernels: torchquant against its peers in PyTorch, and against what the card can do.

    python benchmarks/cuda_kernels.py                    # the tables, in about a minute
    python benchmarks/cuda_kernels.py --quick --json cuda.json
    python benchmarks/cuda_kernels.py --compile --only "quantize per*" --dtype bfloat16

Every contender is called as its user would call it, in inference mode, with a fresh output. Its
time is the device's, by events around enough calls, which take several sets of inputs in turn, so
that it is of memory and not of the cache. One round samples each way to do a work in an order of
its own; the figures are medians over the rounds. See cuda_timing.py. Before that each result of
ours is compared with the CPU operator's, bit for bit, and each peer's with ours. What does not run
here is listed as missing, with the reason.

By default all works run on float32, bfloat16 and float16 of 4096x4096, the main ones on float32 of
8192x8192, layers on eight shapes, and all of them once more on small tensors, to time the host.
--compile adds what torch.compile makes of plain PyTorch, on the first dtype or two, and takes
minutes. A limit of seconds leaves out what it would take longer for.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TextIO, TypeVar

import torch
from commandline import make_parser, matching, stream_of_tables, write_json
from cuda_card import Card, describe, measure_copy, read_card, why_not
from cuda_elementwise import TINY, Absence, Bench, HostRow, Outcome, Subject
from cuda_layers import CONTENDERS, QUICK_SHAPES, SHAPES, TINY_SHAPE, Contender
from cuda_products import ProductBench
from cuda_report import Report, closing_text, hosts_text, layers_text, rows_text
from cuda_timing import DeviceLost, EventClock, cuda_clock
from cuda_works import CUDA_WORKS
from header import header_text
from missing import Missing
from operands import Size
from problem import Shape
from timing import Plan
from tqdm import tqdm
from work import Work

R = TypeVar("R")

_FULL, _QUICK = Plan(rounds=7, budget=0.1), Plan(rounds=3, budget=0.03)
_LIMIT, _QUICK_LIMIT, _COMPILE_LIMIT = 55.0, 11.0, 300.0
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_USUAL, _GREAT = Size(4096, 4096), Size(8192, 8192)
_COMPILED_DTYPES = ("float32", "bfloat16")
EXIT_NOTHING_TO_MEASURE, EXIT_LOST = 2, 1


@dataclass(frozen=True)
class Block:
    """Works on tensors of a size and a dtype."""

    size: Size
    dtype: str
    works: Sequence[Work]
    compiles: bool = False

    def __str__(self) -> str:
        return f"{self.size} {self.dtype}"


@dataclass(frozen=True)
class Chosen:
    """What to measure."""

    blocks: Sequence[Block]
    shapes: Sequence[Shape]
    works: Sequence[Work]
    contenders: Sequence[Contender]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(
        __doc__ or "", threads=None, only="works and contenders of layers", rounds=_FULL.rounds
    )
    parser.add_argument("--size", type=Size.parse, nargs="+", metavar="ROWSxCOLUMNS")
    parser.add_argument("--dtype", choices=_DTYPES, nargs="+", help="of the real values")
    parser.add_argument(
        "--shape", type=Shape.parse, nargs="+", metavar="M,K,N", help="of layers, for the default"
    )
    parser.add_argument("--compile", action="store_true", help="what torch.compile makes, too")
    parser.add_argument(
        "--peak-tops", type=float, metavar="TOPS", help="dense INT8 peak; default: by card's name"
    )
    parser.add_argument(
        "--limit",
        type=float,
        metavar="SECONDS",
        help=f"begin nothing after; default: {_LIMIT:g}, quick {_QUICK_LIMIT:g}, "
        f"compiling {_COMPILE_LIMIT:g}, after imports",
    )
    return parser.parse_args(arguments)


def choose(arguments: argparse.Namespace) -> Chosen:
    """Return what to measure: all, or what is asked for."""
    works: Sequence[Work] = CUDA_WORKS
    contenders: Sequence[Contender] = CONTENDERS
    if arguments.only:
        named: list[Work | Contender] = matching(
            [*CUDA_WORKS, *CONTENDERS], lambda each: each.name, arguments.only, "work or contender"
        )
        works = [each for each in named if isinstance(each, Work)]
        contenders = [each for each in named if isinstance(each, Contender)]
    shapes = arguments.shape or (QUICK_SHAPES if arguments.quick else SHAPES)
    return Chosen(_blocks(arguments, works), shapes if contenders else (), works, contenders)


def _blocks(arguments: argparse.Namespace, works: Sequence[Work]) -> list[Block]:
    """Return the blocks of elementwise works, those that matter most first."""
    of_reals = [work for work in works if not work.is_of_codes]
    dtypes: Sequence[str] = arguments.dtype or (["float32"] if arguments.quick else list(_DTYPES))
    blocks = []
    for size in arguments.size or (_USUAL,):
        for dtype in dtypes:
            chosen = works if dtype == dtypes[0] else of_reals
            compiles = arguments.compile and (arguments.dtype or dtype in _COMPILED_DTYPES)
            blocks.append(Block(size, dtype, chosen, bool(compiles)))
    if not (arguments.size or arguments.dtype or arguments.quick):
        blocks.append(Block(_GREAT, "float32", [work for work in works if work.is_main]))
    return [block for block in blocks if block.works]


class Limit:
    """A number of seconds from when it is made."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def is_past(self) -> bool:
        """Whether nothing is to begin any more."""
        return time.monotonic() > self._end


@dataclass(frozen=True)
class Run:
    """One run, which adds to a report whatever it measures.

    Attributes:
        card: With the copy's bandwidth of this run.
    """

    card: Card
    clock: EventClock
    plan: Plan
    limit: Limit
    chosen: Chosen
    report: Report
    markdown: bool
    compiles: bool

    def texts(self) -> Iterator[str]:
        """Measure part after part, and yield each with its table; what matters most is first."""
        first, others = self.chosen.blocks[:1], self.chosen.blocks[1:]
        yield from map(self._block, first)
        yield from map(self._shape, self.chosen.shapes)
        yield self._hosts()
        yield from map(self._block, others)

    def _block(self, block: Block) -> str:
        bench = Bench(self.clock, self.plan, self.card, block.compiles)
        dtype, card = _DTYPES[block.dtype], self.card
        subject = Subject(block.size, dtype, card.device, card.cache_bytes)
        tasks = {work.name: partial(bench.measure, work, subject) for work in block.works}
        rows = self._collect(tasks, str(block), self.report.rows)
        return rows_text(rows, str(block), markdown=self.markdown)

    def _shape(self, shape: Shape) -> str:
        measure = partial(self._products(compiles=self.compiles).measure, shape)
        rows = self._collect({"layers": measure}, str(shape), self.report.layers)
        return layers_text(rows, shape, markdown=self.markdown)

    def _hosts(self) -> str:
        """Time the host, without what is compiled."""
        bench = Bench(self.clock, self.plan, self.card, compiles=False)
        subject = Subject(TINY, torch.float32, self.card.device, cache_bytes=0)
        tasks: dict[str, Callable[[], Outcome[HostRow]]] = {
            work.name: partial(bench.measure_host, work, subject) for work in self.chosen.works
        }
        if self.chosen.contenders:
            tasks["layers"] = self._products(compiles=False).measure_host
        rows = self._collect(tasks, "host", self.report.hosts)
        title = f"the host, {TINY} float32 and layers of {TINY_SHAPE}"
        return hosts_text(rows, title, markdown=self.markdown)

    def _products(self, *, compiles: bool) -> ProductBench:
        contenders = self.chosen.contenders
        return ProductBench(self.clock, self.plan, self.card, compiles, contenders)

    def _collect(
        self, tasks: Mapping[str, Callable[[], Outcome[R]]], on: str, rows: list[R]
    ) -> list[R]:
        """Measure in turn, as long as the limit allows, and return the rows that came."""
        before = len(rows)
        with tqdm(tasks.items(), desc=on, leave=False, disable=None) as bar:
            for name, measure in bar:
                bar.set_postfix_str(name)
                if self.limit.is_past:
                    self.report.left_out.append(f"{name}, {on}")
                    continue
                outcome = self._attempt(name, on, measure)
                rows += outcome.rows
                self.report.absences += outcome.absences
        return rows[before:]

    def _attempt(self, name: str, on: str, measure: Callable[[], Outcome[R]]) -> Outcome[R]:
        """Measure, or say why nothing of it could be."""
        try:
            return measure()
        except DeviceLost:
            raise
        except Exception as error:  # a card without the memory for it, say
            reason = Missing.because(error).reason
            return Outcome((), (Absence(name, on, "all of them", reason),))


def _limit_of(arguments: argparse.Namespace) -> float:
    if arguments.limit is not None:
        return float(arguments.limit)
    if arguments.compile:
        return _COMPILE_LIMIT
    return _QUICK_LIMIT if arguments.quick else _LIMIT


def prepare(arguments: argparse.Namespace, card: Card, clock: EventClock) -> Run:
    """Return a run on a card, whose bandwidth is measured now."""
    limit = Limit(_limit_of(arguments))
    plan = _QUICK if arguments.quick else _FULL
    plan = replace(plan, rounds=arguments.rounds or plan.rounds)
    card = replace(card, copy=measure_copy(card, clock))
    report = Report(describe(card, plan.rounds), copies=[card.copy])
    compiles: bool = arguments.compile
    markdown: bool = arguments.markdown
    return Run(card, clock, plan, limit, choose(arguments), report, markdown, compiles)


def measure(run: Run, json_path: str | None, out: TextIO) -> int:
    """Print each table when it is there, and write the figures so far; end where the card does.

    Returns the exit status.
    """
    print(header_text(run.report.header), file=out, flush=True)
    try:
        for text in run.texts():
            print(text, file=out, flush=True)
            if json_path and json_path != "-":
                write_json(run.report.as_json(), json_path)
        run.report.copies.append(measure_copy(run.card, run.clock))
    except DeviceLost as error:
        run.report.lost = str(error)
    closing = closing_text(run.report, run.chosen.works, markdown=run.markdown)
    print(closing, file=out, flush=True)
    if json_path:
        write_json(run.report.as_json(), json_path)
    return EXIT_LOST if run.report.lost else 0


def list_contenders() -> None:
    """Print each work with what does it, and what computes layers."""
    for work in CUDA_WORKS:
        print(work.name)
        for way in work.ways:
            print(f"    {way.name}")
    print("layers")
    for each in CONTENDERS:
        print(f"    {each.group:8} {each.dtypes!s:13} {each.name}")


def main() -> int:
    """Run from the command line, and return the exit status."""
    arguments = parse_arguments()
    if arguments.list:
        list_contenders()
        return 0
    if reason := why_not():
        print(reason, file=sys.stderr)
        return EXIT_NOTHING_TO_MEASURE
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # that what gives quantized dtypes is deprecated
    run = prepare(arguments, read_card(arguments.peak_tops), cuda_clock())
    return measure(run, arguments.json, stream_of_tables(arguments.json))


if __name__ == "__main__":
    sys.exit(main())
