"""Files of quantized models that are damaged, foreign or of another version are refused whole."""

from __future__ import annotations

import copy
import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_files import build, model
from torch import Tensor

import torchquant
from torchquant import model_file
from torchquant.layer_entry import SCHEMES, LayerEntry
from torchquant.nn import DynamicLinear, StaticLinear, WeightOnlyLinear

pytestmark = pytest.mark.any_kernels

State = dict[str, Tensor]
About = dict[str, Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torchquant.save_quantized(model(), tmp_path / "model")
    return tmp_path / "model"


def refusal_of(path: Path) -> str:
    """What loading the file says; the model that it was to be loaded into must be as it was."""
    model = build()
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=re.escape(str(path))) as refused:
        torchquant.load_quantized(model, path)
    assert repr(model) == repr(before)
    for key, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)
    return str(refused.value).replace(str(path), "FILE")


def test_a_model_is_no_calibration(path: Path) -> None:
    with pytest.raises(ValueError, match="must hold a calibration"):
        torchquant.Calibration.load(path)


def test_a_file_that_is_not_there(path: Path) -> None:
    missing = path.with_name("missing")
    message = f"{missing} does not exist: pass what torchquant.save_quantized wrote"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        torchquant.load_quantized(build(), missing)


def test_a_file_of_another_model_is_refused(path: Path) -> None:
    torchquant.save_quantized(torchquant.quantize_dynamic(build()[:1]), path)
    assert refusal_of(path) == (
        "FILE is of another model: it lacks 1.bias, 1.weight, 2.bias, 2.weight and has nothing "
        "beyond it"
    )


@pytest.mark.parametrize("snr", [None, 40.5, math.inf])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_entry_is_what_its_json_says(scheme: str, snr: float | None) -> None:
    layer = SCHEMES[scheme](5, 7, False, "relu")
    layer.weight_snr_db = snr
    entry = LayerEntry.of(layer)
    text = json.dumps(entry.as_json(), allow_nan=False)
    assert LayerEntry.from_json(json.loads(text), "x") == entry
    made = entry.make({name: getattr(layer, name) for name in entry.forms()})
    assert type(made) is type(layer)
    assert repr(made) == repr(layer)
    assert made.weight_snr_db == snr
    assert not any(buffer.is_meta for buffer in made.buffers())


@pytest.mark.parametrize("dtype", [None, torch.uint8, torch.int8])
def test_an_entry_of_a_layer_that_requantizes(dtype: torch.dtype | None) -> None:
    layer = StaticLinear(5, 7, requantize=True)
    layer.output_dtype = dtype
    entry = LayerEntry.of(layer)
    assert entry.requantize
    assert LayerEntry.from_json(entry.as_json(), "x") == entry


def test_the_forms_of_an_entry_are_those_of_the_layer() -> None:
    for layer in (
        DynamicLinear(5, 17),
        WeightOnlyLinear(4, 16, bias=False),
        StaticLinear(1, 1),
        StaticLinear(70, 35, bias=False, requantize=True),
        DynamicLinear(0, 3),
    ):
        found = {key: (value.dtype, list(value.shape)) for key, value in layer.state_dict().items()}
        assert LayerEntry.of(layer).forms() == found


def test_what_an_open_file_tells(path: Path) -> None:
    with model_file.opened(path) as file:
        assert list(file.layers) == ["0", "1"]
        assert file.writer == torchquant.__version__
        assert file.forms["2.weight"] == (torch.float32, [3])
        assert file.stored_bytes("0.weight_sum") == 28
        data = sum(file.stored_bytes(key) for key in file.forms)
    (header,) = struct.unpack("<Q", path.read_bytes()[:8])
    assert path.stat().st_size == 8 + header + data
