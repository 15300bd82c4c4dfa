"""torchquant.Calibration: its state, what is read from it, merging, and its file."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from calibrations import METHODS, assert_same_state, calibrated, exact_data, exact_model
from samples import floats
from torch import Tensor

import torchquant
from torchquant import Calibration
from torchquant.calibration_plot import densities

mpl.use("Agg")


def calibration_of(*tensors: Tensor, **keywords: Any) -> Calibration:
    calibration = Calibration(["layer"], **keywords)
    for tensor in tensors:
        calibration.observe("layer", tensor)
    return calibration


def range_and_codes(num_bits: int, symmetric: bool) -> tuple[int, int]:
    return (-(2 ** (num_bits - 1)), 2 ** (num_bits - 1) - 1) if symmetric else (0, 2**num_bits - 1)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("num_bits", [2, 4, 8, 16])
def test_minmax_qparams_are_those_of_the_exact_range(num_bits: int, symmetric: bool) -> None:
    x = floats(50, 60)
    scale, zero_point = calibration_of(x).qparams(
        "layer", method="minmax", num_bits=num_bits, symmetric=symmetric
    )
    expected = torch.ops.torchquant.choose_qparams_per_tensor(
        x, *range_and_codes(num_bits, symmetric), symmetric
    )
    assert (scale.dtype, zero_point.dtype) == (torch.float32, torch.int32)
    assert (scale.shape, zero_point.shape) == ((), ())
    assert (scale, zero_point) == expected


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_qparams_are_those_of_the_operator(method: str, symmetric: bool) -> None:
    calibration = calibration_of(floats(50, 60), percentile=97.0)
    histogram = calibration.histograms["layer"]
    expected = torch.ops.torchquant.histogram_qparams(
        histogram.counts, histogram.range, *range_and_codes(6, symmetric), symmetric, method, 97.0
    )
    result = calibration.qparams("layer", method=method, num_bits=6, symmetric=symmetric)
    assert result == expected


def test_the_defaults_are_those_of_the_calibration() -> None:
    x = torch.randn(50, 600) ** 3  # long tails, where every method clips elsewhere
    for method in METHODS:
        calibration = calibration_of(x, method=method, percentile=90)
        assert calibration.qparams("layer") == calibration.qparams("layer", method=method)
    calibration = calibration_of(x, method="percentile", percentile=90)
    assert calibration.qparams("layer") == calibration.qparams("layer", percentile=90)
    assert calibration.qparams("layer") != calibration.qparams("layer", percentile=99)
    assert len({calibration.qparams("layer", method=method)[0].item() for method in METHODS}) == 4


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (
            {"method": "MSE"},
            "method must be one of minmax, percentile, mse, entropy, but got 'MSE': \"mse\" suits "
            "most activations",
        ),
        ({"percentile": 0.9}, "percentile must lie in (50, 100], but got 0.9: 99.99 is usual"),
        ({"num_bits": 1}, "num_bits must lie in [2, 16], but got 1: 8 is usual"),
        ({"num_bits": 17}, "num_bits must lie in [2, 16], but got 17: 8 is usual"),
    ],
)
def test_wrong_arguments_of_qparams_are_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="must") as error:
        calibration_of(floats(5)).qparams("layer", **keywords)
    assert str(error.value) == message


def test_an_unknown_layer_is_refused() -> None:
    for call in (lambda c: c.qparams("lay"), lambda c: c.observe("lay", floats(5))):
        with pytest.raises(KeyError) as error:
            call(calibrated(exact_model(), exact_data()))
        assert error.value.args == ("'lay' was not calibrated: the names are 0, 2",)


def test_a_layer_that_was_never_called_is_refused() -> None:
    for call in (lambda c: c.qparams("layer"), lambda c: c.plot("layer")):
        with pytest.raises(ValueError, match="never") as error:
            call(calibration_of())
        assert str(error.value) == (
            "layer was never called in 0 batches, so its range is not known: calibrate with data "
            "that reaches it, or leave it in float by filter_fn"
        )


def test_nan_that_was_observed_by_hand_is_refused() -> None:
    calibration = calibration_of(torch.tensor([1.0, math.nan]))
    for method in METHODS:
        with pytest.raises(RuntimeError, match="counts must hold finite values only, but got 1 of"):
            calibration.qparams("layer", method=method)


@pytest.mark.parametrize("method", ["max", ""])
def test_wrong_arguments_of_the_constructor_are_refused(method: str) -> None:
    with pytest.raises(ValueError, match=r"^method must be one of minmax, percentile, mse, entr"):
        Calibration(["layer"], method)
    with pytest.raises(ValueError, match=r"^percentile must lie in \(50, 100\], but got 101: 99"):
        Calibration(["layer"], "mse", 101)


def test_merge_adds_in_place_and_returns_itself() -> None:
    a, b = floats(5, 6), floats(7, 8, seed=1) * 3
    one, other = calibration_of(a, a), calibration_of(b)
    one.batches, other.batches = 4, 3
    histogram = one.histograms["layer"]
    counts = histogram.counts
    assert one.merge(other) is one
    assert one.histograms["layer"] is histogram
    assert histogram.counts is counts
    expected = calibration_of(a, a, b)
    expected.batches = 7
    assert_same_state(one, expected)
    untouched = calibration_of(b)
    untouched.batches = 3
    assert_same_state(other, untouched)


def test_merge_takes_its_names_in_any_order() -> None:
    one, other = Calibration(["a", "b"]), Calibration(["b", "a"])
    one.observe("a", torch.ones(2))
    other.observe("a", torch.ones(3))
    one.merge(other)
    assert [histogram.count for histogram in one.histograms.values()] == [5, 0]
    assert one.names == ["a", "b"]


def test_merging_is_commutative_and_keeps_the_ends() -> None:
    a, b = torch.tensor([-3.0, 1.0]), torch.tensor([-1.0, 5.0])
    for parts in ((a, b), (b, a)):
        merged = calibration_of(parts[0]).merge(calibration_of(parts[1]))
        assert merged.histograms["layer"].range.tolist() == [-3.0, 5.0]
    assert_same_state(
        calibration_of(a).merge(calibration_of(b)), calibration_of(b).merge(calibration_of(a))
    )


def test_merging_with_itself_doubles() -> None:
    calibration = calibration_of(floats(5))
    assert_same_state(calibration.merge(calibration), calibration_of(floats(5), floats(5)))


def test_an_interrupted_part_makes_the_whole_interrupted() -> None:
    part = calibration_of()
    part.interrupted = True
    assert calibration_of().merge(part).interrupted
    assert part.merge(calibration_of()).interrupted


def test_merging_other_layers_is_refused_and_adds_nothing() -> None:
    one, other = Calibration(["a", "b", "c"]), Calibration(["a", "d"])
    other.observe("a", floats(5))
    with pytest.raises(ValueError, match="same layers") as error:
        one.merge(other)
    assert str(error.value) == (
        "other must be a calibration of the same layers, but only one of the two has b, c, d: "
        "calibrate the same model with the same filter_fn"
    )
    assert_same_state(one, Calibration(["a", "b", "c"]))


def _pickled(calibration: Calibration) -> Calibration:
    return pickle.loads(pickle.dumps(calibration))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, _pickled])
def test_copies_are_equal_and_apart(duplicate: Callable[[Calibration], Calibration]) -> None:
    original, x = calibrated(exact_model(), exact_data(), method="entropy"), exact_data()
    other = duplicate(original)
    assert_same_state(other, original)
    other.observe("0", 2 * x)
    assert_same_state(original, calibrated(exact_model(), x, method="entropy"))
    assert other.histograms["0"].range.tolist() == [(2 * x).min().item(), (2 * x).max().item()]
    assert not other.histograms["0"].has_nan_or_inf()
    other.observe("0", torch.tensor([math.nan]))
    assert other.histograms["0"].has_nan_or_inf()


def test_the_state_is_float32_whatever_the_default_dtype() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        calibration = calibration_of(floats(5))
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_state(calibration, calibration_of(floats(5)))


def test_the_state_has_one_size() -> None:
    histogram = calibration_of(floats(300, 400)).histograms["layer"]
    assert histogram.counts.numel() * histogram.counts.element_size() == 256 * 1024
    assert histogram.count == 120_000


def test_minus_zero_and_zero_are_one_end() -> None:
    for x in (torch.tensor([-0.0, 0.0]), torch.tensor([0.0, -0.0]), torch.tensor([-0.0])):
        ends = calibration_of(x).histograms["layer"].range
        assert ends.view(torch.int32).tolist() == [0, 0]
    assert calibration_of(torch.tensor([-0.0, 0.0, 1.0])).histograms["layer"].zeros == 2


# summary, rows


def test_rows_are_plain_values() -> None:
    x = torch.cat((floats(100), torch.zeros(50)))
    calibration = calibration_of(x, x)
    (row,) = calibration.rows()
    assert json.loads(json.dumps(row)) == row
    assert row["layer"] == "layer"
    assert (row["calls"], row["values"], row["zeros"]) == (2, 300, 1 / 3)
    assert (row["min"], row["max"]) == (x.min().item(), x.max().item())
    for method in ("percentile", "mse", "entropy"):
        scale, zero_point = calibration.qparams("layer", method=method)
        assert row[f"{method}_low"] == scale.item() * -zero_point.item()
        assert row[f"{method}_high"] == scale.item() * (255 - zero_point.item())


def test_rows_of_other_codes() -> None:
    calibration = calibration_of(floats(1000))
    (row,) = calibration.rows(num_bits=4, symmetric=True)
    scale, _ = calibration.qparams("layer", method="mse", num_bits=4, symmetric=True)
    assert (row["mse_low"], row["mse_high"]) == (-8 * scale.item(), 7 * scale.item())


def test_the_summary_is_a_table() -> None:
    calibration = Calibration(["idle", "wide", "empty", "zero"], "percentile")
    calibration.observe("wide", torch.tensor([-1.0, 0.0, 3.0, 1000.0]).repeat(1000))
    calibration.observe("empty", torch.empty(0))
    calibration.observe("zero", torch.zeros(3))
    calibration.batches = 12
    calibration.interrupted = True
    lines = calibration.summary().splitlines()
    assert lines[:3] == [
        "4 tensors, 12 batches, method percentile",
        "interrupted: the last batch is only partly in it",
        "never called: idle",
    ]
    columns = ["layer", "calls", "values", "zeros", "min", "max"]
    for method in ("percentile", "mse", "entropy"):
        columns += [method, "low", method, "high"]
    assert lines[3].split() == columns
    assert set(lines[4]) == {"-", " "}
    assert lines[5].split()[:6] == ["wide", "1", "4,000", "0.2500", "-1.000", "1000."]
    assert lines[6].split()[:6] == ["zero", "1", "3", "1.000", "0.000", "0.000"]
    assert [line.split() for line in lines[7:]] == [["idle", "0", "0"], ["empty", "1", "0"]]
    assert all(line == line.rstrip() for line in lines)


def test_the_summary_of_nothing() -> None:
    assert Calibration([]).summary() == "0 tensors, 0 batches, method mse"
    assert repr(Calibration(["a"])) == (
        "Calibration(1 tensors, 0 batches, method='mse', never called: 1)"
    )


# plot


@pytest.mark.any_kernels
def test_the_plot_shows_the_values_and_each_methods_range() -> None:
    calibration = calibration_of(floats(50, 60))
    axes = calibration.plot("layer")
    (stairs,) = axes.patches
    assert stairs.get_data().values.sum() == pytest.approx(1, abs=1e-12)
    low, high = calibration.histograms["layer"].range.tolist()
    assert (stairs.get_data().edges[0], stairs.get_data().edges[-1]) == (low, high)
    drawn = [line.get_xdata()[0] for line in axes.lines]
    assert drawn == [end for method in METHODS for end in calibration.clip("layer", method)]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [label.split()[0] for label in labels] == list(METHODS)
    assert axes.get_title() == "layer"
    assert axes.get_yscale() == "log"


@pytest.mark.any_kernels
def test_the_plot_is_drawn_where_asked(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, given = plt.subplots()
    axes = calibration_of(torch.zeros(3)).plot("layer", num_bits=4, symmetric=True, ax=given)
    assert axes is given
    figure.savefig(tmp_path / "layer.png")
    assert (tmp_path / "layer.png").stat().st_size > 1000
    plt.close("all")


@pytest.mark.any_kernels
def test_nothing_is_no_plot() -> None:
    with pytest.raises(ValueError, match="empty tensors only") as error:
        calibration_of(torch.empty(0)).plot("layer")
    assert str(error.value) == (
        "layer took empty tensors only, so there is nothing to draw: calibrate with data that "
        "reaches it"
    )


@pytest.mark.any_kernels
def test_a_plot_without_matplotlib_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"^plot needs matplotlib: pip install 'torchquant\[plot"):
        calibration_of(floats(5)).plot("layer")


@pytest.mark.any_kernels
def test_densities_spread_each_bin_over_its_width() -> None:
    """A uniform tensor is flat; a value that is all alone is one step."""
    x = torch.linspace(-1, 1, 256 * 400)
    shares, edges = densities(calibration_of(x).histograms["layer"])
    assert edges[0] == -1
    assert edges[-1] == 1
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    # A linear bin next to 1 is half as wide as a logarithmic one, whose values are spread evenly.
    np.testing.assert_allclose(shares, 1 / 256, rtol=0.02)
    shares, edges = densities(calibration_of(torch.full((7,), 3.0)).histograms["layer"])
    assert (edges[0], edges[-1]) == (2.5, 3.5)
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    assert np.count_nonzero(shares) == 1


# processes


def test_all_reduce_without_processes_says_what_to_do() -> None:
    with pytest.raises(RuntimeError) as error:
        calibration_of().all_reduce()
    assert str(error.value) == (
        "torch.distributed must be initialised, but is not: call "
        'torch.distributed.init_process_group("gloo") first, under torchrun'
    )


def test_it_is_what_calibrate_returns() -> None:
    assert type(calibrated(exact_model(), exact_data())) is torchquant.Calibration
