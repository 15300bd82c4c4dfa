"""Holds the source to its layers: what each may include, and what each object may export.

Usage: check_layers.py BUILD, the folder of a configured build (for its compile_commands.json).
"""

import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[">]', re.MULTILINE)
SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}
TORCH = re.compile(r"^(torch|ATen|c10|caffe2)/")
# What a file with wider instructions may include: nothing whose inline functions another file has.
ISA_HEADERS = {"immintrin.h", "cstdint"}
MATH_HEADERS = {"math.h", "stdint.h", "float.h", "string.h"}

# CUDA's own, for what launches: CUB brings teams of threads together.
CUDA_HEADERS = re.compile(r"^cub/")

# What a folder may not include: all that is above it; and model, which is written over torchquant.h
# alone as a program's code would be, nothing below that either.
STRANGE = {
    "math": ("kernels/", "ops/", "model/"),
    "kernels": ("ops/", "model/"),
    "ops": ("model/",),
    "model": ("math/", "kernels/", "ops/"),
}


def includes(path: Path) -> list[str]:
    return INCLUDE.findall(path.read_text())


def sources(folder: str) -> list[Path]:
    return sorted(path for path in (CSRC / folder).rglob("*") if path.suffix in SUFFIXES)


def wrong_includes() -> list[str]:
    """One arrow: math <- kernels <- ops <- library <- model, and no Python anywhere."""
    problems = []
    for path in sources("."):
        for name in includes(path):
            if name == "Python.h" or name.startswith("pybind11/"):
                problems.append(f"{path}: csrc has no Python in it, but this includes {name}")
    for folder, strange in STRANGE.items():
        for path in sources(folder):
            for name in includes(path):
                of_torch = folder in ("math", "kernels") and TORCH.match(name)
                if of_torch or any(part in name for part in strange):
                    problems.append(f"{path}: {folder} may not include {name}")
    for path in sources("math"):
        for name in includes(path):
            if name not in MATH_HEADERS and not (path.parent / name).exists():
                problems.append(f"{path}: math includes C headers only, not {name}")
    for path in sources("kernels"):
        for name in includes(path):
            if (path.parent / name).exists() or path.name == "select.cpp":
                continue
            if path.suffix == ".cuh" and CUDA_HEADERS.match(name):
                continue
            if name not in ISA_HEADERS:
                problems.append(f"{path}: a kernel includes intrinsics and <cstdint>, not {name}")
    return problems


def kernel_commands(build: Path) -> list[tuple[Path, list[str]]]:
    """The source and the compiler call of every kernel file, without its output."""
    commands = []
    for entry in json.loads((build / "compile_commands.json").read_text()):
        source = Path(entry["file"])
        if source.parent != CSRC / "kernels" or source.name == "select.cpp":
            continue
        call = shlex.split(entry["command"])
        output = call.index("-o")
        commands.append((source, [*call[:output], *call[output + 2 :]]))
    return commands


def exported_symbols(call: list[str], level: str) -> list[tuple[str, str]]:
    """(kind, demangled name) of all that the object defines beyond itself."""
    with tempfile.NamedTemporaryFile(suffix=".o") as file:
        subprocess.run([*call, level, "-o", file.name], check=True)
        table = subprocess.run(
            ["nm", "-C", "--defined-only", "--extern-only", file.name],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    rows = [line.split(maxsplit=2) for line in table.splitlines()]
    return [(row[1], row[2]) for row in rows]


def leaking_symbols(build: Path) -> list[str]:
    """A kernel file exports its table alone.

    A weak symbol compiled with wider flags could win at link time and crash an older processor.
    """
    commands = kernel_commands(build)
    if not commands:
        return [f"{build}: compile_commands.json lists no kernel file"]
    problems = []
    for source, call in commands:
        table = f"torchquant::kernels::{source.stem}"
        for level in ("-O3", "-O0"):
            found = exported_symbols(call, level)
            if [name for _, name in found] != [table]:
                problems.append(f"{source} at {level}: exports {found} rather than {table} alone")
    return problems


def main() -> int:
    problems = wrong_includes() + leaking_symbols(Path(sys.argv[1]).resolve())
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print("layers: all includes and symbols are where they belong")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
