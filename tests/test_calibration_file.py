"""The file of a calibration: what is kept in it, and what is refused."""

from __future__ import annotations

import copy
import json
import math
import re
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from calibrations import assert_same_state, calibrated, counts_of, exact_data, exact_model, range_of
from safetensors import safe_open
from safetensors.torch import save_file
from samples import floats
from torch import Tensor

from torchquant import Calibration

pytestmark = pytest.mark.any_kernels

AGAIN = ": calibrate again"


def calibration_of(*tensors: Tensor) -> Calibration:
    calibration = Calibration(["layer"])
    for tensor in tensors:
        calibration.observe("layer", tensor)
    return calibration


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


def test_a_default_device_changes_nothing(path: Path, calibration: Calibration) -> None:
    """Such as a GPU: the state stays on the CPU."""
    low, high, counts = calibration.histograms["0"].occupied()
    with torch.device("meta"):
        loaded = Calibration.load(path)
        loaded.save(path.with_name("again"))
        occupied = loaded.histograms["0"].occupied()
    assert_same_state(loaded, calibration)
    assert path.with_name("again").read_bytes() == path.read_bytes()
    for one, other in zip(occupied, (low, high, counts), strict=True):
        assert torch.equal(one, other)


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
    path = tmp_path / "missing" / "file"
    with pytest.raises(FileNotFoundError, match=re.escape(f"{str(path)!r}")):
        calibration.save(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["os.replace", "torchquant.safetensors_file.save_file"])
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


def test_a_saved_file_has_the_mode_of_new_files(path: Path) -> None:
    other = path.with_name("other")
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


def test_a_file_that_is_replaced_keeps_its_mode(path: Path, calibration: Calibration) -> None:
    path.chmod(0o640)
    calibration.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda calibration: calibration.observe("0", torch.tensor([math.inf])),
            "0: counts must not be negative, nor count NaN or Inf",
        ),
        (
            lambda calibration: setattr(calibration, "percentile", 20.0),
            "percentile must lie in (50, 100], but got 20.0: 99.99 is usual",
        ),
        (
            lambda calibration: calibration.calls.update({"0": -1}),
            "0 must be a number of times, but is -1",
        ),
    ],
    ids=["infinite", "percentile", "calls"],
)
def test_what_would_not_be_loaded_is_not_saved(
    change: Any, message: str, path: Path, calibration: Calibration
) -> None:
    before = path.read_bytes()
    change(calibration)
    with pytest.raises(
        ValueError, match=f"^{re.escape(f'{path}: {message}: nothing was written')}$"
    ):
        calibration.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_counts_without_end_are_refused(path: Path) -> None:
    """No range could be read from them."""
    counts = counts_of(exact_data())
    counts[0] += 2**62
    rewrite(path, tensors={"0.counts": counts})
    assert refusal(path) == f"{path}: 0: counts must add up to less than 2^62{AGAIN}"


def test_saving_onto_a_folder_is_refused(tmp_path: Path, calibration: Calibration) -> None:
    (tmp_path / "folder").mkdir()
    message = f"{tmp_path / 'folder'} must be a file, but is a folder: name a file in it"
    with pytest.raises(IsADirectoryError, match=f"^{re.escape(message)}$"):
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
        f"{path} must hold a calibration, but its format is missing: pass what Calibration.save "
        "wrote"
    )


def test_metadata_that_is_no_json_is_refused(path: Path) -> None:
    save_file({"weight": torch.ones(3)}, path, {"torchquant": "{"})
    assert refusal(path).startswith(f"{path}: its metadata is no JSON: ")


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


