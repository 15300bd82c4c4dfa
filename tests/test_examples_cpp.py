"""The C++ programs of examples/cpp: they give Python's bits, and say what is wrong."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from operator_tests import assert_same
from samples import floats
from torch import Tensor, nn

import torchquant

pytestmark = [
    pytest.mark.any_kernels,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 12)).eval()


def static(**options: bool) -> nn.Module:
    model = build()
    calibration = torchquant.calibrate(model, [floats(64, 16)], progress=False)
    return torchquant.quantize_static(model, calibration, **options)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "dynamic": lambda: torchquant.quantize_dynamic(build()),
    "static": static,
    "static-unlinked": lambda: static(chain=False),
    "weight-only": lambda: torchquant.quantize_weights(build()),
}


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled network, of any batch size."""
    batch = torch.export.Dim("batch", max=1024)
    with torch.no_grad():
        program = torch.export.export(
            NETWORKS["dynamic"](), (floats(5, 16),), dynamic_shapes=({0: batch},)
        )
        path = tmp_path_factory.mktemp("package") / "model.pt2"
        return Path(torch._inductor.aoti_compile_and_package(program, package_path=str(path)))


def assert_same_product(name: str, result: Tensor, expected: Tensor) -> None:
    if name == "weight-only":
        # PyTorch's float product, whose sums depend on the number of threads.
        torch.testing.assert_close(result, expected)
    else:
        assert_same(result, expected)


def values(printed: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in printed.splitlines())


@pytest.mark.parametrize("name", NETWORKS)
def test_run_model_gives_the_bits_of_python(name: str, programs: Path) -> None:
    model, x = NETWORKS[name](), floats(9, 16)
    torch.jit.freeze(torch.jit.script(model)).save("model.pt")
    torch.save((x,), "x.pt")
    ran = run(programs / "run_model", "model.pt", "x.pt", "y.pt", 1)
    assert ran.returncode == 0, ran.stderr
    assert_same_product(name, torch.load("y.pt"), model(x).detach())
    printed = values(ran.stdout)
    assert printed["output"] == "Float [9, 12]"
    assert printed["threads"] == "1"
    assert printed["kernels"] == torchquant.ops.active_kernels()
    assert float(printed["milliseconds"]) > 0


@pytest.mark.parametrize("rows", [1, 9])
def test_run_package_gives_the_bits_of_python(rows: int, programs: Path, package: Path) -> None:
    x = floats(rows, 16)
    torch.save((x,), "x.pt")
    ran = run(programs / "run_package", package, "x.pt", "y.pt", 1)
    assert ran.returncode == 0, ran.stderr
    result = torch.load("y.pt")
    assert_same(result, torch._inductor.aoti_load_package(str(package))(x))
    assert values(ran.stdout)["output"] == f"Float [{rows}, 12]"


@pytest.mark.parametrize("name", NETWORKS)
def test_quantize_network_runs_what_python_saved(name: str, programs: Path) -> None:
    model, x = NETWORKS[name](), floats(9, 16)
    torchquant.save_quantized(model, "model.safetensors")
    torch.save(x, "x.pt")
    ran = run(programs / "quantize_network", "--load", "model.safetensors", "x.pt", "y.pt")
    assert ran.returncode == 0, ran.stderr
    assert_same_product(name, torch.load("y.pt"), model(x).detach())


def test_python_loads_what_quantize_network_saved(programs: Path) -> None:
    ran = run(programs / "quantize_network", "net.safetensors")
    assert ran.returncode == 0, ran.stderr
    printed = values(ran.stdout)
    assert printed["loaded gives the same bits"] == "yes"
    for scheme in ("dynamic", "static"):
        metrics = {
            metric: float(printed[f"{scheme} {metric}"])
            for metric in ("max_error", "mean_error", "mse", "snr_db")
        }
        assert 0 < metrics["mean_error"] < math.sqrt(metrics["mse"]) < metrics["max_error"]
        assert 35 < metrics["snr_db"] < 60  # two layers of 8 bits
    loaded = torchquant.load_quantized(
        nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)), "net.safetensors"
    )
    assert [loaded[0].activation, loaded[2].output_dtype] == ["relu", torch.float32]
    assert 35 < loaded[0].weight_snr_db < 60
    x = floats(9, 16)
    torch.save(x, "x.pt")
    ran = run(programs / "quantize_network", "--load", "net.safetensors", "x.pt", "y.pt")
    assert ran.returncode == 0, ran.stderr
    assert_same(loaded(x).detach(), torch.load("y.pt"))


