"""Float models in the shapes that conversion must handle, and what one of them called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from samples import floats
from torch import Tensor, nn


class Residual(nn.Module):
    """A block with a nested block, so that names have dots."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.inner(x))


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(12, 20)
        self.blocks = nn.ModuleList([Residual(20), Residual(20)])
        self.heads = nn.ModuleDict({"a": nn.Linear(20, 3, bias=False), "b": nn.Linear(20, 5)})

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.heads["a"](x), self.heads["b"](x)


class Shared(nn.Module):
    """One module under three names, two of them in one parent."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.again = self.first
        self.block = nn.Sequential(self.first, nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.again(self.first(x)))


class Tied(nn.Module):
    """Two layers with one weight and biases of their own, tied to an embedding too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 16)
        self.left = nn.Linear(16, 30)
        self.right = nn.Linear(16, 30)
        self.left.weight = self.right.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return self.left(x) + self.right(x)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.after = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.attention(x, x, x)[0])


def encoder_layer(**options: Any) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(16, 4, 40, dropout=0.0, batch_first=True, **options)


def encoder() -> nn.TransformerEncoder:
    return nn.TransformerEncoder(encoder_layer(), 2)


#: Each model with an input of it and the number of its exact nn.Linear calls.
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor, int]] = {
    "linear": (lambda: nn.Linear(12, 20), floats(5, 12), 1),
    "mlp": (
        lambda: nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 3, bias=False)),
        floats(5, 12),
        2,
    ),
    "nested": (Nested, floats(2, 5, 12), 7),
    "shared": (Shared, floats(5, 16), 3),
    "tied": (Tied, torch.arange(6).reshape(2, 3), 2),
    "attention": (Attention, floats(2, 5, 16), 1),
    "encoder-layer": (encoder_layer, floats(2, 5, 16), 2),
    "encoder": (encoder, floats(2, 5, 16), 4),
}


def make(name: str) -> tuple[nn.Module, Tensor, int]:
    torch.manual_seed(0)
    build, x, calls = MODELS[name]
    return build().eval(), x.clone(), calls


def operator_calls(name: str, model: Callable[..., Any], *arguments: Any, **keywords: Any) -> int:
    """How often an operator of ours really ran, which no fast path can hide."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        model(*arguments, **keywords)
    return sum(event.name == f"torchquant::{name}" for event in profile.events())


def int8_calls(model: Callable[..., Any], *arguments: Any, **keywords: Any) -> int:
    return operator_calls("linear_dynamic", model, *arguments, **keywords)
