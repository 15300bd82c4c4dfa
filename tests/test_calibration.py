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
from calibrations import METHODS, assert_same_state, calibrated, counts_of, exact_data, exact_model
from safetensors import safe_open
from safetensors.torch import save_file
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
    x = floats(50, 60)
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
    assert lines[3].split() == (
        "layer calls values zeros min max percentile low percentile high mse low mse high entropy "
        "low entropy high".split()
    )
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


# the file


@pytest.fixture
def calibration() -> Calibration:
    made = calibrated(exact_model(), *exact_data().split(64), method="percentile", percentile=99.5)
    made.interrupted = True
    return made


@pytest.fixture
def path(tmp_path: Path, calibration: Calibration) -> Path:
    calibration.save(tmp_path / "calibration.safetensors")
    return tmp_path / "calibration.safetensors"


def test_what_is_saved_is_loaded(path: Path, calibration: Calibration) -> None:
    assert_same_state(Calibration.load(path), calibration)
    assert_same_state(Calibration.load(str(path)), calibration)


def test_equal_states_are_equal_files(path: Path, calibration: Calibration) -> None:
    Calibration.load(path).save(path.with_name("again"))
    assert path.with_name("again").read_bytes() == path.read_bytes()


def test_the_file_is_plain_safetensors(path: Path, calibration: Calibration) -> None:
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {"0.counts", "0.range", "2.counts", "2.range"}
        assert torch.equal(file.get_tensor("0.counts"), counts_of(exact_data()))
        about = json.loads(file.metadata()["torchquant"])
    assert about["format"] == "torchquant.calibration"
    assert about["version"] == 1
    assert about["calls"] == {"0": 3, "2": 3}


def test_odd_names_and_layers_without_values_are_kept(tmp_path: Path) -> None:
    names = ["", "a.b", "a.b.counts", "batches", "x:output", "é"]
    calibration = Calibration(names)
    for index, name in enumerate(names[1:]):
        calibration.observe(name, floats(5, seed=index))
    calibration.save(tmp_path / "file")
    loaded = Calibration.load(tmp_path / "file")
    assert_same_state(loaded, calibration)
    assert loaded.never_called == [""]


def test_what_was_loaded_can_be_added_to(path: Path, calibration: Calibration) -> None:
    before = path.read_bytes()
    loaded = Calibration.load(path).merge(calibration)
    assert path.read_bytes() == before
    loaded.save(path)
    assert_same_state(Calibration.load(path), calibration.merge(copy.deepcopy(calibration)))


def test_what_was_loaded_under_inference_mode_can_be_added_to(
    path: Path, calibration: Calibration
) -> None:
    with torch.inference_mode():
        loaded = Calibration.load(path)
    loaded.merge(calibration)
    loaded.observe("0", exact_data())
    assert loaded.calls["0"] == 7


def test_saving_leaves_one_file(path: Path, calibration: Calibration) -> None:
    calibration.save(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, calibration: Calibration) -> None:
    with pytest.raises(FileNotFoundError):
        calibration.save(tmp_path / "missing" / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["os.replace", "pathlib.Path.write_bytes"])
