"""Saving quantized models and loading them: the same bits come back, or nothing changes."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import MODELS, make
from operator_tests import assert_same
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from samples import floats
from torch import Tensor, nn

import torchquant
from torchquant.nn import DynamicLinear, StaticLinear, WeightOnlyLinear

pytestmark = [
    pytest.mark.any_kernels,
    pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:DeprecationWarning"),
]


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.BatchNorm1d(20), nn.Linear(20, 3))


def static_mlp(**options: Any) -> nn.Module:
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 3, bias=False)).eval()
    calibration = torchquant.calibrate(model, [floats(64, 12)], progress=False)
    return torchquant.quantize_static(model, calibration, **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    for key, value in one.state_dict().items():
        assert_same(other.state_dict()[key], value)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("on_meta", [False, True], ids=["cpu", "meta"])
def test_a_model_comes_back(name: str, on_meta: bool, path: Path) -> None:
    model, x, _ = make(name)
    quantized = torchquant.quantize_dynamic(model)
    torchquant.save_quantized(quantized, path)
    with torch.device("meta" if on_meta else "cpu"):
        fresh = MODELS[name][0]().eval()
    loaded = torchquant.load_quantized(fresh, path)
    assert loaded is fresh or name == "linear"
    assert_same_state(loaded, quantized)
    assert repr(loaded) == repr(quantized)
    assert_same(loaded(x), quantized(x))


@pytest.mark.parametrize("chain", [True, False])
def test_a_static_model_comes_back(chain: bool, path: Path) -> None:
    quantized, x = static_mlp(chain=chain), floats(9, 12)
    torchquant.save_quantized(quantized, path)
    loaded = torchquant.load_quantized(
        nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 3, bias=False)), path
    ).eval()
    assert_same_state(loaded, quantized)
    assert repr(loaded) == repr(quantized)
    assert isinstance(loaded[0], StaticLinear)
    assert (loaded[0].output_scale is not None) == chain
    assert loaded[2].output_dtype == (torch.float32 if chain else None)
    assert_same(loaded(x), quantized(x))


def test_every_kind_of_layer_in_one_model(path: Path) -> None:
    model = nn.ModuleDict({name: nn.Linear(6, 5) for name in "abcd"})
    saved = copy.deepcopy(model)
    saved["a"] = DynamicLinear.from_float(model["a"], activation="relu")
    scale, zero_point = torch.tensor(0.5), torch.tensor(7, dtype=torch.int32)
    saved["b"] = StaticLinear.from_float(model["b"], scale, zero_point)
    saved["c"] = WeightOnlyLinear.from_float(model["c"])
    torchquant.save_quantized(saved, path)
    loaded = torchquant.load_quantized(model, path)
    kinds = [DynamicLinear, StaticLinear, WeightOnlyLinear, nn.Linear]
    assert [type(layer) for layer in loaded.values()] == kinds
    assert_same_state(loaded, saved)
    assert loaded["a"].activation == "relu"
    for x in (floats(4, 6), floats(4, 6, seed=1)):
        for name in "abcd":
            assert_same(loaded[name](x).detach(), saved[name](x).detach())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_what_stays_in_float_keeps_its_dtype(dtype: torch.dtype, path: Path) -> None:
    quantized = torchquant.quantize_dynamic(mlp()).to(dtype)
    torchquant.save_quantized(quantized, path)
    loaded = torchquant.load_quantized(mlp, path)
    assert loaded[2].weight.dtype == dtype
    assert loaded[0].weight_scale.dtype == torch.float32
    assert_same_state(loaded, quantized)


def test_modes_and_gradients_stay_those_of_the_model(path: Path) -> None:
    torchquant.save_quantized(torchquant.quantize_dynamic(mlp().eval()), path)
    fresh = mlp().train()
    fresh[2].weight.requires_grad_(False)
    loaded = torchquant.load_quantized(fresh, path)
    assert all(module.training for module in loaded.modules())
    assert [p.requires_grad for p in loaded.parameters()] == [False, True]


def test_shared_tensors_are_stored_once_and_stay_shared(path: Path) -> None:
    model, _, _ = make("tied")
    quantized = torchquant.quantize_dynamic(model)
    torchquant.save_quantized(quantized, path)
    with safe_open(path, framework="pt") as file:
        assert "left.packed_weight" in file.keys()  # noqa: SIM118
        assert "right.packed_weight" not in file.keys()  # noqa: SIM118
    loaded = torchquant.load_quantized(MODELS["tied"][0](), path)
    assert loaded.left.packed_weight is loaded.right.packed_weight
    assert loaded.left.bias is not loaded.right.bias


def test_tied_parameters_stay_tied(path: Path) -> None:
    def build() -> nn.Module:
        model = nn.ModuleDict(
            {"a": nn.Linear(4, 4), "b": nn.Embedding(9, 3), "c": nn.Embedding(9, 3)}
        )
        model["c"].weight = model["b"].weight
        return model

    quantized = torchquant.quantize_dynamic(build())
    torchquant.save_quantized(quantized, path)
    for device in ("cpu", "meta"):
        with torch.device(device):
            loaded = torchquant.load_quantized(build(), path)
        assert loaded["c"].weight is loaded["b"].weight
        assert isinstance(loaded["c"].weight, nn.Parameter)
        assert_same_state(loaded, quantized)


def test_views_of_one_memory_are_stored_apart(path: Path) -> None:
    model = torchquant.quantize_dynamic(mlp())
    memory = floats(10)
    for name, view in {
        "part": memory[:5],
        "other": memory[5:],
        "all": memory,
        "steps": memory[::2],
        "shape": memory.view(2, 5),
        "same": memory.detach(),
        "none": torch.empty(0),
        "nothing": torch.empty(0),
    }.items():
        model.register_buffer(name, view)
    torchquant.save_quantized(model, path)
    fresh = copy.deepcopy(model)
    assert_same_state(model, torchquant.load_quantized(fresh, path))
    stored = load_file(path)
    assert "same" not in stored
    assert {"part", "other", "all", "steps", "shape", "none", "nothing"} <= stored.keys()


def test_a_quantized_model_can_be_loaded_over(path: Path) -> None:
    model, x, _ = make("mlp")
    quantized = torchquant.quantize_dynamic(model)
    torchquant.save_quantized(quantized, path)
    torch.manual_seed(1)
    other = torchquant.quantize_dynamic(MODELS["mlp"][0]())
    assert_same(torchquant.load_quantized(other, path)(x), quantized(x))
    assert type(other[0]) is DynamicLinear


def test_the_file_is_plain_safetensors(path: Path) -> None:
    quantized = torchquant.quantize_dynamic(mlp())
    torchquant.save_quantized(quantized, path)
    stored = load_file(path)
    assert stored.keys() == quantized.state_dict().keys()
    for key, value in quantized.state_dict().items():
        assert_same(stored[key], value)
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["torchquant"])
    assert about["format"] == "torchquant.model"
    assert about["version"] == 1
    assert about["torchquant"] == torchquant.__version__
    assert about["aliases"] == {}
    entry = about["layers"]["3"]
    assert entry.pop("weight_snr_db") == quantized[3].weight_snr_db
    assert entry == {
        "scheme": "dynamic",
        "in_features": 20,
        "out_features": 3,
        "bias": True,
        "activation": "none",
    }


def test_equal_models_are_equal_files(path: Path) -> None:
    quantized = torchquant.quantize_dynamic(mlp())
    torchquant.save_quantized(quantized, path)
    torchquant.save_quantized(torchquant.load_quantized(mlp, path), path.with_name("again"))
    assert path.with_name("again").read_bytes() == path.read_bytes()


def test_loading_frees_each_float_weight_before_it_reads_the_next(tmp_path: Path) -> None:
    """Ten layers of 16 MB as float32, 4 MB as int8: over the float model's 160 MB there is little.

    The peak of a fresh process counts; the file's pages, mapped while they are read, count too.
    """
    code = """