@pytest.mark.parametrize("version", [2, 0, "1", 1.0, None])
def test_another_version_is_refused(path: Path, version: object) -> None:
    rewrite(path, {"version": version, "torchquant": "9.1"})
    shown = "missing" if version is None else json.dumps(version)
    assert refusal(path) == (
        f'{path} must have version 1, but its version is {shown} (written by torchquant "9.1"): '
        "install a newer torchquant, or calibrate again"
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("method", 3, "method must be of type str, but is 3"),
        ("method", None, "method must be of type str, but is missing"),
        (
            "method",
            "max",
            "method must be one of minmax, percentile, mse, entropy, but got 'max': \"mse\" suits "
            "most activations",
        ),
        ("percentile", 99, "percentile must be of type float, but is 99"),
        ("percentile", 20.0, "percentile must lie in (50, 100], but got 20.0: 99.99 is usual"),
        ("batches", "3", 'batches must be of type int, but is "3"'),
        ("batches", True, "batches must be of type int, but is true"),
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
    assert refusal(path) == f"{path}: {message}{AGAIN}"


def test_a_layer_of_the_name_batches_hides_no_wrong_number(tmp_path: Path) -> None:
    path = tmp_path / "file"
    Calibration(["batches"]).save(path)
    rewrite(path, {"batches": -1})
    assert refusal(path) == f"{path}: batches must be a number of times, but is -1{AGAIN}"


@pytest.mark.parametrize(
    ("about", "tensors", "lacking", "beyond"),
    [
        ({}, {"0.range": None}, "0.range", "nothing"),
        ({}, {"1.counts": torch.zeros(32768, dtype=torch.int64)}, "nothing", "1.counts"),
        ({"calls": {"0": 3}}, {}, "nothing", "2.counts, 2.range"),
        ({"calls": {"0": 3, "two": 3}}, {}, "two.counts, two.range", "2.counts, 2.range"),
    ],
)
def test_keys_that_are_lacking_or_too_many_are_refused(
    path: Path,
    about: dict[str, Any],
    tensors: dict[str, Tensor | None],
    lacking: str,
    beyond: str,
) -> None:
    rewrite(path, about, tensors)
    assert refusal(path) == (
        f"{path}: it must hold counts and range of each layer, but lacks {lacking} and has "
        f"{beyond} beyond them{AGAIN}"
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
    assert refusal(path) == f"{path}: 0: {message}{AGAIN}"


# -1, +Inf, -Inf, and NaN of either sign
@pytest.mark.parametrize("bin_", [5, 255 * 64, 256 * 64 + 255 * 64, 16383, 32767])
def test_counts_that_none_can_have_are_refused(path: Path, bin_: int) -> None:
    counts = counts_of(exact_data())
    counts[bin_] = -1 if bin_ == 5 else 1
    rewrite(path, tensors={"0.counts": counts})
    assert refusal(path) == f"{path}: 0: counts must not be negative, nor count NaN or Inf{AGAIN}"


@pytest.mark.parametrize(
    ("low", "high"),
    [(-100, 1), (-1, 100), (0, 0), (1, -1), (math.nan, 1), (-1, math.nan), (math.inf, -math.inf)],
)
def test_a_range_that_does_not_fit_is_refused(path: Path, low: float, high: float) -> None:
    rewrite(path, tensors={"0.range": torch.tensor([float(low), float(high)])})
    assert refusal(path) == (
        f"{path}: 0: range {[float(low), float(high)]} does not fit the bins that were counted"
        f"{AGAIN}"
    )


@pytest.mark.parametrize("factors", [(0.9, 1.0), (1.1, 1.0), (1.0, 0.9), (1.0, 1.1)])
def test_an_end_in_another_bin_is_refused(path: Path, factors: tuple[float, float]) -> None:
    ends = torch.tensor(range_of(exact_data())) * torch.tensor(factors)
    rewrite(path, tensors={"0.range": ends})
    assert refusal(path).endswith(
        f"0: range {ends.tolist()} does not fit the bins that were counted{AGAIN}"
    )


def test_a_range_of_nothing_is_refused(tmp_path: Path) -> None:
    Calibration(["a"]).save(tmp_path / "file")
    assert Calibration.load(tmp_path / "file").never_called == ["a"]
    rewrite(tmp_path / "file", tensors={"a.range": torch.zeros(2)})
    assert refusal(tmp_path / "file").endswith(
        f"a: range [0.0, 0.0] does not fit the bins that were counted{AGAIN}"
    )


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0, 3.4028234663852886e38])
def test_any_single_value_loads(tmp_path: Path, value: float) -> None:
    calibration = calibration_of(torch.tensor([value]))
    calibration.save(tmp_path / "file")
    assert_same_state(Calibration.load(tmp_path / "file"), calibration)
