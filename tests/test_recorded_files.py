"""Files of each version that was ever written are read, and give what they gave."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from calibrations import assert_same_state
from operator_tests import assert_same
from safetensors.torch import load_file

import torchquant
from torchquant import Calibration, calibration_file, model_file
from torchquant.nn import DynamicLinear, StaticLinear, WeightOnlyLinear

pytestmark = pytest.mark.any_kernels

FOLDER = Path(__file__).parent / "data"
VERSIONS = range(1, model_file.KIND.version + 1)
CALIBRATION_VERSIONS = range(1, calibration_file.KIND.version + 1)


@pytest.fixture(scope="module")
def record() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record", FOLDER / "record.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("version", VERSIONS)
def test_a_recorded_model_gives_what_it_gave(version: int, record: ModuleType) -> None:
    model = torchquant.load_quantized(record.build(), FOLDER / f"model_v{version}.safetensors")
    assert model["again"] is model["dynamic"]
    kinds = [DynamicLinear, StaticLinear, StaticLinear, WeightOnlyLinear]
    layers = [model["dynamic"], model["chain"][0], model["chain"][2], model["weight_only"]]
    assert [type(layer) for layer in layers] == kinds
    assert model["chain"][0].output_scale is not None
    known = load_file(FOLDER / f"results_v{version}.safetensors")
    assert_same(record.fixed_input(), known["input"])
    for name, output in record.outputs(model).items():
        assert_same(output, known[name])
        assert output.abs().max() > 1


@pytest.mark.parametrize("version", CALIBRATION_VERSIONS)
def test_a_recorded_calibration_is_what_it_was(version: int, record: ModuleType) -> None:
    calibration = Calibration.load(FOLDER / f"calibration_v{version}.safetensors")
    assert_same_state(calibration, record.calibrate())
    known = load_file(FOLDER / f"results_v{version}.safetensors")
    scale, zero_point = calibration.qparams("0")
    assert_same(scale, known["scale"])
    assert_same(zero_point, known["zero_point"])


def test_what_is_written_today_is_what_was_recorded(record: ModuleType, tmp_path: Path) -> None:
    """A change to the format needs a new version, and files of it."""
    path = tmp_path / "file"
    torchquant.save_quantized(record.quantize(), path)
    recorded = FOLDER / f"model_v{model_file.KIND.version}.safetensors"
    with model_file.opened(path) as new, model_file.opened(recorded) as old:
        assert new.layers == old.layers
        assert new.aliases == old.aliases
        assert new.forms == old.forms
        for key in new.forms:
            assert torch.equal(new.tensor(key), old.tensor(key))
