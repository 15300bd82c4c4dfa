"""Calibration over several processes, each with its share of the data.

    torchrun --nproc-per-node 2 examples/calibrate_in_parallel.py calibration.safetensors

Every rank ends with the very state that one process with all the data would have.
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import nn

import torchquant

SAMPLES, FEATURES, BATCH_SIZE = 600, 32, 20


def model_and_data() -> tuple[nn.Module, torch.Tensor]:
    """The same on every rank; put yours here."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, 10))
    return model, torch.randn(SAMPLES, FEATURES)


def main(path: str) -> None:
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    model, data = model_and_data()
    batches = data.split(BATCH_SIZE)[rank::world_size]  # a DistributedSampler does the like

    calibration = torchquant.calibrate(model, batches, progress=rank == 0)
    calibration.all_reduce()

    if rank == 0:
        calibration.save(path)
        print(calibration.summary())
        print(torchquant.quantize_static(model, calibration))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