def test_python_gives_back_the_tensors_that_cpp_saved(programs: Path) -> None:
    assert run(programs / "quantize_network", "net.safetensors").returncode == 0
    loaded = torchquant.load_quantized(
        nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)), "net.safetensors"
    )
    torchquant.save_quantized(loaded, "again.safetensors")
    cpp, python = (data_of(name) for name in ("net.safetensors", "again.safetensors"))
    assert cpp == python


def data_of(path: str) -> bytes:
    """What follows the header, and whose order all writers share."""
    content = Path(path).read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def test_quantized_alike_in_python_and_cpp(programs: Path) -> None:
    """The weight that C++ quantized comes from a float one that Python can take back."""
    assert run(programs / "quantize_network", "net.safetensors").returncode == 0
    loaded = torchquant.load_quantized(
        nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)), "net.safetensors"
    )
    for layer in (loaded[0], loaded[2]):
        linear = nn.Linear(layer.in_features, layer.out_features)
        # Its greatest magnitude in each row is 127 steps, so quantizing it again changes nothing.
        linear.weight = nn.Parameter(layer.weight)
        again = torchquant.nn.DynamicLinear.from_float(linear)
        assert_same(again.packed_weight, layer.packed_weight)
        assert_same(again.weight_sum, layer.weight_sum)


@pytest.mark.parametrize(
    ("program", "usage"),
    [
        ("run_model", "usage: run_model MODEL.pt INPUTS.pt OUTPUT.pt [THREADS]"),
        ("run_package", "usage: run_package PACKAGE.pt2 INPUTS.pt OUTPUT.pt [THREADS]"),
        ("quantize_network", "usage: quantize_network OUT.safetensors"),
    ],
)
def test_without_arguments_there_is_the_usage(program: str, usage: str, programs: Path) -> None:
    ran = run(programs / program)
    assert ran.returncode == 2
    assert ran.stderr.startswith(usage)


def test_help_of_quantize_network(programs: Path) -> None:
    ran = run(programs / "quantize_network", "--help")
    assert ran.returncode == 0
    assert "usage: quantize_network" in ran.stdout
    assert run(programs / "quantize_network", "--hepl").returncode == 2


