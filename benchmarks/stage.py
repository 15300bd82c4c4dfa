"""Where contenders run: in this process, or in one that waits with a lesser set of kernels.

A process reads TORCHQUANT_KERNELS once, so each further set needs a process of its own. It runs
only while it is asked for a sample, and answers when its threads are at rest, as all do.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import cast

import torch
from contender import Contender
from missing import Missing
from ours import OURS
from peers import PEERS
from problem import Inputs, Problem, Shape, relative_error
from runtimes import RUNTIMES
from timing import Stopwatch

from torchquant import ops

CONTENDERS: dict[str, Contender] = {
    contender.name: contender for contender in (*OURS, *PEERS, *RUNTIMES)
}
KERNEL_SETS = ("avx512vnni", "avxvnni", "avx2", "scalar")


@dataclass(frozen=True)
class Case:
    """One contender on one shape; `layers` weights in turn make a call that streams memory."""

    contender: str
    shape: Shape
    threads: int
    layers: int = 1


@dataclass(frozen=True)
class Prepared:
    """A case that runs: seconds that a sample costs, the relative error of its result, a note."""

    cost: float
    error: float
    note: str


class LocalStage:
    """The stage of this process: prepares cases, samples those that it prepared, and forgets them.

    All of it in inference mode, as PyTorch's users do, entered before what is timed.
    """

    def __init__(self) -> None:
        self._watches: dict[Case, Stopwatch] = {}
        self._problems: dict[tuple[Shape, int], list[Problem]] = {}

    def _layers(self, shape: Shape, count: int) -> list[Problem]:
        key = (shape, count)
        if key not in self._problems:
            inputs = Inputs(shape, seed=0)
            self._problems[key] = [Problem(shape, inputs, 1 + layer) for layer in range(count)]
        return self._problems[key]

    @torch.inference_mode()
    def prepare(self, case: Case) -> Prepared | Missing:
        """Prepare the operands, call once, and compare the result with the float64 product."""
        torch.set_num_threads(case.threads)
        contender = CONTENDERS[case.contender]
        problems = self._layers(case.shape, case.layers)
        try:
            ready = contender.prepare(problems, case.threads)
            result = ready.read(ready.call())
        except Exception as reason:  # whatever a peer raises is why it is missing
            return Missing.because(reason)
        watch = Stopwatch(ready.call, case.threads)
        self._watches[case] = watch
        error = relative_error(result, problems[0].expected(contender.operands))
        return Prepared(watch.cost, error, ready.note)

    @torch.inference_mode()
    def sample(self, case: Case) -> float:
        """Return the seconds of one call."""
        return self._watches[case]()

    def clear(self) -> None:
        """Forget the cases and their operands."""
        self._watches.clear()
        self._problems.clear()


def _serve(connection: Connection, kernels: str) -> None:
    """Answer the requests of a `WorkerStage`, until it hangs up."""
    os.environ["TORCHQUANT_KERNELS"] = kernels
    try:
        connection.send(ops.active_kernels())
    except RuntimeError as error:
        connection.send(Missing(str(error).splitlines()[0]))
        return
    stage = LocalStage()
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        connection.send(getattr(stage, method)(*arguments))


class WorkerStage:
    """The same in a process of its own, with its own set of kernels."""

    def __init__(self, kernels: str) -> None:
        """Start the process; raises RuntimeError where the machine does not run the set."""
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, kernels), daemon=True)
        self._process.start()
        theirs.close()
        answer = self._connection.recv()
        if isinstance(answer, Missing):
            raise RuntimeError(answer.reason)

    def _ask(self, method: str, *arguments: Case) -> object:
        self._connection.send((method, arguments))
        return self._connection.recv()

    def prepare(self, case: Case) -> Prepared | Missing:
        """As `LocalStage.prepare`."""
        return cast(Prepared | Missing, self._ask("prepare", case))

    def sample(self, case: Case) -> float:
        """As `LocalStage.sample`."""
        return cast(float, self._ask("sample", case))

    def clear(self) -> None:
        """As `LocalStage.clear`."""
        self._ask("clear")


Stage = LocalStage | WorkerStage


def stages(wanted: Sequence[str]) -> tuple[dict[str, Stage], dict[str, str]]:
    """Return a stage for each wanted set of kernels that runs here, and why others do not.

    This process has the machine's best set, and all peers.
    """
    best = ops.active_kernels()
    found: dict[str, Stage] = {best: LocalStage()}
    missing = {}
    for kernels in wanted:
        if kernels != best:
            try:
                found[kernels] = WorkerStage(kernels)
            except RuntimeError as error:
                missing[kernels] = str(error)
    return found, missing
