"""Files of strangers: both readers take the same ones, and refuse the others in the same words."""

from __future__ import annotations

import copy
import os
import re
import struct
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from calibrations import calibrated, exact_data, exact_model
from hostile_files import HOSTILE, IN_OTHER_WORDS, build, model
from operator_tests import assert_same
from samples import floats
from torch import nn

import torchquant
from torchquant import Calibration

pytestmark = pytest.mark.any_kernels

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each file under its number."""
    folder = tmp_path_factory.mktemp("hostile")
    torchquant.save_quantized(model(), folder / "good")
    good = (folder / "good").read_bytes()
    for number, (change, _) in enumerate(HOSTILE.values()):
        (folder / str(number)).write_bytes(change(good))
    return folder


@pytest.fixture(scope="module")
def of_cpp(folder: Path, model_files: Path) -> list[str]:
    paths = [folder / str(number) for number in range(len(HOSTILE))]
    ran = subprocess.run([model_files, "load", *paths], capture_output=True, text=True, check=True)
    lines = ran.stdout.splitlines()
    assert len(lines) == len(paths)
    return lines


def assert_is(outcome: str, path: Path, message: str | None) -> None:
    outcome = outcome.replace(str(path), "FILE")
    if message in IN_OTHER_WORDS:
        assert outcome.startswith(message)
    else:
        assert outcome == (message or "taken")


def outcome_of_python(path: Path) -> str:
    """What loading says; a model that it was refused for must be as it was, every tensor of it."""
    model = build()
    before = copy.deepcopy(model)
    try:
        torchquant.load_quantized(model, path)(floats(2, 5))
    except ValueError as error:
        assert repr(model) == repr(before)
        for key, value in before.state_dict().items():
            assert_same(model.state_dict()[key], value)
        return str(error)
    return "taken"


@pytest.mark.parametrize("name", HOSTILE)
def test_python_says_what_is_wrong(name: str, folder: Path) -> None:
    path = folder / str(list(HOSTILE).index(name))
    assert_is(outcome_of_python(path), path, HOSTILE[name][1])


@pytest.mark.parametrize("name", HOSTILE)
def test_cpp_says_what_is_wrong(name: str, folder: Path, of_cpp: list[str]) -> None:
    number = list(HOSTILE).index(name)
    assert_is(of_cpp[number], folder / str(number), HOSTILE[name][1])


def _pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [Path.mkdir, _pipe], ids=["folder", "pipe"])
def test_what_is_no_file_is_not_waited_for(
    make: Callable[[Path], None], tmp_path: Path, model_files: Path
) -> None:
    path = tmp_path / "odd"
    make(path)
    message = (
        "FILE is no whole safetensors file (it is a folder, a device or a pipe): pass what "
        "torchquant.save_quantized wrote"
    )
    assert_is(outcome_of_python(path), path, message)
    ran = subprocess.run([model_files, "load", path], capture_output=True, text=True, timeout=60)
    assert_is(ran.stdout.strip(), path, message)


def test_what_cannot_be_read_is_named(tmp_path: Path, model_files: Path) -> None:
    path = tmp_path / ("x" * 300)
    message = (
        f"{path} cannot be read (File name too long): pass what torchquant.save_quantized wrote"
    )
    with pytest.raises(OSError, match=f"^{re.escape(message)}$"):
        torchquant.load_quantized(build(), path)
    ran = subprocess.run([model_files, "load", path], capture_output=True, text=True)
    assert ran.stdout.strip() == message


def test_the_formats_have_no_pickle() -> None:
    """Nothing that reads our files could run what is in them."""
    package = Path(torchquant.__file__).parent
    sources = {path: f"torchquant/{path.relative_to(package)}" for path in package.rglob("*.py")}
    sources |= {path: str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*.*")}
    assert len(sources) > 80
    unpicklers = r"torch\.load\(|^\s*(import|from) (pickle|shelve|marshal)|pickle_load|pickle\.load"
    found = {
        name
        for path, name in sources.items()
        if re.search(unpicklers, path.read_text(), re.MULTILINE)
    }
    # Float weights, by weights_only; and what a program of the demo's own has just written.
    assert found == {"torchquant/commands/quantize.py", "torchquant/demo/cpp.py"}


@pytest.fixture(scope="module")
def calibration_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("calibration") / "file"
    calibrated(nn.Sequential(exact_model()[0]), exact_data()).save(path)
    return path.read_bytes()


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path, float_model = tmp_path_factory.mktemp("model") / "file", small()
    calibration = calibrated(float_model, floats(64, 3))
    torchquant.save_quantized(torchquant.quantize_static(float_model, calibration), path)
    return path.read_bytes()


def load_model(path: Path) -> None:
    loaded = torchquant.load_quantized(small(), path)
    assert loaded(torch.ones(2, 3)).shape == (2, 2)


def load_calibration(path: Path) -> None:
    loaded = Calibration.load(path)
    for name in loaded.names:
        if loaded.calls[name]:
            scale, zero_point = loaded.qparams(name)
            assert 0 < scale < torch.inf
            assert 0 <= zero_point <= 255


LOADERS = {"model_file": load_model, "calibration_file": load_calibration}


def refused(files: Iterable[bytes], load: Callable[[Path], None], path: Path) -> int:
    """How many are; any other exception than these is let through, and so fails the test."""
    count = 0
    for content in files:
        path.write_bytes(content)
        try:
            load(path)
        except (ValueError, OSError) as error:
            count += str(path) in str(error)
    return count


def header_end(file: bytes) -> int:
    return 8 + int(struct.unpack("<Q", file[:8])[0])


def flipped(file: bytes, position: int, bit: int) -> bytes:
    changed = bytearray(file)
    changed[position] ^= 1 << bit
    return bytes(changed)


@pytest.mark.parametrize("name", LOADERS)
def test_a_flipped_bit_is_refused_or_harmless(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    file, generator = request.getfixturevalue(name), np.random.default_rng(0)
    end = header_end(file)
    # Every bit of the header, and bits of the data.
    places = [*range(8 * end), *generator.integers(8 * end, 8 * len(file), 300).tolist()]
    files = (flipped(file, place // 8, place % 8) for place in places)
    # All but the version of torchquant, method and activation, numbers, and spaces of the padding.
    assert refused(files, LOADERS[name], tmp_path / "file") > 7 * end


@pytest.mark.parametrize("name", LOADERS)
def test_a_file_cut_anywhere_is_refused(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    file, generator = request.getfixturevalue(name), np.random.default_rng(1)
    lengths = range(len(file))
    if len(file) > 10_000:
        lengths = [*range(header_end(file) + 20), *generator.integers(0, len(file), 50).tolist()]
    files = [file[:length] for length in lengths]
    assert refused(files, LOADERS[name], tmp_path / "file") == len(files)


@pytest.mark.parametrize("name", LOADERS)
def test_splices_are_refused_or_harmless(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    file, generator = request.getfixturevalue(name), np.random.default_rng(2)
    end, files = header_end(file), []
    for _ in range(500):
        at, of, length = generator.integers(0, end, 3).tolist()
        part = file[of : of + length % 40]
        moved = file[8:at] + part + file[max(8, at + len(part) * int(generator.integers(2))) : end]
        files.append(len(moved).to_bytes(8, "little") + moved + file[end:])
    assert refused(files, LOADERS[name], tmp_path / "file") > 400
