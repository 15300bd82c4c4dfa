"""all-MiniLM-L6-v2, a sentence encoder: time and likeness to float32 of many ways to run it.

    python benchmarks/minilm.py                          # all ways, on all processors
    python benchmarks/minilm.py --threads 1 --only 'float32*' 'ours*' --json figures.json
    python benchmarks/minilm.py --quick --only '*eager'

The sentences are distinct, and go in batches of 32 of like length; the one is of about 15 tokens.
Whatever compiles has compiled, and has run all shapes, before the first time is taken. x is the
time of float32 in PyTorch's eager mode over this one's, so above 1 it is faster than that. Times
are medians over interleaved rounds; see timing.py. 1 - cosine compares each sentence's embedding
with that of float32; same ten is the share of its ten nearest sentences that stay the same.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from commandline import make_parser, matching, stream_of_tables, write_json
from encoders import CONTENDERS, FLOAT32, Contender, Encode, Material
from header import describe, header_text
from missing import Missing
from peak import cores
from subjects import similarity
from table import Value, heading, render
from timing import Plan, sample_calls
from torch import Tensor
from torch._inductor import config as inductor
from tqdm import tqdm

from torchquant import ops
from torchquant.demo.minilm import Batch, batches, embed, load, spread
from torchquant.demo.sentences import english_sentences

_FULL, _QUICK = 9, 1
_SENTENCES, _FEW_SENTENCES, _CALIBRATION_SENTENCES = 512, 16, 256
_TOKENS = 15
_CALLS_A_ROUND = 20  # of one sentence, which takes a hundredth of all
_BUDGET = 3600.0  # seconds: no contender is in fewer rounds than the others
_COMPILATIONS = 64


@dataclass(frozen=True)
class Workload:
    """What is embedded: all sentences in batches, and one of them alone."""

    many: Sequence[Batch]
    one: Batch


@dataclass(frozen=True)
class Times:
    """Seconds over the rounds, and the time of float32 over them where it was measured."""

    median: float
    least: float
    greatest: float
    speedup: float | None

    @classmethod
    def of(cls, samples: Sequence[float], float32: Sequence[float] | None) -> Times:
        """Sum up the samples."""
        median = statistics.median(samples)
        speedup = statistics.median(float32) / median if float32 else None
        return cls(median, min(samples), max(samples), speedup)


@dataclass(frozen=True)
class Row:
    """One contender: the times of all sentences and of one alone, and the likeness to float32."""

    contender: str
    threads: int
    many: Times
    one: Times
    likeness: Mapping[str, float]


@dataclass(frozen=True)
class Absence:
    """A contender that did not run."""

    contender: str
    threads: int
    reason: str


@dataclass(frozen=True)
class Ready:
    """A contender that has run all shapes, and what it made of the sentences."""

    encode: Encode
    embeddings: Tensor

    @classmethod
    def after_all_shapes(cls, encode: Encode, work: Workload) -> Ready:
        """Run everything once, which is when some contenders compile."""
        embed(encode, [work.one], _no_tick)
        return cls(encode, embed(encode, work.many, _no_tick).float())


def _no_tick() -> None:
    """Tell nobody that a batch is done."""


def make_workload(count: int) -> tuple[Workload, Material]:
    """Choose sentences to embed, and others to calibrate with; load the model."""
    model, tokenizer = load()
    sentences = english_sentences()
    chosen = spread(sentences, count)
    known = set(chosen)
    others = [text for text in sentences if text not in known]
    many = batches(tokenizer, chosen)
    alone = [batches(tokenizer, [text])[0] for text in chosen]
    one = min(alone, key=lambda batch: abs(batch[0].shape[1] - _TOKENS))
    calibration = batches(tokenizer, spread(others, min(count, _CALIBRATION_SENTENCES)))
    return Workload(many, one), Material(model, many[0], calibration)


def _prepare(contender: Contender, material: Material, work: Workload) -> Ready | Missing:
    try:
        with (
            warnings.catch_warnings(),
            torch.inference_mode(),
            inductor.patch(dict(contender.inductor)),
        ):
            warnings.simplefilter("ignore")  # that the ways of peers are deprecated
            return Ready.after_all_shapes(contender.prepare(material), work)
    except Exception as error:  # whatever a peer raises where it does not run
        return Missing.because(error)


def _sample(
    ready: Mapping[str, Ready], inputs: Sequence[Batch], rounds: int, doing: str
) -> dict[str, list[float]]:
    calls = {name: partial(embed, each.encode, inputs, _no_tick) for name, each in ready.items()}
    return sample_calls(calls, Plan(rounds, _BUDGET), torch.get_num_threads(), doing)


def measure(
    contenders: Sequence[Contender], material: Material, work: Workload, rounds: int
) -> tuple[list[Row], list[Absence]]:
    """Prepare all contenders for the present number of threads, then time them in turn."""
    threads = torch.get_num_threads()
    torch._dynamo.reset()
    ready: dict[str, Ready] = {}
    absences = []
    for contender in (bar := tqdm(contenders, desc="preparing", leave=False, disable=None)):
        bar.set_postfix_str(contender.name)
        outcome = _prepare(contender, material, work)
        if isinstance(outcome, Missing):
            absences.append(Absence(contender.name, threads, outcome.reason))
        else:
            ready[contender.name] = outcome
    many = _sample(ready, work.many, rounds, "all sentences")
    one = _sample(ready, [work.one], rounds * _CALLS_A_ROUND, "one sentence")
    reference = embed(material.model, work.many, _no_tick)
    rows = [
        Row(
            name,
            threads,
            Times.of(many[name], many.get(FLOAT32)),
            Times.of(one[name], one.get(FLOAT32)),
            similarity(reference, each.embeddings),
        )
        for name, each in ready.items()
    ]
    return rows, absences


def _line(row: Row) -> dict[str, Value]:
    return {
        "contender": row.contender,
        "all, s": row.many.median,
        "all, x": row.many.speedup,
        "one, ms": row.one.median * 1e3,
        "one, x": row.one.speedup,
        **row.likeness,
    }


def _text(rows: Sequence[Row], absences: Sequence[Absence], title: str, *, markdown: bool) -> str:
    lines = [_line(row) for row in rows]
    parts = [heading(title, markdown=markdown), render(lines, markdown=markdown)]
    if absences:
        reasons = [{"contender": each.contender, "reason": each.reason} for each in absences]
        parts += [heading("missing", markdown=markdown), render(reasons, markdown=markdown)]
    return "\n".join(parts)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__ or "", threads="all processors", only="contenders", rounds=_FULL)
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    """Measure, print each table when it is there, and write what else was asked for."""
    contenders = matching(
        CONTENDERS, lambda contender: contender.name, arguments.only or ["*"], "contender"
    )
    rounds = arguments.rounds or (_QUICK if arguments.quick else _FULL)
    threads = list(dict.fromkeys(arguments.threads or [cores()]))
    out = stream_of_tables(arguments.json)
    header = describe(threads, [ops.active_kernels()], rounds, {})
    print(header_text(header), file=out, flush=True)
    count = _FEW_SENTENCES if arguments.quick else _SENTENCES
    work, material = make_workload(count)
    report: dict[str, list[object]] = {"rows": [], "missing": []}
    for number in threads:
        torch.set_num_threads(number)
        rows, absences = measure(contenders, material, work, rounds)
        title = f"{count} sentences, and one of {work.one[0].shape[1]} tokens, threads: {number}"
        print(_text(rows, absences, title, markdown=arguments.markdown), file=out, flush=True)
        report["rows"] += map(asdict, rows)
        report["missing"] += map(asdict, absences)
    if arguments.json:
        write_json({"header": header, **report}, arguments.json)


def main() -> None:
    """Run from the command line."""
    arguments = parse_arguments()
    if arguments.list:
        print("\n".join(contender.name for contender in CONTENDERS))
        return
    logging.disable(logging.WARNING)
    # All contenders share the code of one forward, whose compilations PyTorch limits to 8.
    torch._dynamo.config.recompile_limit = _COMPILATIONS
    run(arguments)


if __name__ == "__main__":
    main()
