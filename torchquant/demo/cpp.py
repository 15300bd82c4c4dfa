"""The quantized model in a C++ program without Python: export, build, run, compare bit for bit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

import torchquant
from torchquant.demo.minilm import (
    BATCH_SIZE,
    Batch,
    SentenceEncoder,
    Tokenizer,
    batches,
    require,
    spread,
)
from torchquant.demo.report import DemoError, Section
from torchquant.demo.sentences import english_sentences

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
    """Configure and build the example, and return its program."""
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
    return folder / "run_model"


def _run_program(program: Path, model: Path, batch: Batch) -> tuple[Tensor, dict[str, str]]:
    """Return the program's output tensor and the `name: value` lines that it prints."""
    inputs, output = program.with_name("inputs.pt"), program.with_name("output.pt")
    torch.save(batch, inputs)
    threads = str(torch.get_num_threads())
    printed = _run([str(program), str(model), str(inputs), str(output), threads], "run_model")
    lines = (line.partition(": ") for line in printed.splitlines())
    return torch.load(output), {name: value for name, _, value in lines}


def _median_milliseconds(model: nn.Module, batch: Batch, runs: int = 5) -> float:
    times = []
    with torch.inference_mode():
        for _ in range(runs):
            start = time.perf_counter()
            model(*batch)
            times.append((time.perf_counter() - start) * 1e3)
    return sorted(times)[runs // 2]


def sections(encoder: SentenceEncoder, tokenizer: Tokenizer) -> Iterator[Section]:
    """Export the quantized encoder, run it in C++, and compare with Python's output."""
    title = "The quantized model in a C++ program (LibTorch and libtorchquant, no Python)"
    if not EXAMPLE.is_dir():
        note = "not run: the program's source, examples/cpp, comes with a checkout of torchquant"
        yield Section("cpp", title, note=note)
        return
    quantized = torchquant.quantize_dynamic(encoder)
    (example,) = batches(tokenizer, _TRACED)
    (compared,) = batches(tokenizer, spread(english_sentences(), BATCH_SIZE))
    with (
        tempfile.TemporaryDirectory(prefix="torchquant-demo-") as name,
        require("tqdm").tqdm(total=3, desc="C++ program", unit="step") as bar,
    ):
        folder = Path(name)
        bar.set_postfix_str("export")
        exported, is_frozen = export(quantized, example, compared)
        model = folder / "model.pt"
        exported.save(str(model))
        bar.update()
        bar.set_postfix_str("build")
        program = build(folder / "build")
        bar.update()
        bar.set_postfix_str("run")
        found, printed = _run_program(program, model, compared)
        bar.update()
        size = model.stat().st_size
    with torch.inference_mode():
        expected = quantized(*compared)
    yield Section(
        "cpp",
        title,
        [
            {"program": "Python, eager", "ms": _median_milliseconds(quantized, compared)},
            {"program": "C++, TorchScript", "ms": float(printed["milliseconds"])},
        ],
        {
            "bit_equal": same_bits(found, expected),
            "largest_difference": (found - expected).abs().max().item(),
            "output_of_the_program": printed["output"],
            "exported_megabytes": size / 1e6,
            "frozen": is_frozen,
            "threads": int(printed["threads"]),
            "kernels": printed["kernels"],
        },
    )