import resource, torch, torchquant
from torch import nn
def build():
    return nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(10)))
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
torch.set_num_threads(1)
model = build()
before = peak()
torchquant.load_quantized(model, "model.safetensors")
print(peak() - before)
"""
    layers = (nn.Linear(2048, 2048, bias=False) for _ in range(10))
    torchquant.save_quantized(
        torchquant.quantize_dynamic(nn.Sequential(*layers), inplace=True),
        tmp_path / "model.safetensors",
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    # All at once would be 40 MB of codes beside the floats; a layer, its check and the pages of the
    # mapped file are within this.
    assert float(ran.stdout) < 60


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (3, TypeError, "model must be a torch.nn.Module, but got int"),
        (
            mlp(),
            ValueError,
            "model must have quantized layers, but this Sequential has none: quantize it first, by "
            "torchquant.quantize_dynamic for example",
        ),
        (
            type("Mine", (DynamicLinear,), {})(3, 2),
            ValueError,
            "model must be of a type of torchquant.nn itself, but is a Mine, which the file has no "
            "word for",
        ),
    ],
    ids=["no-module", "float", "subclass"],
)
def test_what_cannot_be_saved(model: Any, error: type[Exception], message: str, path: Path) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        torchquant.save_quantized(model, path)
    assert not path.exists()


class _Extra(nn.Module):
    def get_extra_state(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (
            lambda model: model.append(_Extra()),
            "model must have parameters and buffers only in its state dict, but 4._extra_state is "
            "neither (a int): leave it out of the state",
        ),
        (
            lambda model: model.register_buffer("odd", torch.ones(3).to_sparse()),
            "odd must be a plain dense tensor with data, of a dtype of safetensors, but is a "
            "Tensor of torch.float32 on cpu",
        ),
        (
            lambda model: model.register_buffer("odd", torch.ones(3, device="meta")),
            "odd must be a plain dense tensor with data, of a dtype of safetensors, but is a "
            "Tensor of torch.float32 on meta",
        ),
        (
            lambda model: model.register_buffer("odd", torch.ones(3, dtype=torch.complex128)),
            "odd must be a plain dense tensor with data, of a dtype of safetensors, but is a "
            "Tensor of torch.complex128 on cpu",
        ),
    ],
    ids=["extra-state", "sparse", "meta", "complex"],
)
def test_state_that_no_file_can_hold(
    add: Callable[[nn.Module], object], message: str, path: Path
) -> None:
    model = torchquant.quantize_dynamic(mlp())
    add(model)
    path.write_text("old")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        torchquant.save_quantized(model, path)
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_would_not_be_loaded_is_not_saved(path: Path) -> None:
    model = static_mlp().double()
    path.write_text("old")
    with pytest.raises(ValueError, match=r": nothing was written$") as refused:
        torchquant.save_quantized(model, path)
    assert str(refused.value) == (
        f"{path}: layer '2': output_dtype must be null or one of float32, float16, bfloat16, "
        'uint8, int8, but is "float64": nothing was written'
    )
    model = torchquant.quantize_dynamic(mlp())
    model[3].weight_scale[1] = torch.nan
    with pytest.raises(ValueError, match=r"3\.weight_scale must be positive and finite, but has"):
        torchquant.save_quantized(model, path)
    wide = nn.Sequential(DynamicLinear(65_794, 1))
    with pytest.raises(ValueError, match="in_features must be at most 65793 in a layer that mult"):
        torchquant.save_quantized(wide, path)
    odd = torchquant.quantize_dynamic(nn.ModuleDict({"layer": nn.Linear(3, 2)}))
    odd.register_buffer("__metadata__", torch.ones(1))
    with pytest.raises(
        ValueError, match="__metadata__ must be another name, for safetensors needs"
    ):
        torchquant.save_quantized(odd, path)
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


class _Buffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("steps", torch.arange(5), persistent=False)


def _shared_layer() -> nn.Module:
    layer = nn.Linear(12, 20)
    return nn.ModuleList([layer, layer])


OTHER_MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], str]] = {
    "no-such-layer": (
        mlp,
        lambda: nn.Sequential(),
        "'0' must be an nn.Linear, but the model has no such module",
    ),
    "another-type": (
        mlp,
        lambda: nn.Sequential(nn.Conv1d(12, 20, 1)),
        "'0' must be an nn.Linear, but the model has a Conv1d",
    ),
    "subclass": (
        mlp,
        lambda: nn.Sequential(type("Mine", (nn.Linear,), {})(12, 20)),
        "'0' must be an nn.Linear, but the model has a Mine",
    ),
    "size": (
        mlp,
        lambda: nn.Sequential(nn.Linear(12, 21)),
        "'0' must have (in_features, out_features, bias) = (12, 20, True), but the model's has "
        "(12, 21, True)",
    ),
    "bias": (
        mlp,
        lambda: nn.Sequential(nn.Linear(12, 20, bias=False)),
        "'0' must have (in_features, out_features, bias) = (12, 20, True), but the model's has "
        "(12, 20, False)",
    ),
    "missing": (
        mlp,
        lambda: nn.Sequential(*mlp(), nn.Linear(3, 2)),
        "it lacks 4.bias, 4.weight and has nothing beyond it",
    ),
    "unexpected": (
        lambda: nn.Sequential(*mlp(), nn.LayerNorm(3)),
        mlp,
        "it lacks nothing and has 4.bias, 4.weight beyond it",
    ),
    "shape": (
        mlp,
        lambda: nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.BatchNorm1d(21), nn.Linear(20, 3)),
        "2.weight must be torch.float32 [20], but the model's is torch.float32 [21]",
    ),
    "one-for-two": (
        lambda: nn.ModuleList([nn.Linear(12, 20), nn.Linear(12, 20)]),
        _shared_layer,
        "'1' and '0' are two layers of the file, but one in the model",
    ),
    "two-for-one": (
        _shared_layer,
        lambda: nn.ModuleList([nn.Linear(12, 20), nn.Linear(12, 20)]),
        "it lacks 1.weight and has 1.packed_weight, 1.weight_scale, 1.weight_sum beyond it",
    ),
    "many": (
        mlp,
        lambda: nn.Sequential(*mlp(), nn.LSTM(3, 3, 2)),
        "it lacks 4.bias_hh_l0, 4.bias_hh_l1, 4.bias_ih_l0, 4.bias_ih_l1, 4.weight_hh_l0 and 3 "
        "more and has nothing beyond it",
    ),
}


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_a_file_of_another_model_changes_nothing(name: str, path: Path) -> None:
    saved, other, message = OTHER_MODELS[name]
    torchquant.save_quantized(torchquant.quantize_dynamic(saved()), path)
    model = other()
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match="is of another model: ") as refused:
        torchquant.load_quantized(model, path)
    assert str(refused.value) == f"{path} is of another model: {message}"
    assert repr(model) == repr(before)
    assert_same_state(model, before)


def test_a_layer_with_hooks_is_not_replaced(path: Path) -> None:
    torchquant.save_quantized(torchquant.quantize_dynamic(mlp()), path)
    model = mlp()
    model[3].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"^3 must have no hooks, which a quantized"):
        torchquant.load_quantized(model, path)
    assert type(model[0]) is nn.Linear
    for change in (
        lambda layer: layer.register_full_backward_hook(lambda *_: None),
        lambda layer: setattr(layer, "forward", lambda x: x),
    ):
        model = mlp()
        change(model[3])
        with pytest.raises(ValueError, match=r"^3 must have no hooks"):
            torchquant.load_quantized(model, path)
        with pytest.raises(ValueError, match=r"^3 must have no hooks"):
            torchquant.quantize_dynamic(model)


def test_a_state_dict_whose_keys_name_no_tensors_is_refused(path: Path) -> None:
    model = torchquant.quantize_dynamic(mlp())
    torchquant.save_quantized(model, path)

    def rename(module: nn.Module, state: dict[str, Tensor], *_: object) -> None:
        for key in list(state):
            state[f"prefix.{key}"] = state.pop(key)

    model.register_state_dict_post_hook(rename)
    with pytest.raises(ValueError, match=r"but prefix\.0\.packed_weight is neither \(a Tensor\)"):
        torchquant.save_quantized(model, path)


def test_a_buffer_that_would_stay_on_the_meta_device_is_refused(path: Path) -> None:
    torchquant.save_quantized(torchquant.quantize_dynamic(_Buffers()), path)
    loaded = torchquant.load_quantized(_Buffers, path)
    assert_same(loaded.steps, torch.arange(5))
    with torch.device("meta"):
        model = _Buffers()
    with pytest.raises(ValueError, match="model has the buffer steps on the meta device, and no"):
        torchquant.load_quantized(model, path)
    assert type(model.layer) is nn.Linear


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            3,
            "model_or_factory must be a torch.nn.Module or a function that returns one, but got "
            "int",
        ),
        (lambda: 3, "model_or_factory must return a torch.nn.Module, but returned int"),
    ],
)
def test_what_is_no_model_is_refused(model: Any, message: str, path: Path) -> None:
    torchquant.save_quantized(torchquant.quantize_dynamic(mlp()), path)
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        torchquant.load_quantized(model, path)


def test_nothing_is_unpickled(path: Path) -> None:
    """A pickle that would run code, in the place of the file, is no file of ours."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (path.with_name("exploded").touch, ())

    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        torchquant.load_quantized(mlp, path)
    assert not path.with_name("exploded").exists()


