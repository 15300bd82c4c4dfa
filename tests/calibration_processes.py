"""One of several processes that calibrate together, run by test_calibrate_in_parallel.py.

For groups of 1 to all processes: the sum of their shares. Then what ranks without data find, and
what ranks are told that differ, or of which none has data.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from calibrations import calibrated, exact_data, exact_model
from torch import nn

from torchquant import Calibration

BATCHES = 24


def share(rank: int, world_size: int) -> Calibration:
    return calibrated(exact_model(), *exact_data().chunk(BATCHES)[rank::world_size])


def reduce_in_groups(folder: Path, rank: int, world_size: int) -> None:
    for size in range(1, world_size + 1):
        group = dist.new_group(list(range(size)))
        if rank < size:
            calibration = share(rank, size)
            calibration.interrupted = size == 3 and rank == 1
            assert calibration.all_reduce(group) is calibration
            calibration.save(folder / f"{size}.{rank}")


def reduce_with_idle_ranks(folder: Path, rank: int) -> None:
    """Only rank 0 has data: the others are warned, and end with what it found."""
    if rank == 0:
        calibration = calibrated(exact_model(), *exact_data().chunk(BATCHES))
    else:
        with pytest.warns(UserWarning, match="this rank adds nothing in all_reduce"):
            calibration = calibrated(exact_model())
    calibration.all_reduce().save(folder / f"idle.{rank}")


def refusal_of_no_data() -> str:
    with pytest.warns(UserWarning, match="batches gave none"):
        calibration = calibrated(exact_model())
    with pytest.raises(ValueError, match="one rank at least") as error:
        calibration.all_reduce()
    return str(error.value)


def refusal_of_other_layers(rank: int) -> str:
    """Rank 1 left a layer out."""
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    calibration = calibrated(
        model, exact_data(), filter_fn=lambda module, name: not (rank == 1 and name == "1")
    )
    before = calibration.histograms["0"].counts.clone()
    try:
        calibration.all_reduce()
    except ValueError as error:
        assert torch.equal(calibration.histograms["0"].counts, before)
        return str(error)
    return "none"


def main(folder: Path, rank: int, world_size: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world_size
    )
    reduce_in_groups(folder, rank, world_size)
    reduce_with_idle_ranks(folder, rank)
    (folder / f"no_data.{rank}").write_text(refusal_of_no_data())
    (folder / f"refusal.{rank}").write_text(json.dumps(refusal_of_other_layers(rank)))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
