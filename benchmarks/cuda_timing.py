"""Times of CUDA kernels: by the device's events, of calls that rotate among several sets of inputs.

A sample is enough calls for some milliseconds, between two events. The device is held busy while
the host enqueues them, or short kernels would wait for the host and the sample would be of its
launches: what the host takes for a call is a figure of its own. Calls take the sets of inputs in
turn, and their results live as long, so that neither is in the cache when it is met again.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from missing import Missing
from timing import Call, Plan, Probe, interleave

Key = TypeVar("Key", bound=Hashable)

_SAMPLE_SECONDS = 1.5e-3
_HOST_SECONDS = 2e-3
_MOST_CALLS = 300
_SLOW_SECONDS = 0.02  # a call that takes longer is sampled one at a time
_SPARE_HOLD = 1.3  # the host may be slower than it was when it was timed
_LONGEST_HOLD = 0.02
_SLEEP_CYCLES = 10_000_000


class Event(Protocol):
    """A mark in the queue of a device."""

    def record(self) -> object:
        """Put it behind all that was enqueued before."""

    def synchronize(self) -> object:
        """Wait until the device has come to it."""

    def elapsed_time(self, end: Any, /) -> float:  # noqa: ANN401 - an event of its own kind
        """Return the milliseconds from here to a later one."""


class Sample(NamedTuple):
    """Seconds of a number of calls: of the device, and of the host to enqueue them."""

    device: float
    host: float


@dataclass(frozen=True)
class EventClock:
    """Times what is enqueued on a device.

    Attributes:
        hold: Keeps the device busy for some seconds, as one more thing that is enqueued.
        wait: Waits until the device has done all of it; raises where it failed.
        waits: Whether a call waits for the device by itself.
    """

    event: Callable[[], Event]
    hold: Callable[[float], None]
    wait: Callable[[], None]
    waits: Callable[[Call], bool]

    def time(self, enqueue: Call, hold: float = 0.0) -> Sample:
        """Return the seconds of what `enqueue` puts on the device, held until it has done so."""
        self.wait()
        start, end = self.event(), self.event()
        collecting = gc.isenabled()
        gc.disable()
        try:
            if hold:
                self.hold(hold)
            start.record()
            began = time.perf_counter()
            enqueue()
            host = time.perf_counter() - began
            end.record()
        finally:
            if collecting:
                gc.enable()
        end.synchronize()
        return Sample(start.elapsed_time(end) / 1e3, host)


def _sleep(cycles: float) -> None:
    torch.cuda._sleep(int(cycles))  # type: ignore[no-untyped-call]


def _cuda_event() -> Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _cycles_per_second() -> float:
    """Time the kernel that only waits, the second time, when it is loaded."""
    seconds = 1.0
    for _ in range(2):
        start, end = _cuda_event(), _cuda_event()
        start.record()
        _sleep(_SLEEP_CYCLES)
        end.record()
        end.synchronize()
        seconds = start.elapsed_time(end) / 1e3
    return _SLEEP_CYCLES / seconds


def _call_waits(call: Call) -> bool:
    """Whether PyTorch sees the call wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def cuda_clock() -> EventClock:
    """Return the clock of the current CUDA device."""
    rate = _cycles_per_second()
    return EventClock(
        event=_cuda_event,
        hold=lambda seconds: _sleep(seconds * rate),
        wait=torch.cuda.synchronize,
        waits=_call_waits,
    )


class DeviceLost(RuntimeError):
    """The device answers no more, as after a kernel that wrote where it may not."""


def check_alive(clock: EventClock, doing: str) -> None:
    """Raise DeviceLost where what failed leaves a device on which nothing runs any more."""
    try:
        clock.wait()
    except Exception as error:
        raise DeviceLost(f"{doing}: {Missing.because(error).reason}") from error


class EventStopwatch:
    """The probe of calls that do the same to sets of inputs: seconds of the device for one call.

    Attributes:
        cost: Estimates the seconds of a sample.
        count: Calls of a sample.
    """

    def __init__(self, calls: Sequence[Call], clock: EventClock, *, waits: bool = False) -> None:
        self._clock = clock
        self._depth = len(calls)
        self._turn = cycle(calls)
        self._hold_per_call = 0.0
        seconds = self._clock.time(partial(self._enqueue, 1)).device
        if seconds < _SLOW_SECONDS:
            self._enqueue(self._depth)
            seconds = self._estimate(waits)
        self.count = max(1, min(_MOST_CALLS, math.ceil(_SAMPLE_SECONDS / max(seconds, 1e-9))))
        self.cost = self.count * (seconds + self._hold_per_call)

    def _estimate(self, waits: bool) -> float:
        """Time few calls: first the host, to know how long to hold the device, then the device."""
        few = 5
        first = self._clock.time(partial(self._enqueue, few))
        if not waits:  # to hold the device would only make the host wait
            self._hold_per_call = _SPARE_HOLD * first.host / few
        return self._clock.time(partial(self._enqueue, few), self._hold(few)).device / few

    def _hold(self, count: int) -> float:
        return min(_LONGEST_HOLD, count * self._hold_per_call)

    def _enqueue(self, count: int) -> None:
        """Call in turn; a result lives until its set of inputs is met again."""
        results: deque[object] = deque(maxlen=self._depth)
        for call in islice(self._turn, count):
            results.append(call())

    def __call__(self) -> float:
        """Take a sample."""
        enqueue = partial(self._enqueue, self.count)
        return self._clock.time(enqueue, self._hold(self.count)).device / self.count


class HostStopwatch:
    """The probe of what the host takes to enqueue a call on small tensors, the device being idle.

    `cost` estimates the seconds of a sample. A call that waits for the device includes that.
    """

    def __init__(self, call: Call, clock: EventClock) -> None:
        self._call = call
        self._clock = clock
        self._count = 3
        seconds = min(self() for _ in range(3))
        self._count = max(1, min(_MOST_CALLS, math.ceil(_HOST_SECONDS / max(seconds, 1e-9))))
        self.cost = self._count * seconds

    def _enqueue(self) -> None:
        for _ in range(self._count):
            self._call()

    def __call__(self) -> float:
        """Take a sample."""
        return self._clock.time(self._enqueue).host / self._count


class Times(NamedTuple):
    """Seconds of one call, over the rounds."""

    seconds: float
    least: float
    greatest: float
    rounds: int


class _Guarded:
    """A probe that gives NaN, and remembers why, from where it raises."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self.failure: Missing | None = None

    def __call__(self) -> float:
        if self.failure:
            return math.nan
        try:
            return self._probe()
        except Exception as error:  # whatever it raises is why it is missing
            self.failure = Missing.because(error)
            return math.nan


def time_in_rounds(
    watches: Mapping[Key, EventStopwatch | HostStopwatch], plan: Plan
) -> dict[Key, Times | Missing]:
    """Sample all in interleaved rounds, and return the medians, or why there are none."""
    probes = {key: _Guarded(watch) for key, watch in watches.items()}
    counts = {key: plan.affordable(watch.cost) for key, watch in watches.items()}
    samples = interleave(probes, counts, lambda: None)
    return {
        key: probe.failure or _times(samples[key])  # no sample is NaN unless it failed
        for key, probe in probes.items()
    }


def _times(samples: Sequence[float]) -> Times:
    return Times(statistics.median(samples), min(samples), max(samples), len(samples))
