"""find_package(TorchQuant): from each place where it can be, and what the usual mistakes give."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import torchquant
from torchquant.demo import cpp

pytestmark = pytest.mark.any_kernels

ROOT = Path(__file__).parents[1]
BUILD = ROOT / os.environ.get("TORCHQUANT_BUILD_DIR", "build")

CMAKE_LISTS = """
cmake_minimum_required(VERSION 3.21)
project(app LANGUAGES CXX)
find_package(TorchQuant REQUIRED)
add_executable(app app.cpp)
target_link_libraries(app PRIVATE TorchQuant::torchquant)
"""
PROGRAM = """
#include <torchquant.h>
#include <iostream>
int main() { std::cout << torchquant::active_kernels(); }
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "CMakeLists.txt").write_text(CMAKE_LISTS)
    (folder / "app.cpp").write_text(PROGRAM)
    return folder


def cmake(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = cpp._tool("cmake")
    if program is None:
        pytest.skip("needs cmake")
    command = [program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def configure(
    app: Path, *prefixes: object, torch_prefix: str | None = torch.utils.cmake_prefix_path
) -> subprocess.CompletedProcess[str]:
    paths = [torch_prefix, *prefixes] if torch_prefix is not None else prefixes
    return cmake("-S", app, "-B", app / "build", f"-DCMAKE_PREFIX_PATH={';'.join(map(str, paths))}")


def refusal(ran: subprocess.CompletedProcess[str]) -> str:
    """CMake's message without the line breaks that it puts in."""
    assert ran.returncode != 0
    return " ".join(ran.stderr.split())


def build_folder() -> Path:
    if not (BUILD / "CMakeCache.txt").is_file():
        pytest.skip(f"there is no build folder {BUILD}: set TORCHQUANT_BUILD_DIR")
    return BUILD


def installed_by_cmake(folder: Path) -> Path:
    ran = cmake("--install", build_folder(), "--prefix", folder)
    assert ran.returncode == 0, ran.stderr
    return folder


@pytest.mark.parametrize("place", ["package", "install", "build"])
def test_a_program_is_built_and_runs(place: str, app: Path) -> None:
    prefix = {
        "package": lambda: Path(torchquant.cmake_prefix_path),
        "install": lambda: installed_by_cmake(app / "prefix"),
        "build": build_folder,
    }[place]()
    ran = configure(app, prefix)
    assert ran.returncode == 0, ran.stderr
    ran = cmake("--build", app / "build")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    ran = subprocess.run([app / "build" / "app"], capture_output=True, text=True, check=True)
    assert ran.stdout == torchquant.ops.active_kernels()


def test_torchquant_dir_names_a_place_too(app: Path) -> None:
    ran = cmake(
        *("-S", app, "-B", app / "build", f"-DTorchQuant_DIR={build_folder()}"),
        f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}",
    )
    assert ran.returncode == 0, ran.stderr


def test_without_torch(app: Path) -> None:
    ran = configure(app, torchquant.cmake_prefix_path, torch_prefix=None)
    assert (
        "LibTorch was not found: pass -DCMAKE_PREFIX_PATH=/path/to/libtorch, or the output of: "
        "python -c 'import torch; print(torch.utils.cmake_prefix_path)'"
    ) in refusal(ran)


def test_with_another_torch(app: Path) -> None:
    other = app / "libtorch" / "share" / "cmake" / "Torch"
    other.mkdir(parents=True)
    (other / "TorchConfig.cmake").touch()
    (other / "TorchConfigVersion.cmake").write_text('set(PACKAGE_VERSION "1.2.3")')
    ran = configure(
        app, torchquant.cmake_prefix_path, torch_prefix=str(app / "libtorch" / "share" / "cmake")
    )
    release = torch.__version__.split("+")[0]
    message = refusal(ran)
    assert f"TorchQuant was built with torch {release}" in message
    assert "but 1.2.3 was found in" in message
    assert (
        "build torchquant again with this one, or point CMAKE_PREFIX_PATH at the other" in message
    )


def test_without_the_library(app: Path) -> None:
    package = app / "package"
    for part in ("lib", "include", "share"):
        shutil.copytree(Path(torchquant.__file__).parent / part, package / part)
    (package / "lib" / "libtorchquant.so").unlink()
    message = refusal(configure(app, package / "share" / "cmake"))
    assert f"TorchQuant was found in {package}/share/cmake/TorchQuant, but its" in message
    assert (
        "libtorchquant.so is gone or not built: install torchquant again, or in a build folder run "
        "cmake --build first."
    ) in message
