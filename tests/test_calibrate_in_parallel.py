"""Calibration in several processes: each ends with what one process finds with all the data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from calibrations import assert_same_state, calibrated, exact_data, exact_model

from torchquant import Calibration

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "calibrate_in_parallel.py"
PROCESSES, BATCHES = 4, 24
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.any_kernels


def finished(process: subprocess.Popen[str]) -> str:
    shown, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return shown


def started(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
    )


def all_finished(running: list[subprocess.Popen[str]]) -> list[str]:
    try:
        return [finished(process) for process in running]
    finally:
        for process in running:
            process.kill()


def torchrun(processes: int, path: Path) -> subprocess.Popen[str]:
    options = ["--standalone", "--nproc-per-node", str(processes)]
    return started("-m", "torch.distributed.run", *options, str(EXAMPLE), str(path))


def test_the_example_gives_one_file_for_any_number_of_processes(tmp_path: Path) -> None:
    shown = all_finished([torchrun(n, tmp_path / str(n)) for n in (1, 2, 3)])
    assert shown[0] == shown[1] == shown[2]
    assert shown[0].startswith("2 tensors, 30 batches, method mse\n")
    assert "requantize=True" in shown[0]
    files = [(tmp_path / str(n)).read_bytes() for n in (1, 2, 3)]
    assert files[0] == files[1] == files[2]
    assert Calibration.load(tmp_path / "3").calls == {"0": 30, "2": 30}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four processes wrote."""
    folder = tmp_path_factory.mktemp("processes")
    script = Path(__file__).with_name("calibration_processes.py")
    all_finished(
        [started(str(script), str(folder), str(rank), str(PROCESSES)) for rank in range(PROCESSES)]
    )
    return folder


@pytest.mark.parametrize("size", range(1, PROCESSES + 1))
def test_every_rank_of_a_group_has_the_state_of_one_process(folder: Path, size: int) -> None:
    whole = calibrated(exact_model(), *exact_data().chunk(BATCHES))
    whole.interrupted = size == 3  # on one of them
    for rank in range(size):
        reduced = Calibration.load(folder / f"{size}.{rank}")
        assert_same_state(reduced, whole)
        whole.save(folder / "whole")
        assert (folder / f"{size}.{rank}").read_bytes() == (folder / "whole").read_bytes()


def test_ranks_outside_a_group_take_no_part(folder: Path) -> None:
    assert not (folder / "2.2").exists()
    assert (folder / "4.3").exists()


@pytest.mark.parametrize("rank", range(PROCESSES))
def test_a_rank_without_batches_takes_part(folder: Path, rank: int) -> None:
    calibrated(exact_model(), *exact_data().chunk(BATCHES)).save(folder / "whole")
    assert (folder / f"idle.{rank}").read_bytes() == (folder / "whole").read_bytes()


def test_where_no_rank_has_batches_all_are_told(folder: Path) -> None:
    told = {(folder / f"no_data.{rank}").read_text() for rank in range(PROCESSES)}
    assert told == {
        "one rank at least must have calibrated with a batch, but none has: give each its share of "
        "the data"
    }


def test_ranks_with_other_layers_are_all_told(folder: Path) -> None:
    told = {json.loads((folder / f"refusal.{rank}").read_text()) for rank in range(PROCESSES)}
    assert told == {
        "all ranks must have calibrated the same layers, but ranks 0 and 1 differ: ['0', '1'] and "
        "['0']"
    }
