"""Times that compare: each contender in every round, and the median over the rounds.

A probe takes one sample and returns its figure. A `Stopwatch` is the probe of a call: enough calls
for the clock, after untimed ones that warm caches and, with several threads, last until the system
has given each a processor, which takes it milliseconds. Thread pools spin for milliseconds after
their work, which would cost the next contender a core: so a sample ends when the process has come
to rest. Every library keeps its own default waiting policy.
"""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from random import Random
from typing import TypeVar

from tqdm import tqdm

Key = TypeVar("Key", bound=Hashable)
Call = Callable[[], object]
Probe = Callable[[], float]

_SAMPLE_SECONDS = 4e-4
_WARM_SECONDS = 1e-4
_WAKE_SECONDS = 1e-2
_SLOW_SECONDS = 0.02
_COLD_SECONDS = 0.5  # a call that takes longer warms the caches by itself
_REST_SLICE = 5e-4
_REST_LIMIT = 0.25


def _is_running(thread: Path) -> bool:
    try:
        return thread.joinpath("stat").read_text(encoding="utf-8").rpartition(")")[2][1] == "R"
    except OSError:  # it has ended meanwhile
        return False


def rest() -> None:
    """Wait until no other thread of this process is running, twice in succession.

    Linux says so in /proc; the process's clock would not do, for it counts a spinning thread at
    the system's ticks only.
    """
    own = str(threading.get_native_id())
    limit = time.perf_counter() + _REST_LIMIT
    quiet = 0
    while quiet < 2 and time.perf_counter() < limit:
        time.sleep(_REST_SLICE)
        threads = Path("/proc/self/task").glob("*")
        is_busy = any(_is_running(thread) for thread in threads if thread.name != own)
        quiet = 0 if is_busy else quiet + 1


def _time(call: Call, count: int) -> float:
    """Return the seconds of `count` calls, without the garbage collector among them."""
    collecting = gc.isenabled()
    gc.disable()
    start = time.perf_counter()
    for _ in repeat(None, count):
        call()
    seconds = time.perf_counter() - start
    if collecting:
        gc.enable()
    return seconds


class Stopwatch:
    """The probe of a call: seconds of one call. `cost` estimates those of a sample."""

    def __init__(self, call: Call, threads: int) -> None:
        self._call = call
        seconds = _time(call, 1)
        if seconds < _SLOW_SECONDS:
            seconds = min(_time(call, 3) / 3 for _ in range(3))
        self._count = math.ceil(_SAMPLE_SECONDS / seconds)
        warm = _WARM_SECONDS if threads == 1 else _WAKE_SECONDS
        self._untimed = 0 if seconds > _COLD_SECONDS else 1 + int(warm / seconds)
        self.cost = (self._untimed + self._count) * seconds
        rest()

    def __call__(self) -> float:
        """Take a sample."""
        _time(self._call, self._untimed)
        seconds = _time(self._call, self._count) / self._count
        rest()
        return seconds


def fastest(calls: Sequence[Call], threads: int) -> Call:
    """Return the quickest of calls that do the same."""
    return min(calls, key=lambda call: Stopwatch(call, threads)())


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        rounds: Rounds of a block, each of which samples every contender once.
        budget: Seconds that one contender may take of a block; a slow one is in fewer rounds.
    """

    rounds: int
    budget: float

    def affordable(self, cost: float) -> int:
        """Return how many samples of that cost the budget allows, at least one."""
        return max(1, min(self.rounds, int(self.budget / cost)))


def interleave(
    probes: Mapping[Key, Probe], counts: Mapping[Key, int], tick: Callable[[], object]
) -> dict[Key, list[float]]:
    """Sample each probe `counts[key]` times, spread evenly over rounds, `tick`ing after each.

    Each round has an order of its own, the same in every run, so that no probe always follows the
    same one: the sweep through memory, say, which leaves the caches empty. To begin each round
    elsewhere would not do, for most would still have the neighbour that they had.
    """
    samples: dict[Key, list[float]] = {key: [] for key in probes}
    rounds = max(counts.values(), default=0)
    for step in range(rounds):
        for key in Random(step).sample(list(probes), len(probes)):
            if step == 0 or step * counts[key] // rounds > (step - 1) * counts[key] // rounds:
                samples[key].append(probes[key]())
                tick()
    return samples


def sample_calls(
    calls: Mapping[Key, Call], plan: Plan, threads: int, doing: str
) -> dict[Key, list[float]]:
    """Return the seconds of each call, in interleaved rounds, behind a bar that says `doing`."""
    stopwatches = {key: Stopwatch(call, threads) for key, call in calls.items()}
    counts = {key: plan.affordable(watch.cost) for key, watch in stopwatches.items()}
    total = sum(counts.values())
    with tqdm(total=total, desc=doing, unit="sample", leave=False, disable=None) as bar:
        return interleave(stopwatches, counts, bar.update)