def test_saving_over_a_file_that_a_model_was_loaded_from(path: Path) -> None:
    """What is loaded does not live in the file."""
    quantized = torchquant.quantize_dynamic(mlp())
    torchquant.save_quantized(quantized, path)
    loaded = torchquant.load_quantized(mlp, path)
    path.write_bytes(b"")
    assert_same_state(loaded, quantized)


def test_a_loaded_lstm_is_scripted_with_what_was_loaded(path: Path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(8, 8)
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0])

    model, x = torchquant.quantize_dynamic(Recurrent().eval()), floats(5, 3, 8)
    torchquant.save_quantized(model, path)
    for device in ("cpu", "meta"):
        with torch.device(device):
            fresh = Recurrent().eval()
        loaded = torchquant.load_quantized(fresh, path)
        assert_same(torch.jit.script(loaded)(x).detach(), model(x).detach())


def test_two_modules_of_a_file_are_not_made_one(path: Path) -> None:
    def build(shared: bool) -> nn.Module:
        norm = nn.LayerNorm(4)
        return nn.Sequential(nn.Linear(4, 4), norm, norm if shared else nn.LayerNorm(4))

    torchquant.save_quantized(torchquant.quantize_dynamic(build(False)), path)
    with pytest.raises(ValueError, match=r"'1\.weight' and '2\.weight' are two tensors"):
        torchquant.load_quantized(build(True), path)
    torchquant.save_quantized(torchquant.quantize_dynamic(build(True)), path)
    loaded = torchquant.load_quantized(build(True), path)
    assert loaded[1] is loaded[2]


def test_a_link_stays_a_link(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    torchquant.save_quantized(torchquant.quantize_dynamic(mlp()), link)
    assert link.is_symlink()
    assert path.is_file()


def test_a_device_is_not_replaced(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(OSError, match="must be a file, but is a device or a pipe: name a new file"):
        torchquant.save_quantized(torchquant.quantize_dynamic(mlp()), path)
    assert path.is_fifo()


def test_loading_under_inference_mode_leaves_a_model_that_trains(path: Path) -> None:
    torchquant.save_quantized(torchquant.quantize_dynamic(mlp()), path)
    with torch.inference_mode():
        loaded = torchquant.load_quantized(mlp(), path)
    assert loaded[2].weight.is_inference()  # as torch's own load_state_dict(assign=True) leaves it


def test_files_of_the_plain_library_are_foreign(path: Path) -> None:
    save_file(dict(mlp().state_dict()), path)
    with pytest.raises(ValueError, match="must hold a quantized model, but its format is missing"):
        torchquant.load_quantized(mlp, path)
