"""The quantized model in C++ programs without Python: export, build, run, compare bit for bit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning
from tqdm import tqdm

import torchquant
from torchquant.demo.minilm import (
    BATCH_SIZE,
    Batch,
    SentenceEncoder,
    Tokenizer,
    batches,
    quality,
    spread,
)
from torchquant.demo.report import DemoError, Section
from torchquant.demo.sentences import english_sentences

Made = TypeVar("Made")

EXAMPLE = Path(torchquant.__file__).resolve().parents[1] / "examples" / "cpp"
_TRACED = ["The model was traced with this sentence.", "And with this one, which is longer."]


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Compare float32 tensors bit by bit: NaN equals NaN, and 0 differs from -0."""
    return a.shape == b.shape and torch.equal(a.view(torch.int32), b.view(torch.int32))


def export(encoder: nn.Module, example: Batch, check: Batch) -> tuple[torch.jit.ScriptModule, bool]:
    """Trace with `example`, and hold the result to the encoder's bits on `check`.

    Returns the module and whether it is frozen: only if freezing leaves the bits as they are.
    """
    with torch.inference_mode():
        expected = encoder(*check)
    with torch.no_grad(), warnings.catch_warnings():
        # That nothing depends on the traced shapes is checked below, on another shape.
        warnings.simplefilter("ignore", TracerWarning)
        warnings.filterwarnings("ignore", ".*torch.jit.* is deprecated", DeprecationWarning)
        # Tracing reads every attribute of the model, its deprecated properties too.
        warnings.filterwarnings("ignore", ".* is deprecated", FutureWarning, "transformers")
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            encoder, example, check_trace=False
        )
        frozen = torch.jit.freeze(traced)
    for module in (frozen, traced):
        with torch.inference_mode():
            if same_bits(module(*check), expected):
                return module, module is frozen
    raise DemoError("the traced model's results differ from the eager model's on another shape")


def compile_package(encoder: nn.Module, example: Batch, path: Path) -> Path:
    """Export with any batch and length, and compile by AOTInductor."""
    shape = {0: torch.export.Dim("batch", max=4096), 1: torch.export.Dim("length", max=512)}
    with torch.no_grad(), warnings.catch_warnings():
        # torch's own, of its parts to each other.
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.export.export(encoder, example, dynamic_shapes=(shape, shape))
        compiled = torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    return Path(compiled)


def _tool(name: str) -> str | None:
    """Find a build tool beside this Python first, then on the PATH."""
    beside = str(Path(sys.executable).parent)
    return shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))


def _run(command: Sequence[str], doing: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise DemoError(f"{doing} failed:\n{result.stdout}{result.stderr}".rstrip())
    return result.stdout


def build(folder: Path) -> Path:
    """Configure and build the examples, and return the folder that then holds the programs."""
    cmake = _tool("cmake")
    if cmake is None:
        raise DemoError("the C++ example needs cmake: pip install cmake")
    prefixes = f"{torch.utils.cmake_prefix_path};{torchquant.cmake_prefix_path}"
    ninja = _tool("ninja")
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    _run(
        [
            *(cmake, "-S", str(EXAMPLE), "-B", str(folder), *generator),
            *("-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_PREFIX_PATH={prefixes}"),
        ],
        "configuring examples/cpp",
    )
    _run([cmake, "--build", str(folder)], "building examples/cpp")
    return folder


@dataclass(frozen=True)
class _Ran:
    """What a program gave and printed, and the size of the model that it ran."""

    output: Tensor
    printed: Mapping[str, str]
    megabytes: float

    @property
    def milliseconds(self) -> float:
        return float(self.printed["milliseconds"])


@dataclass(frozen=True)
class _Results:
    script: _Ran
    package: _Ran
    loaded: Callable[..., Tensor]
    is_frozen: bool


def _run_program(program: Path, model: Path, batch: Batch) -> _Ran:
    inputs, output = program.with_name("inputs.pt"), program.with_name("output.pt")
    torch.save(batch, inputs)
    threads = str(torch.get_num_threads())
    printed = _run([str(program), str(model), str(inputs), str(output), threads], program.name)
    lines = (line.partition(": ") for line in printed.splitlines())
    values = {name: value for name, _, value in lines}
    return _Ran(torch.load(output), values, model.stat().st_size / 1e6)


def _largest(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


def _median_milliseconds(model: Callable[..., Tensor], batch: Batch, runs: int = 5) -> float:
    times = []
    with torch.inference_mode():
        for _ in range(runs):
            start = time.perf_counter()
            model(*batch)
            times.append((time.perf_counter() - start) * 1e3)
    return sorted(times)[runs // 2]


def _run_all(quantized: nn.Module, example: Batch, compared: Batch, folder: Path) -> _Results:
    """Make both files, build the programs, and run each."""
    with tqdm(total=5, desc="C++ programs", unit="step") as bar:

        def step(doing: str, work: Callable[[], Made]) -> Made:
            bar.set_postfix_str(doing)
            made = work()
            bar.update()
            return made

        scripted, is_frozen = step("trace", lambda: export(quantized, example, compared))
        scripted.save(str(folder / "model.pt"))
        package = step("compile", lambda: compile_package(quantized, example, folder / "model.pt2"))
        programs = step("build", lambda: build(folder / "build"))
        script = step(
            "run", lambda: _run_program(programs / "run_model", folder / "model.pt", compared)
        )
        compiled = step("run", lambda: _run_program(programs / "run_package", package, compared))
    loaded = torch._inductor.aoti_load_package(str(package))
    return _Results(script, compiled, loaded, is_frozen)


def sections(encoder: SentenceEncoder, tokenizer: Tokenizer) -> Iterator[Section]:
    """Ship the quantized encoder on two roads to C++, and compare with Python's output."""
    title = "The quantized model in C++ programs (LibTorch and libtorchquant, no Python)"
    if not EXAMPLE.is_dir():
        note = "not run: the source of the programs, examples/cpp, comes with a checkout"
        yield Section("cpp", title, note=note)
        return
    quantized = torchquant.quantize_dynamic(encoder)
    (example,) = batches(tokenizer, _TRACED)
    (compared,) = batches(tokenizer, spread(english_sentences(), BATCH_SIZE))
    with tempfile.TemporaryDirectory(prefix="torchquant-demo-") as name:
        found = _run_all(quantized, example, compared, Path(name))
        script, package = found.script, found.package
        with torch.inference_mode():
            eager, compiled = quantized(*compared), found.loaded(*compared)
        yield Section(
            "cpp",
            title,
            [
                {"program": "Python, eager", "ms": _median_milliseconds(quantized, compared)},
                {"program": "C++, TorchScript", "ms": script.milliseconds},
                {
                    "program": "Python, AOTInductor",
                    "ms": _median_milliseconds(found.loaded, compared),
                },
                {"program": "C++, AOTInductor", "ms": package.milliseconds},
            ],
            {
                "bit_equal": same_bits(script.output, eager)
                and same_bits(package.output, compiled),
                "largest_difference_torchscript_to_eager": _largest(script.output, eager),
                "largest_difference_aotinductor_to_python": _largest(package.output, compiled),
                "cosine_least_aotinductor_to_eager": quality(eager, compiled).cosine_least,
                "output_of_the_programs": script.printed["output"],
                "torchscript_megabytes": script.megabytes,
                "aotinductor_megabytes": package.megabytes,
                "frozen": found.is_frozen,
                "threads": int(script.printed["threads"]),
                "kernels": script.printed["kernels"],
            },
            "Inductor computes layer norms and GELU itself and rounds them otherwise, so its bits "
            "are not eager's.",
        )