def test_a_save_that_fails_leaves_the_old_file(
    path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(failing, fail)
        with pytest.raises(OSError, match="disk full"):
            calibration_of(floats(5)).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_half_written_is_not_left(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, write = path.read_bytes(), Path.write_bytes

    def fail_halfway(self: Path, content: bytes) -> int:
        write(self, content[:1000])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail_halfway)
    with pytest.raises(OSError, match="disk full"):
        calibration_of(floats(5)).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_saving_onto_a_folder_is_refused(tmp_path: Path, calibration: Calibration) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        calibration.save(tmp_path / "folder")
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=path.name) as error:
        Calibration.load(path)
    return str(error.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        Calibration.load(tmp_path / "missing")
    assert str(error.value) == (
        f"{tmp_path / 'missing'} does not exist: pass what Calibration.save wrote"
    )


@pytest.mark.parametrize("length", [0, 7, 8, 100, 1000, 200_000, -1])
def test_a_truncated_file_is_refused(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    message = refusal(path)
    assert message.startswith(f"{path} is no whole safetensors file (")
    assert message.endswith("): pass what Calibration.save wrote")


@pytest.mark.parametrize("content", [b"no file of ours, but some text", b"\xff" * 100])
def test_another_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path} is no whole safetensors file (")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path).startswith(f"{tmp_path} is no whole safetensors file (")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"torchquant": "[]"}])
def test_other_safetensors_are_refused(path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"weight": torch.ones(3)}, path, metadata)
    assert refusal(path) == (
        f"{path} must hold a calibration, but its metadata is {metadata or {}!r}: pass what "
        "Calibration.save wrote"
    )


def test_metadata_that_is_no_json_is_refused(path: Path) -> None:
    save_file({"weight": torch.ones(3)}, path, {"torchquant": "{"})
    assert refusal(path).startswith(f"{path}: its metadata is no JSON (")


def rewrite(
    path: Path,
    about: dict[str, Any] | None = None,
    tensors: dict[str, Tensor | None] | None = None,
) -> None:
    """The file with some of it replaced, or taken out where the value is None."""
    with safe_open(path, framework="pt") as file:
        old = json.loads(file.metadata()["torchquant"]) | (about or {})
        state = {key: file.get_tensor(key) for key in file.keys()} | (tensors or {})  # noqa: SIM118
    kept = {key: value for key, value in old.items() if value is not None}
    save_file(
        {key: value for key, value in state.items() if value is not None},
        path,
        {"torchquant": json.dumps(kept)},
    )


@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_another_version_is_refused(path: Path, version: object) -> None:
    rewrite(path, {"version": version, "torchquant": "9.1"})
    assert refusal(path) == (
        f"{path} must have version 1, but has {version!r} (written by torchquant 9.1): install a "
        "newer torchquant, or calibrate again"
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("method", 3, "method must be of type str, but is 3"),
        ("method", None, "method must be of type str, but is None"),
        (
            "method",
            "max",
            "method must be one of minmax, percentile, mse, entropy, but got 'max': \"mse\" suits "
            "most activations",
        ),
        ("percentile", 99, "percentile must be of type float, but is 99"),
        ("percentile", 20.0, "percentile must lie in (50, 100], but got 20.0: 99.99 is usual"),
        ("percentile", math.nan, "percentile must lie in (50, 100], but got nan: 99.99 is usual"),
        ("batches", "3", "batches must be of type int, but is '3'"),
        ("batches", True, "batches must be of type int, but is True"),
        ("batches", -1, "batches must be a number of times, but is -1"),
        ("interrupted", 0, "interrupted must be of type bool, but is 0"),
        ("calls", [], "calls must be of type dict, but is []"),
        ("calls", {"0": 1, "2": -1}, "2 must be a number of times, but is -1"),
        ("calls", {"0": 1, "2": 1.5}, "2 must be a number of times, but is 1.5"),
        ("calls", {"0": 0, "2": 3}, "0 was called 0 times, but its counts are not zero"),
    ],
)
def test_numbers_that_are_wrong_are_refused(
    path: Path, key: str, value: object, message: str
) -> None:
    rewrite(path, {key: value})
    assert refusal(path) == f"{path}: {message}"


def test_a_layer_of_the_name_batches_hides_no_wrong_number(tmp_path: Path) -> None:
    path = tmp_path / "file"
    Calibration(["batches"]).save(path)
    rewrite(path, {"batches": -1})
    assert refusal(path) == f"{path}: batches must be a number of times, but is -1"


@pytest.mark.parametrize(
    ("about", "tensors", "lacking", "beyond"),
    [
        ({}, {"0.range": None}, ["0.range"], []),
        ({}, {"1.counts": torch.zeros(32768, dtype=torch.int64)}, [], ["1.counts"]),
        ({"calls": {"0": 3}}, {}, [], ["2.counts", "2.range"]),
        ({"calls": {"0": 3, "two": 3}}, {}, ["two.counts", "two.range"], ["2.counts", "2.range"]),
    ],
)
def test_keys_that_are_lacking_or_too_many_are_refused(
    path: Path,
    about: dict[str, Any],
    tensors: dict[str, Tensor | None],
    lacking: list[str],
    beyond: list[str],
) -> None:
    rewrite(path, about, tensors)
    assert refusal(path) == (
        f"{path} must hold counts and range of each layer, but lacks {lacking} and has {beyond} "
        "beyond them"
    )


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        (
            "0.counts",
            torch.zeros(32768, dtype=torch.int32),
            "counts must be torch.int64 [32768], but is torch.int32 [32768]",
        ),
        (
            "0.counts",
            torch.zeros(100, dtype=torch.int64),
            "counts must be torch.int64 [32768], but is torch.int64 [100]",
        ),
        (
            "0.range",
            torch.zeros(2, dtype=torch.float64),
            "range must be torch.float32 [2], but is torch.float64 [2]",
        ),
        (
            "0.range",
            torch.zeros(2, 1),
            "range must be torch.float32 [2], but is torch.float32 [2, 1]",
        ),
    ],
)
def test_tensors_of_other_kinds_are_refused(
    path: Path, key: str, tensor: Tensor, message: str
) -> None:
    rewrite(path, tensors={key: tensor})
    assert refusal(path) == f"{path}: 0: {message}"


# -1, +Inf, -Inf, and NaN of either sign
@pytest.mark.parametrize("bin_", [5, 255 * 64, 256 * 64 + 255 * 64, 16383, 32767])
def test_counts_that_none_can_have_are_refused(path: Path, bin_: int) -> None:
    counts = counts_of(exact_data())
    counts[bin_] = -1 if bin_ == 5 else 1
    rewrite(path, tensors={"0.counts": counts})
    assert refusal(path) == f"{path}: 0: counts must not be negative, nor count NaN or Inf"


@pytest.mark.parametrize(
    ("low", "high"),
    [(-100, 1), (-1, 100), (0, 0), (1, -1), (math.nan, 1), (-1, math.nan), (math.inf, -math.inf)],
)
def test_a_range_that_does_not_fit_is_refused(path: Path, low: float, high: float) -> None:
    rewrite(path, tensors={"0.range": torch.tensor([float(low), float(high)])})
    assert refusal(path) == (
        f"{path}: 0: range {[float(low), float(high)]} does not fit the bins that were counted"
    )


def test_a_range_of_nothing_is_refused(tmp_path: Path) -> None:
    Calibration(["a"]).save(tmp_path / "file")
    assert Calibration.load(tmp_path / "file").never_called == ["a"]
    rewrite(tmp_path / "file", tensors={"a.range": torch.zeros(2)})
    assert refusal(tmp_path / "file").endswith(
        "a: range [0.0, 0.0] does not fit the bins that were counted"
    )


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0, 3.4028234663852886e38])
def test_any_single_value_loads(tmp_path: Path, value: float) -> None:
    calibration = calibration_of(torch.tensor([value]))
    calibration.save(tmp_path / "file")
    assert_same_state(Calibration.load(tmp_path / "file"), calibration)


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