MODEL, X, TENSOR, PACKAGE = "model.pt", "inputs.pt", "tensor.pt", "package.pt2"
MISTAKES = {
    "model-missing": ("run_model", ["none.pt", X, "y.pt"], "cannot open none.pt"),
    "model-foreign": ("run_model", [X, X, "y.pt"], "cannot load inputs.pt"),
    "package-missing": ("run_package", ["none.pt2", X, "y.pt"], "cannot open none.pt2"),
    "package-foreign": ("run_package", [X, X, "y.pt"], "cannot load inputs.pt"),
    "package-script": ("run_package", [MODEL, X, "y.pt"], "cannot load model.pt"),
    "inputs-missing": ("run_model", [MODEL, "none.pt", "y.pt"], "cannot open none.pt"),
    "no-tuple": ("run_model", [MODEL, TENSOR, "y.pt"], "must hold a tuple"),
    "no-tuple-package": ("run_package", [PACKAGE, TENSOR, "y.pt"], "must hold a tuple"),
    "no-tensors": ("run_package", [PACKAGE, "numbers.pt", "y.pt"], "must hold a tuple of tensors"),
    "no-folder": ("run_model", [MODEL, X, "none/y.pt"], "cannot write none/y.pt"),
    "width": (
        "run_model",
        [MODEL, "narrow-inputs.pt", "y.pt"],
        "input must have 16 features in its last dimension, but got shape [4, 3]",
    ),
    "package-width": (
        "run_package",
        [PACKAGE, "narrow-inputs.pt", "y.pt"],
        "run_package: ",  # what AOTInductor's code says or does of inputs that it does not check
    ),
    "no-threads": ("run_model", [MODEL, X, "y.pt", "0"], "THREADS must be"),
    "save-no-folder": ("quantize_network", ["none/net"], "none/net cannot be written"),
    "load-missing": ("quantize_network", ["--load", "none", TENSOR, "y.pt"], "none does not exist"),
    "load-foreign": (
        "quantize_network",
        ["--load", X, TENSOR, "y.pt"],
        "inputs.pt is no whole safetensors file",
    ),
    "load-names": (
        "quantize_network",
        ["--load", "named.safetensors", TENSOR, "y.pt"],
        "must hold layers of one nn.Sequential, whose names are numbers, but has 'layer'",
    ),
    "load-more": (
        "quantize_network",
        ["--load", "more.safetensors", TENSOR, "y.pt"],
        "must hold nn.Linear and nn.ReLU alone, but has 1.bias too",
    ),
    "load-no-relu": (
        "quantize_network",
        ["--load", "linear.safetensors", TENSOR, "y.pt"],
        "must hold an nn.ReLU between any two layers, but has none between 0 and 1",
    ),
    "load-no-tensor": (
        "quantize_network",
        ["--load", "net.safetensors", X, "y.pt"],
        "inputs.pt must hold a tensor",
    ),
    "load-width": (
        "quantize_network",
        ["--load", "net.safetensors", "narrow.pt", "y.pt"],
        "input must have 16 features in its last dimension, but got shape [4, 3]",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_readable_answer(name: str, programs: Path, package: Path) -> None:
    program, arguments, message = MISTAKES[name]
    model = NETWORKS["dynamic"]()
    x: Tensor = floats(4, 16)
    torch.jit.script(model).save(MODEL)
    torch.save((x,), X)
    torch.save(x, TENSOR)
    torch.save((1, 2), "numbers.pt")
    torch.save(x[:, :3].clone(), "narrow.pt")
    torch.save((x[:, :3].clone(),), "narrow-inputs.pt")
    torchquant.save_quantized(model, "net.safetensors")
    named = torchquant.quantize_dynamic(nn.ModuleDict({"layer": nn.Linear(16, 3)}))
    torchquant.save_quantized(named, "named.safetensors")
    more = torchquant.quantize_dynamic(nn.Sequential(nn.Linear(16, 3), nn.LayerNorm(3)))
    torchquant.save_quantized(more, "more.safetensors")
    linear = torchquant.quantize_dynamic(nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 3)))
    torchquant.save_quantized(linear, "linear.safetensors")
    Path(PACKAGE).symlink_to(package)
    ran = run(programs / program, *arguments)
    assert ran.returncode == 1
    # The code in a package prints a line of its own before ours.
    assert ran.stderr.startswith(f"{program}: ") or program == "run_package"
    assert message in ran.stderr
    assert "frame #" not in ran.stderr


def test_operators_that_are_not_in_the_program_are_told_of(programs: Path) -> None:
    """As in one whose linker dropped the library: here is a model of an operator that none has."""
    code = """
import torch
library = torch.library.Library("torchquant", "FRAGMENT")
library.define("later(Tensor x) -> Tensor")

class Model(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.torchquant.later(x)

torch.jit.script(Model()).save("model.pt")
torch.save((torch.ones(1),), "inputs.pt")
"""
    Path("model.py").write_text(code)
    subprocess.run([sys.executable, "-W", "ignore", "model.py"], check=True)
    ran = run(programs / "run_model", MODEL, X, "y.pt")
    assert ran.returncode == 1
    assert "Unknown builtin op: torchquant::later" in ran.stderr
    assert "link TorchQuant::torchquant and include <torchquant.h>" in ran.stderr
