"""docs/migration.md: its code runs, both sides of it, and what its tables say is so."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch.ao.quantization
from pages import DOCS, code_of
from torch import nn

import torchquant

pytestmark = pytest.mark.any_kernels

PAGE = DOCS / "migration.md"

# What the tables say and the code of the page does not show, to run after it.
OF_TORCH_AO = """
import inspect

def refuses(*errors, of):
    try:
        of()
    except errors:
        return True
    return False

old, new = tq.quantize_dynamic(model), torchquant.quantize_dynamic(model)
per_channel = tq.quantize_dynamic(model, {nn.Linear: tq.per_channel_dynamic_qconfig})
assert old[0].weight().qscheme() == torch.per_tensor_affine
assert per_channel[0].weight().qscheme() == torch.per_channel_affine
for dtype in (torch.float16, torch.bfloat16):
    assert refuses(RuntimeError, of=lambda: old(x.to(dtype)))
    assert new(x.to(dtype)).dtype == dtype
assert refuses(AttributeError, of=lambda: torch.export.export(old, (x,)))
assert refuses(torch._dynamo.exc.Unsupported, of=lambda: torch.compile(old, fullgraph=True)(x))
assert torch.equal(torch.compile(new, fullgraph=True)(x), new(x))

assert "reduce_range=True" in inspect.getsource(type(old[0]).forward)
assert torch.quantize_per_tensor_dynamic(x, torch.quint8, reduce_range=True).int_repr().max() <= 127
assert tq.get_default_qconfig("x86").activation().reduce_range

within = tq.quantize_dynamic(nn.Sequential(model), {"0": tq.per_channel_dynamic_qconfig})
assert type(within[0][0]) is type(within[0][2]) is type(old[0])

calibration = torchquant.calibrate(Stubbed().eval(), batches, progress=False)
stubs = torchquant.quantize_static(Stubbed().eval(), calibration)
assert torch.equal(stubs(x), torchquant.quantize_static(
    model, torchquant.calibrate(model, batches, progress=False))(x))

values = torch.randn(4096, generator=torch.Generator().manual_seed(1)) ** 3
scales = []
for make in (tq.HistogramObserver, torchquant.observers.MSEObserver):
    whole, parts = make(), make()
    whole(values)
    for part in values.split(100):
        parts(part)
    scales.append([observer.calculate_qparams()[0] for observer in (whole, parts)])
assert not torch.equal(*scales[0])
assert torch.equal(*scales[1])

step, zero = torch.tensor([0.02]), torch.tensor([0.0])
learnable = torch._fake_quantize_learnable_per_tensor_affine(x, step, zero, -128, 127, 1.0)
ours = torchquant.ops.fake_quantize_per_tensor(x, step, zero.int(), -128, 127)
assert torch.equal(learnable, ours)
scales, zeros = torch.rand(64) / 50 + 0.01, torch.zeros(64, dtype=torch.int32)
ours = torchquant.ops.fake_quantize_per_channel(x, scales, zeros, 1, -128, 127)
assert torch.equal(torch.fake_quantize_per_channel_affine(x, scales, zeros, 1, -128, 127), ours)
q = torchquant.ops.quantize_per_channel(x, scales, zeros, 1, -128, 127, torch.int8)
assert torch.equal(torch.quantize_per_channel(x, scales, zeros, 1, torch.qint8).int_repr(), q)
"""

OF_TORCHAO = """
from torch.profiler import profile

def operators(layer):
    with torch.no_grad(), profile() as profiler:
        layer(x)
    return [event.name for event in profiler.events() if "::" in event.name]

assert sum(name.startswith("torchquant::") for name in operators(new[0])) == 1
assert len(operators(old[0])) > 2 * len(operators(new[0]))

class Special(nn.Linear):
    pass

special = nn.Sequential(Special(8, 8), nn.Linear(8, 8))
assert type(torchquant.quantize_weights(special)[0]) is Special
quantize_(special, Int8WeightOnlyConfig())
kind = type(special[0].weight)
assert kind is type(special[1].weight) is not nn.Parameter
assert all(type(value) is torch.Tensor for value in new.state_dict().values())
loaded = copy.deepcopy(model)
try:
    loaded.load_state_dict(torch.load("old.pt"))
except RuntimeError:
    pass
else:
    raise AssertionError("assign=True is not needed")

for layers, flows in ((old, False), (new, False), (old_weights, True), (new_weights, True)):
    given = x.clone().requires_grad_()
    output = layers(given).sum()
    if output.requires_grad:
        output.backward()
    assert (given.grad is not None) == flows

quantity = old[0].weight.act_quant_kwargs
assert quantity.mapping_type.name == "SYMMETRIC"
assert old[0].weight.qdata.dtype == torch.int8 and old[0].weight.scale.numel() == 128
assert quantize_(copy.deepcopy(model), Int8WeightOnlyConfig()) is None
"""


def run(heading: str, claims: str, folder: Path) -> None:
    """In a process of its own: torchao changes settings of torch."""
    code = code_of(PAGE.read_text(), heading)
    assert code.count("assert ") >= 5
    program = folder / "migration.py"
    program.write_text(code + claims)
    # The old ways warn that they are deprecated.
    command = [sys.executable, "-W", "ignore", program.name]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_code_for_torch_ao_runs(tmp_path: Path) -> None:
    run("From torch.ao.quantization", OF_TORCH_AO, tmp_path)


@pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None,
    reason="torchao is not installed: pip install -r benchmarks/requirements.txt",
)
def test_the_code_for_torchao_runs(tmp_path: Path) -> None:
    run("From torchao", OF_TORCHAO, tmp_path)


@pytest.mark.parametrize(
    ("prefix", "module"), [("torchquant", torchquant), ("tq", torch.ao.quantization)]
)
def test_every_name_on_the_page_is_there(prefix: str, module: object) -> None:
    names = set(re.findall(rf"\b{prefix}((?:\.[A-Za-z_]\w*)+)", PAGE.read_text())) - {".h"}
    assert len(names) > 8
    for name in names:
        found = module
        for part in name.split(".")[1:]:
            found = getattr(found, part)


def test_layers_of_another_type_are_refused_rather_than_left() -> None:
    with pytest.raises(ValueError, match="LSTM must stay in float"):
        torchquant.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear, nn.LSTM})
