"""The machine's best: exact INT8 dot products in registers, and reading memory, on threads."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np

_FLAGS = {"avx512vnni": "avx512_vnni", "avxvnni": "avx_vnni", "avx2": "avx2"}
_ROUNDS = 3_000_000
_STREAM_BYTES = 256 << 20


def cpu_info(field: str) -> str:
    """Return a field of the first processor in /proc/cpuinfo, or nothing."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(rf"^{field}\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else ""


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def _compile() -> ctypes.CDLL:
    source = Path(__file__).with_name("peak.cpp")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "peak.so"
        command = [os.environ.get("CXX", "c++"), "-O2", "-shared", "-fPIC"]
        subprocess.run(
            [*command, str(source), "-o", str(library)], check=True, capture_output=True, text=True
        )
        return ctypes.CDLL(str(library))


def _together(work: Sequence[Callable[[], int]]) -> float:
    """Run each piece on a processor of its own, at once, and return the seconds until the last."""
    barrier = threading.Barrier(len(work))
    processors = cycle(sorted(os.sched_getaffinity(0)))

    def run(piece: Callable[[], int], processor: int) -> tuple[float, float]:
        os.sched_setaffinity(0, {processor})  # of this thread alone, which ends below
        barrier.wait()
        start = time.perf_counter()
        piece()
        return start, time.perf_counter()

    with ThreadPoolExecutor(len(work)) as pool:
        spans = list(pool.map(run, work, processors))
    return max(end for _, end in spans) - min(start for start, _ in spans)


class Peak:
    """Compiled when made, so that nothing but the machine's compiler is needed."""

    def __init__(self) -> None:
        library = _compile()
        flags = cpu_info("flags").split()
        self.instructions = [name for name, flag in _FLAGS.items() if flag in flags]
        self._dots: dict[str, Callable[[int], int]] = {}
        for name in self.instructions:
            dot = library[f"dot_{name}"]
            dot.argtypes, dot.restype = [ctypes.c_int64], ctypes.c_int64
            self._dots[name] = dot
        self._sum = library["stream_sum"]
        self._sum.argtypes, self._sum.restype = [ctypes.c_void_p, ctypes.c_int64], ctypes.c_int64
        self._memory = np.ones(_STREAM_BYTES // 8, np.int64)

    def gops(self, instruction: str, threads: int) -> float:
        """Return 10^9 operations a second, two to a multiply-add, of all threads at once."""
        dot = self._dots[instruction]
        operations = threads * dot(1) * _ROUNDS
        return operations / _together([lambda: dot(_ROUNDS)] * threads) / 1e9

    def bandwidth(self, threads: int) -> float:
        """Return the 10^9 bytes a second that the threads read of 256 MB.

        One thread has touched them first, so that on a NUMA machine they lie in one node; and a
        last-level cache that holds much of them gives more than memory does. There it is another
        figure than the bandwidth of the machine's memory.
        """
        count = self._memory.size // threads // 32 * 32
        start = self._memory.ctypes.data
        parts = [start + 8 * count * index for index in range(threads)]
        seconds = _together([partial(self._sum, part, count) for part in parts])
        return 8 * count * threads / seconds / 1e9
