"""Many Python threads at once, and two threads of one operator being two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from operator_tests import Results, assert_same, outcome_of
from samples import OPERATORS, Sample, samples
from workload import large_samples

THREADS = 16
SERIAL = ("histogram_qparams",)  # it searches 32768 counts, whatever was observed


def run(calls: list[tuple[str, Sample]]) -> list[Results]:
    return [outcome_of(name, call) for name, call in calls]


@pytest.mark.parametrize(
    ("sizes", "rounds"), [(samples, 5), (large_samples, 1)], ids=["small", "large"]
)
def test_sixteen_threads_calling_all_operators_agree_with_one(
    sizes: Callable[[str], list[Sample]], rounds: int
) -> None:
    calls = [(name, sample) for name in OPERATORS for sample in sizes(name)]
    expected = run(calls)
    barrier = threading.Barrier(THREADS)

    def work(_: int) -> list[list[Results]]:
        barrier.wait(timeout=60)
        return [run(calls) for _ in range(rounds)]

    with ThreadPoolExecutor(THREADS) as pool:
        for results in pool.map(work, range(THREADS)):
            for one in results:
                for result, wanted in zip(one, expected, strict=True):
                    assert_same(result, wanted)


# Prints, for each operator, the CPU time of all other threads over that of the main thread.
_SHARES = """
import json, time
import torch, torchquant
from samples import OPERATORS
from workload import large_samples

torch.set_num_threads(2)
shares = {}
for name in OPERATORS:
    operator = getattr(torch.ops.torchquant, name)
    sample = max(large_samples(name), key=lambda s: s.arguments[0].numel())
    arguments = sample.arguments
    operator(*arguments)
    main = all_threads = 0.0
    while main < 0.05:
        main_before, all_before = time.thread_time(), time.process_time()
        operator(*arguments)
        main += time.thread_time() - main_before
        all_threads += time.process_time() - all_before
    shares[name] = (all_threads - main) / main
print(json.dumps(shares))
"""


@pytest.fixture(scope="module")
def shares() -> dict[str, float]:
    ran = subprocess.run(
        [sys.executable, "-c", _SHARES],
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},  # spinning is not work
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, float] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize("name", [name for name in OPERATORS if name not in SERIAL])
def test_two_threads_share_the_work(name: str, shares: dict[str, float]) -> None:
    """CPU time, so a busy machine changes nothing. Half each is 1, serial is 0; the main thread
    also checks and allocates, hence a quarter."""
    assert shares[name] > 0.25
