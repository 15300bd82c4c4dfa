"""Whatever ends a save, a kill, a full disk or another save, there is the old file or the new."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from calibrations import assert_same_state
from operator_tests import assert_same
from samples import floats
from torch import nn

import torchquant
from torchquant import Calibration

pytestmark = pytest.mark.any_kernels

KILLS = 50
LEFTOVER = ".torchquant-"  # how the name of what a killed process leaves begins


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(96, 300), nn.Linear(300, 96))


def model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return torchquant.quantize_dynamic(build())


def calibration(seed: int) -> Calibration:
    made = Calibration(["layer"])
    made.observe("layer", floats(1000, seed=seed))
    return made


def save(kind: str, state: Any, path: Path) -> None:
    if kind == "model":
        torchquant.save_quantized(state, path)
    else:
        state.save(path)


def assert_one_of(kind: str, path: Path, states: tuple[Any, Any]) -> None:
    """The file is whole, and one of the two to the bit."""
    if kind == "calibration":
        loaded = Calibration.load(path)
        found = [
            torch.equal(loaded.histograms["layer"].counts, state.histograms["layer"].counts)
            for state in states
        ]
        assert_same_state(loaded, states[found.index(True)])
        return
    loaded = torchquant.load_quantized(build(), path).state_dict()
    found = [torch.equal(loaded["0.bias"], state.state_dict()["0.bias"]) for state in states]
    for key, value in states[found.index(True)].state_dict().items():
        assert_same(loaded[key], value)


STATES: dict[str, Callable[[int], Any]] = {"model": model, "calibration": calibration}

# Forks a child for each line that it reads, that the imports are paid for once; the child saves the
# one state and the other, for ever.
FORKS = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import torch
torch.set_num_threads(1)
from test_crash_safety import STATES, save
kind, path = sys.argv[1], Path(sys.argv[2])
states = [STATES[kind](seed) for seed in (0, 1)]
save(kind, states[0], path)
for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        while True:
            for state in reversed(states):
                save(kind, state, path)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else "ended", flush=True)
"""


@pytest.mark.parametrize("kind", STATES)
def test_a_killed_save_leaves_the_old_file_or_the_new(kind: str, tmp_path: Path) -> None:
    path, moments = tmp_path / "file", random.Random(0)
    states = (STATES[kind](0), STATES[kind](1))
    command = [sys.executable, "-c", FORKS, kind, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as forks:
        assert forks.stdin is not None
        assert forks.stdout is not None
        for _ in range(KILLS):
            forks.stdin.write("\n")
            child = int(forks.stdout.readline())
            time.sleep(moments.uniform(0.0, 0.06))
            os.kill(child, signal.SIGKILL)
            assert forks.stdout.readline().strip() == str(int(signal.SIGKILL))
            assert_one_of(kind, path, states)
    others = {file.name for file in tmp_path.iterdir()} - {path.name}
    assert others  # so that some were killed while they wrote
    assert all(name.startswith(LEFTOVER) for name in others)


def test_a_killed_save_of_cpp_leaves_the_old_file_or_the_new(
    tmp_path: Path, model_files: Path
) -> None:
    path, moments = tmp_path / "file", random.Random(0)
    states = (model(0), model(1))
    for number, state in enumerate(states):
        torchquant.save_quantized(state, tmp_path / str(number))
    for _ in range(KILLS // 5):
        command = [model_files, "save", tmp_path / "0", tmp_path / "1", path]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as saving:
            assert saving.stdout is not None
            assert saving.stdout.readline() == b"saved\n"
            time.sleep(moments.uniform(0.0, 0.03))
            saving.kill()
            assert saving.wait() == -signal.SIGKILL
        assert_one_of("model", path, states)
    others = {file.name for file in tmp_path.iterdir()} - {path.name, "0", "1"}
    assert all(name.startswith(LEFTOVER) for name in others)


@pytest.mark.parametrize("kind", STATES)
def test_threads_that_save_to_one_path_leave_one_of_theirs(kind: str, tmp_path: Path) -> None:
    path, errors = tmp_path / "file", []
    states = (STATES[kind](0), STATES[kind](1))

    def run(state: Any) -> None:
        try:
            for _ in range(10):
                save(kind, state, path)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(states[i % 2],)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert_one_of(kind, path, states)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


SAVE_ONCE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_crash_safety import STATES, save
kind, path = sys.argv[1], Path(sys.argv[2])
state = STATES[kind](1)
if len(sys.argv) > 3:
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    save(kind, state, path)
except OSError as error:
    print(error)
"""


def assert_the_old_file_stays(kind: str, path: Path, *options: str) -> None:
    before, others = path.read_bytes(), sorted(path.parent.iterdir())
    ran = subprocess.run(
        [sys.executable, "-c", SAVE_ONCE, kind, str(path), *options],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.startswith(f"{path} cannot be written: ")
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == others


@pytest.mark.parametrize("limit", [100, 20_000])
@pytest.mark.parametrize("kind", STATES)
def test_a_file_that_may_not_grow(kind: str, limit: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    save(kind, STATES[kind](0), path)
    assert path.stat().st_size > limit
    assert_the_old_file_stays(kind, path, str(limit))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """One of 400 KB, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "none", folder], capture_output=True, text=True
    )
    if not mounted or mounted.returncode:
        pytest.skip(f"no disk can be mounted: {mounted and mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("kind", STATES)
def test_a_full_disk(kind: str, small_disk: Path) -> None:
    path = small_disk / "file"
    save(kind, STATES[kind](0), path)
    (small_disk / "filler").write_bytes(bytes(400 * 1024 - path.stat().st_size - 40_000))
    assert_the_old_file_stays(kind, path)
