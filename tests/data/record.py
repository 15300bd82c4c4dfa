"""Writes the files of a format's version, once, when it is new: `python tests/data/record.py`.

Those of an older version stay as the torchquant of their time wrote them. What they hold: a model
of each scheme, with a layer under two names; a calibration; and what they gave for a fixed input.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import torchquant
from torchquant import calibration_file, model_file

FOLDER = Path(__file__).parent


def integers(*shape: int, seed: int, limit: int = 9) -> Tensor:
    """Floats that are integers, so that float sums of them are exact in any order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-limit, limit + 1, shape, generator=generator).float()


def linear(inputs: int, outputs: int, seed: int) -> nn.Linear:
    """Weights that are multiples of 1/4, each row's greatest 127/4: their codes lose nothing."""
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(integers(outputs, inputs, seed=seed, limit=127) / 4)
        layer.weight[:, 0] = 127 / 4
        layer.bias.copy_(integers(outputs, seed=seed + 100))
    return layer


def build() -> nn.ModuleDict:
    """The float model that the recorded one is loaded into."""
    dynamic = linear(20, 18, seed=1)
    return nn.ModuleDict(
        {
            "dynamic": dynamic,
            "again": dynamic,
            "chain": nn.Sequential(linear(20, 16, seed=2), nn.ReLU(), linear(16, 5, seed=3)),
            "weight_only": linear(20, 6, seed=4),
            "norm": nn.LayerNorm(5),
        }
    ).eval()


def fixed_input() -> Tensor:
    return integers(7, 20, seed=5)


def outputs(model: nn.ModuleDict) -> dict[str, Tensor]:
    """What each part gives."""
    names = ("dynamic", "chain", "weight_only")
    return {name: model[name](fixed_input()).detach() for name in names}


def calibrate() -> torchquant.Calibration:
    chain = build()["chain"]
    return torchquant.calibrate(chain[:1], [integers(64, 20, seed=6)], progress=False)


def quantize() -> nn.ModuleDict:
    model = build()
    chain = torchquant.calibrate(model["chain"], [integers(64, 20, seed=6)], progress=False)
    made = nn.ModuleDict(dict(model))
    made["dynamic"] = made["again"] = torchquant.quantize_dynamic(model["dynamic"])
    made["chain"] = torchquant.quantize_static(model["chain"], chain)
    made["weight_only"] = torchquant.quantize_weights(model["weight_only"])
    return made


if __name__ == "__main__":
    model, calibration = quantize(), calibrate()
    torchquant.save_quantized(model, FOLDER / f"model_v{model_file.KIND.version}.safetensors")
    calibration.save(FOLDER / f"calibration_v{calibration_file.KIND.version}.safetensors")
    scale, zero_point = calibration.qparams("0")
    known = {"input": fixed_input(), "scale": scale, "zero_point": zero_point, **outputs(model)}
    save_file(known, FOLDER / f"results_v{model_file.KIND.version}.safetensors")
