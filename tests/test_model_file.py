"""Files of quantized models that are damaged, foreign or of another version are refused whole."""

from __future__ import annotations

import copy
import json
import math
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from samples import floats
from torch import Tensor, nn

import torchquant
from torchquant import model_file
from torchquant.layer_entry import SCHEMES, LayerEntry
from torchquant.nn import DynamicLinear, StaticLinear, WeightOnlyLinear

pytestmark = pytest.mark.any_kernels

State = dict[str, Tensor]
About = dict[str, Any]


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3), nn.LayerNorm(3))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A static model with linked layers, so that every tensor that a layer can have is there."""
    model = build().eval()
    calibration = torchquant.calibrate(model, [floats(64, 5)], progress=False)
    torchquant.save_quantized(torchquant.quantize_static(model, calibration), tmp_path / "model")
    return tmp_path / "model"


def changed(path: Path, change: Callable[[About, State], object]) -> Path:
    """The file with something of its header or tensors changed."""
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["torchquant"])
    state = load_file(path)
    change(about, state)
    other = path.with_name("changed")
    save_file(state, other, {"torchquant": json.dumps(about)})
    return other


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


def set_entry(layer: str, key: str, value: object) -> Callable[[About, State], object]:
    return lambda about, state: about["layers"][layer].__setitem__(key, value)


def set_tensor(key: str, value: Tensor) -> Callable[[About, State], object]:
    return lambda about, state: state.__setitem__(key, value)


def add_to(key: str, index: tuple[int, ...], amount: float) -> Callable[[About, State], object]:
    def change(about: About, state: State) -> None:
        state[key][index] += amount

    return change


DAMAGES: dict[str, tuple[Callable[[About, State], object], str]] = {
    "newer": (
        lambda about, state: about.update(version=2, torchquant="9.8"),
        "FILE must have version 1, but has 2 (written by torchquant 9.8): install a newer "
        "torchquant, or quantize the float model again",
    ),
    "no-version": (
        lambda about, state: about.pop("version"),
        "FILE must have version 1, but has None (written by torchquant "
        f"{torchquant.__version__}): install a newer torchquant, or quantize the float model again",
    ),
    "layers-no-object": (
        lambda about, state: about.update(layers=["0"]),
        "FILE: layers must be a JSON object, but is ['0']",
    ),
    "no-aliases": (
        lambda about, state: about.pop("aliases"),
        "FILE: aliases must be a JSON object, but is None",
    ),
    "layer-no-object": (
        lambda about, state: about["layers"].update({"0": 3}),
        "FILE: layer '0' must be a JSON object, but is 3",
    ),
    "scheme": (
        set_entry("0", "scheme", "int4"),
        "FILE: layer '0': scheme must be 'dynamic' or 'static' or 'weight_only', but is 'int4'",
    ),
    "scheme-missing": (
        lambda about, state: about["layers"]["0"].pop("scheme"),
        "FILE: layer '0': scheme must be 'dynamic' or 'static' or 'weight_only', but is missing",
    ),
    "features-negative": (
        set_entry("0", "in_features", -1),
        "FILE: layer '0': in_features must be a number of features, but is -1",
    ),
    "features-bool": (
        set_entry("0", "out_features", True),
        "FILE: layer '0': out_features must be a number of features, but is True",
    ),
    "features-too-many": (
        set_entry("0", "in_features", 2**31),
        "FILE: layer '0': in_features must be a number of features, but is 2147483648",
    ),
    "features-huge": (
        set_entry("0", "in_features", 2**30),
        f"FILE: 0.packed_weight must be torch.int8 [1, {2**28}, 16, 4], but is torch.int8 [1, 2, "
        "16, 4]",
    ),
    "bias-number": (
        set_entry("0", "bias", 1),
        "FILE: layer '0': bias must be True or False, but is 1",
    ),
    "bias-denied": (
        set_entry("0", "bias", False),
        "FILE: layer '0' must have the tensors packed_weight, weight_scale, weight_sum, "
        "input_scale, input_zero_point, output_scale, output_zero_point, but the file has 0.bias "
        "too",
    ),
    "activation": (
        set_entry("0", "activation", "gelu"),
        "FILE: layer '0': activation must be 'none' or 'relu', but is 'gelu'",
    ),
    "snr": (
        set_entry("0", "weight_snr_db", "much"),
        "FILE: layer '0': weight_snr_db must be a number of dB, \"inf\" or null, but is 'much'",
    ),
    "snr-nan": (
        set_entry("0", "weight_snr_db", math.nan),
        "FILE: layer '0': weight_snr_db must be a number of dB, \"inf\" or null, but is nan",
    ),
    "snr-huge": (
        set_entry("0", "weight_snr_db", 10**400),
        "FILE: layer '0': weight_snr_db must be a number of dB, \"inf\" or null, but is 1"
        f"{'0' * 400}",
    ),
    "output-dtype": (
        set_entry("0", "output_dtype", "complex64"),
        "FILE: layer '0': output_dtype must be null or one of float32, float16, bfloat16, uint8, "
        "int8, but is 'complex64'",
    ),
    "output-dtype-with-scale": (
        set_entry("0", "output_dtype", "float32"),
        "FILE: layer '0': output_dtype must be float without requantize and uint8 or int8 with it, "
        "but is torch.float32",
    ),
    "output-dtype-without-scale": (
        set_entry("1", "output_dtype", "uint8"),
        "FILE: layer '1': output_dtype must be float without requantize and uint8 or int8 with it, "
        "but is torch.uint8",
    ),
    "unknown-entry": (
        set_entry("0", "group_size", 32),
        "FILE: layer '0' has unknown entries ['group_size']",
    ),
    "static-entry-of-dynamic": (
        set_entry("0", "scheme", "dynamic"),
        "FILE: layer '0' has unknown entries ['output_dtype', 'requantize']",
    ),
    "alias-of-nothing": (
        lambda about, state: about["aliases"].update({"x": "none"}),
        "FILE: the alias 'x' must be of a stored tensor, and none itself, but stands for 'none'",
    ),
    "alias-of-no-key": (
        lambda about, state: about["aliases"].update({"x": 3}),
        "FILE: the alias 'x' must be of a stored tensor, and none itself, but stands for 3",
    ),
    "alias-over-tensor": (
        lambda about, state: about["aliases"].update({"0.bias": "1.bias"}),
        "FILE: the alias '0.bias' must be of a stored tensor, and none itself, but stands for "
        "'1.bias'",
    ),
    "lacks-tensor": (
        lambda about, state: state.pop("0.weight_sum"),
        "FILE lacks 0.weight_sum, which must be torch.int32 [7]",
    ),
    "dtype": (
        set_tensor("0.weight_scale", torch.ones(7, dtype=torch.float16)),
        "FILE: 0.weight_scale must be torch.float32 [7], but is torch.float16 [7]",
    ),
    "shape": (
        set_tensor("1.input_scale", torch.ones(1)),
        "FILE: 1.input_scale must be torch.float32 [], but is torch.float32 [1]",
    ),
    "dtype-unknown": (
        set_tensor("more", torch.ones(3, dtype=torch.uint64)),
        "FILE: more has the dtype U64, which no model of torchquant has",
    ),
    "scale-zero": (
        add_to("0.weight_scale", (2,), -math.inf),
        "FILE: 0.weight_scale must be positive and finite",
    ),
    "scale-nan": (
        set_tensor("0.input_scale", torch.tensor(math.nan)),
        "FILE: 0.input_scale must be positive and finite",
    ),
    "output-scale-inf": (
        set_tensor("0.output_scale", torch.tensor(math.inf)),
        "FILE: 0.output_scale must be positive and finite",
    ),
    "zero-point": (
        set_tensor("0.input_zero_point", torch.tensor(256, dtype=torch.int32)),
        "FILE: 0.input_zero_point must lie in [0, 255], but is 256",
    ),
    "output-zero-point": (
        set_tensor("0.output_zero_point", torch.tensor(-1, dtype=torch.int32)),
        "FILE: 0.output_zero_point must lie in [0, 255], but is -1",
    ),
    "weight": (
        lambda about, state: state["0.packed_weight"].view(torch.uint8)[0, 0, 3, 1].bitwise_xor_(4),
        "FILE: 0.weight_sum must be the row sums of the weight, so one of the two was damaged",
    ),
    "sum": (
        add_to("1.weight_sum", (0,), 1),
        "FILE: 1.weight_sum must be the row sums of the weight, so one of the two was damaged",
    ),
    "padding-of-rows": (
        add_to("0.packed_weight", (0, 0, 7, 0), 1),
        "FILE: 0.packed_weight must be zero in its padding",
    ),
    "padding-of-columns": (
        add_to("0.packed_weight", (0, 1, 0, 1), 1),
        "FILE: 0.packed_weight must be zero in its padding",
    ),
    "layer-removed": (
        lambda about, state: about["layers"].pop("1"),
        "FILE is of another model: it lacks 1.weight and has 1.input_scale, "
        "1.input_zero_point, 1.packed_weight, 1.weight_scale, 1.weight_sum beyond it",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_refused_whole(name: str, path: Path) -> None:
    change, message = DAMAGES[name]
    assert refusal_of(changed(path, change)) == message


def test_the_unchanged_file_is_taken(path: Path) -> None:
    torchquant.load_quantized(build(), changed(path, lambda about, state: None))


@pytest.mark.parametrize("metadata", [None, {}, {"torchquant": "{}"}, {"torchquant": "[1]"}])
def test_a_foreign_file_is_refused(metadata: dict[str, str] | None, path: Path) -> None:
    save_file(load_file(path), path, metadata)
    assert refusal_of(path) == (
        f"FILE must hold a quantized model, but its metadata is {metadata or {}}: pass what "
        "torchquant.save_quantized wrote"
    )


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_metadata_that_is_no_json_is_refused(text: str, path: Path) -> None:
    save_file(load_file(path), path, {"torchquant": text})
    assert refusal_of(path).startswith("FILE: its metadata is no JSON (")


def test_a_calibration_is_no_model(path: Path) -> None:
    torchquant.Calibration(["0"]).save(path)
    message = refusal_of(path)
    assert message.startswith("FILE must hold a quantized model, but its metadata is {'torchquant'")
    assert "torchquant.calibration" in message


def test_a_model_is_no_calibration(path: Path) -> None:
    with pytest.raises(ValueError, match="must hold a calibration"):
        torchquant.Calibration.load(path)


def test_a_file_that_is_not_there(path: Path) -> None:
    missing = path.with_name("missing")
    message = f"{missing} does not exist: pass what torchquant.save_quantized wrote"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        torchquant.load_quantized(build(), missing)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert refusal_of(tmp_path).startswith("FILE is no whole safetensors file")


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert refusal_of(path).startswith("FILE is no whole safetensors file")


def test_a_file_with_bytes_beyond_its_end_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    assert refusal_of(path).startswith("FILE is no whole safetensors file")


def test_a_flipped_bit_is_refused_or_harmless(path: Path) -> None:
    """Floats that are still finite cannot be told from sound ones; the rest can."""
    whole = path.read_bytes()
    (header,) = struct.unpack("<Q", whole[:8])
    refused = 0
    for position in range(0, len(whole), 11):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            torchquant.load_quantized(build(), path)(floats(2, 5))
        except ValueError:
            refused += 1
    # Names of tensors and layers, shapes, offsets, sums and weights: most of the file.
    assert refused > header // 11 // 2


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
