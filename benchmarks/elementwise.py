"""Elementwise operators: torchquant against its peers in PyTorch, and against moving the bytes.

    python benchmarks/elementwise.py                     # the tables, in some ten minutes
    python benchmarks/elementwise.py --quick --size 256x512
    python benchmarks/elementwise.py --only "quantize per*" --size 4096x4096 --dtype bfloat16

Every contender is called as its user would call it, in inference mode. One round samples each way
to do a work, and the limit of its bytes, in an order of its own; the figures are medians over the
rounds, so that all meet the same machine. See timing.py. Before that each result is compared with
ours. What does not run here is listed as missing, with the reason.

By default all works run on float32 of 256x512, which caches hold, and of 4096x4096; those on usual
layouts also on float16 and bfloat16 of 4096x4096; and the main ones on float32 of 8192x8192.
TORCHQUANT_KERNELS selects a lesser set of kernels than the machine's best.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from bandwidth import Bench, Outcome
from bandwidth_report import absences_text, as_json, legend, rows_text, summary_text, title
from commandline import make_parser, matching, stream_of_tables, write_json
from header import describe, header_text
from operands import MATRIX, Operands, Size
from peak import cores
from timing import Plan
from tqdm import tqdm
from work import Work
from works import WORKS

from torchquant import ops

_FULL, _QUICK = Plan(rounds=7, budget=0.5), Plan(rounds=2, budget=0.1)
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_CACHED, _USUAL, _GREAT = Size(256, 512), Size(4096, 4096), Size(8192, 8192)


@dataclass(frozen=True)
class Block:
    """Works on tensors of a size and a dtype."""

    size: Size
    dtype: str
    works: Sequence[Work]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__ or "", threads="all processors", only="works", rounds=_FULL.rounds)
    parser.add_argument("--size", type=Size.parse, nargs="+", metavar="ROWSxCOLUMNS")
    parser.add_argument("--dtype", choices=_DTYPES, nargs="+", help="of the real values")
    return parser.parse_args(arguments)


def _choose_blocks(arguments: argparse.Namespace) -> list[Block]:
    """Return what to measure: all works on the sizes and dtypes asked for, or the default."""
    works: Sequence[Work] = WORKS
    if arguments.only:
        works = matching(works, lambda work: work.name, arguments.only, "work")
    of_reals = [work for work in works if not work.is_of_codes]
    if not arguments.size and not arguments.dtype:
        matrices = [work for work in of_reals if work.layout is MATRIX]
        blocks = [Block(size, "float32", works) for size in (_CACHED, _USUAL)]
        blocks += [Block(_USUAL, dtype, matrices) for dtype in ("float16", "bfloat16")]
        return [*blocks, Block(_GREAT, "float32", [work for work in works if work.is_main])]
    first, *others = arguments.dtype or ["float32"]
    return [
        block
        for size in arguments.size or (_CACHED, _USUAL, _GREAT)
        for block in (
            Block(size, first, works),
            *(Block(size, dtype, of_reals) for dtype in others),
        )
    ]


def _measure(bench: Bench, block: Block) -> list[Outcome]:
    """Measure the works of a block, on the same operands."""
    operands = Operands(block.size, _DTYPES[block.dtype])
    outcomes = []
    with tqdm(block.works, desc=f"{block.size} {block.dtype}", leave=False, disable=None) as bar:
        for work in bar:
            bar.set_postfix_str(work.name)
            outcomes.append(bench.measure(work, operands))
    return outcomes


def _measure_all(
    arguments: argparse.Namespace, plan: Plan, threads: Sequence[int]
) -> Iterator[tuple[list[Outcome], str]]:
    """Measure block after block, and yield each with its text."""
    markdown: bool = arguments.markdown
    for count in threads:
        bench = Bench(plan, count, ops.active_kernels())
        for block in _choose_blocks(arguments):
            outcomes = _measure(bench, block)
            heading = title(block.size, block.dtype, count, markdown=markdown)
            yield outcomes, f"{heading}\n{rows_text(outcomes, markdown=markdown)}"


def run(arguments: argparse.Namespace) -> None:
    """Measure, print each table when it is there, and write what else was asked for."""
    plan = _QUICK if arguments.quick else _FULL
    plan = replace(plan, rounds=arguments.rounds or plan.rounds)
    threads = list(dict.fromkeys(arguments.threads or [cores()]))
    header = describe(threads, [ops.active_kernels()], plan.rounds, {})
    out = stream_of_tables(arguments.json)
    print(header_text(header), file=out, flush=True)
    outcomes: list[Outcome] = []
    for block_outcomes, text in _measure_all(arguments, plan, threads):
        outcomes += block_outcomes
        print(text, file=out, flush=True)
    markdown: bool = arguments.markdown
    print(summary_text(outcomes, markdown=markdown), file=out)
    print(absences_text(outcomes, markdown=markdown), file=out)
    print(f"\n{legend(WORKS)}", file=out)
    if arguments.json:
        write_json(as_json(header, outcomes), arguments.json)


def list_works() -> None:
    """Print each work with what does it."""
    for work in WORKS:
        print(work.name)
        for way in work.ways:
            print(f"    {way.output:5}  {way.name}")


def main() -> None:
    """Run from the command line."""
    arguments = parse_arguments()
    if arguments.list:
        list_works()
        return
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # that what gives quantized dtypes is deprecated
    run(arguments)


if __name__ == "__main__":
    main()
