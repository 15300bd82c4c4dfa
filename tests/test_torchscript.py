"""Script, trace, freeze, save and load: layers and models give the bits that eager gives."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import MODELS, int8_calls, make
from operator_tests import assert_same
from samples import BF16, F16, floats
from torch import Tensor, nn

import torchquant
from torchquant.nn import DynamicLinear, WeightOnlyLinear

pytestmark = [
    pytest.mark.any_kernels,
    # TorchScript is deprecated as a whole, and tested here for those who ship it.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def scripted(model: nn.Module, x: Tensor) -> torch.jit.ScriptModule:
    return torch.jit.script(model)


def traced(model: nn.Module, x: Tensor) -> torch.jit.ScriptModule:
    return torch.jit.trace(model, (x,))


def script_frozen(model: nn.Module, x: Tensor) -> torch.jit.ScriptModule:
    return torch.jit.freeze(scripted(model, x))


def trace_frozen(model: nn.Module, x: Tensor) -> torch.jit.ScriptModule:
    return torch.jit.freeze(traced(model, x))


def optimized(model: nn.Module, x: Tensor) -> torch.jit.ScriptModule:
    return torch.jit.optimize_for_inference(scripted(model, x))


ROADS = [scripted, traced, script_frozen, trace_frozen, optimized]


def reloaded(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.parametrize("road", ROADS, ids=lambda road: road.__name__)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_a_layer_equals_eager_before_and_after_saving(
    road: Callable[..., torch.jit.ScriptModule], bias: bool, activation: str
) -> None:
    layer = DynamicLinear.from_float(nn.Linear(70, 35, bias), activation).eval()
    module = road(layer, floats(9, 70))
    for ready in (module, reloaded(module)):
        for shape in ((9, 70), (2, 3, 70), (70,), (0, 70)):
            for dtype in (torch.float32, F16, BF16):
                x = floats(*shape, dtype=dtype)
                # Run twice: the second call runs what the profiling executor made of the first.
                for _ in range(2):
                    assert_same(ready(x), layer(x))


@pytest.mark.parametrize("road", ROADS, ids=lambda road: road.__name__)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_equals_eager_before_and_after_saving(
    road: Callable[..., torch.jit.ScriptModule], name: str
) -> None:
    model, x, calls = make(name)
    quantized = torchquant.quantize_dynamic(model)
    with torch.no_grad():
        expected = quantized(x)
        module = road(quantized, x)
        for ready in (module, reloaded(module)):
            assert int8_calls(ready, x) == calls
            assert_same(ready(x), expected)


@pytest.mark.parametrize("road", ROADS, ids=lambda road: road.__name__)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("dtype", [torch.float32, F16, BF16])
def test_a_weight_only_layer_equals_eager_and_keeps_8_bits(
    road: Callable[..., torch.jit.ScriptModule], bias: bool, dtype: torch.dtype
) -> None:
    """Freezing must not compute the float weight beforehand: the file would hold it instead."""
    layer = WeightOnlyLinear.from_float(nn.Linear(700, 350, bias), "relu").eval()
    module = road(layer, floats(9, 700, dtype=dtype))
    for ready in (module, reloaded(module)):
        for shape in ((9, 700), (2, 3, 700), (700,), (0, 700)):
            x = floats(*shape, dtype=dtype)
            for _ in range(2):
                assert_same(ready(x), layer(x))
    file = io.BytesIO()
    torch.jit.save(module, file)
    assert len(file.getvalue()) < 1.2 * 700 * 350


def test_a_traced_model_takes_other_batch_sizes() -> None:
    model, x, _ = make("nested")
    quantized = torchquant.quantize_dynamic(model)
    module = traced(quantized, x)
    for batch in (1, 3, 0):
        y = floats(batch, 5, 12)
        assert_same(module(y), quantized(y))


def test_freezing_makes_constants_of_the_state() -> None:
    layer = DynamicLinear.from_float(nn.Linear(70, 35)).eval()
    frozen = torch.jit.freeze(torch.jit.script(layer))
    graph = str(frozen.graph)
    assert "torchquant::linear_dynamic" in graph
    assert "GetAttr" not in graph
    assert not list(frozen.buffers())


def test_a_scripted_layer_keeps_the_state_dict() -> None:
    layer = DynamicLinear.from_float(nn.Linear(70, 35))
    state = reloaded(torch.jit.script(layer)).state_dict()
    assert state.keys() == layer.state_dict().keys()
    for name, value in layer.state_dict().items():
        assert_same(state[name], value)


@pytest.mark.parametrize("road", [scripted, script_frozen], ids=lambda road: road.__name__)
def test_a_scripted_layer_refuses_an_input_of_another_width(
    road: Callable[..., torch.jit.ScriptModule],
) -> None:
    module = road(DynamicLinear.from_float(nn.Linear(70, 35)).eval(), floats(9, 70))
    with pytest.raises(torch.jit.Error, match="input must have 70 features"):
        module(floats(9, 72))


def test_active_kernels_is_scriptable() -> None:
    unit = torch.jit.CompilationUnit(
        "def call() -> str:\n    return torch.ops.torchquant.active_kernels()\n"
    )
    assert unit.call() == torchquant.ops.active_kernels()


def test_a_saved_model_runs_in_another_process(tmp_path: Path) -> None:
    """One that loads the library alone: no module of torchquant is imported there."""
    model, x, _ = make("mlp")
    quantized = torchquant.quantize_dynamic(model)
    torch.jit.save(torch.jit.freeze(torch.jit.script(quantized)), str(tmp_path / "model.pt"))
    torch.save(x, tmp_path / "x.pt")
    code = f"""
import sys, torch
torch.ops.load_library({str(torchquant._library.LIBRARY)!r})
y = torch.jit.load("model.pt")(torch.load("x.pt"))
assert "torchquant" not in sys.modules
torch.save(y, "y.pt")
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert_same(torch.load(tmp_path / "y.pt"), quantized(x).detach())
