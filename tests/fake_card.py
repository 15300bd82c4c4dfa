"""The benchmark of the CUDA kernels with the CPU for a card, and the host's clock for its events.

    python tests/fake_card.py --size 16x256 --shape 20,64,32 --json -

Behind --break stands an operator that raises, behind --lose one after which nothing runs any more.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import cuda_card
import cuda_kernels
from cuda_timing import EventClock

from torchquant import ops


class HostEvent:
    """An event of a device that has done everything as soon as it is enqueued."""

    def record(self) -> None:
        self.seconds = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: HostEvent) -> float:
        return 1e3 * (end.seconds - self.seconds)


class Device:
    """Runs everything, until it is lost."""

    def __init__(self) -> None:
        self.is_lost = False

    def wait(self) -> None:
        if self.is_lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nhint")

    def clock(self) -> EventClock:
        return EventClock(HostEvent, lambda seconds: None, self.wait, lambda call: False)


def card() -> cuda_card.Card:
    return cuda_card.Card(
        torch.device("cpu"), "H100 80GB HBM3", "1.2.3", 132, 1 << 20, 4096, 3352.0, "a test", 1979.0
    )


def fail(device: Device, *, loses: bool) -> Callable[..., object]:
    def operator(*_arguments: object, **_options: object) -> object:
        device.is_lost = loses
        raise RuntimeError("no kernel image is available\nfor this card")

    return operator


def option(arguments: list[str], name: str) -> str | None:
    if name not in arguments:
        return None
    index = arguments.index(name)
    _, value = arguments[index : index + 2]
    del arguments[index : index + 2]
    return value


def main() -> int:
    rest, device = sys.argv[1:], Device()
    for name, loses in (("--break", False), ("--lose", True)):
        if operator := option(rest, name):
            setattr(ops, operator, fail(device, loses=loses))
    warnings.simplefilter("ignore")
    arguments = cuda_kernels.parse_arguments(rest)
    run = cuda_kernels.prepare(arguments, card(), device.clock())
    return cuda_kernels.measure(run, arguments.json, cuda_kernels.stream_of_tables(arguments.json))


if __name__ == "__main__":
    sys.exit(main())
