"""Builds libtorchquant.so with CMake; puts it, its header and CMake package into the package.

Everything about the build itself is in CMakeLists.txt. TORCHQUANT_CUDA=AUTO, ON or OFF in the
environment decides about the CUDA kernels, TORCH_CUDA_ARCH_LIST for which cards they are built.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
BUILD = ROOT / os.environ.get("TORCHQUANT_BUILD_DIR", "build")


def torch_cmake_prefix() -> str:
    try:
        import torch
    except ImportError:
        sys.exit(
            "torchquant is compiled against the torch it will run with, and there is none here: "
            "install torch first, then: pip install --no-build-isolation ."
        )
    return str(torch.utils.cmake_prefix_path)


def run_cmake(*arguments: str) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        sys.exit("cmake was not found: pip install cmake ninja")
    subprocess.run([cmake, *arguments], check=True)


class CMakeBuild(build_ext):
    """Configures, builds and installs the CMake project into the package folder."""

    def run(self) -> None:
        package = ROOT if self.inplace else Path(self.build_lib)
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        settings = [
            f"-DCMAKE_PREFIX_PATH={torch_cmake_prefix()}",
            f"-DTORCHQUANT_CUDA={os.environ.get('TORCHQUANT_CUDA', 'AUTO')}",
        ]
        run_cmake("-S", str(ROOT), "-B", str(BUILD), *generator, *settings)
        run_cmake("--build", str(BUILD), "--target", "torchquant", "--parallel")
        run_cmake("--install", str(BUILD), "--prefix", str(package.resolve() / "torchquant"))

    def get_outputs(self) -> list[str]:
        return []


class AnyPythonWheel(bdist_wheel):
    """The library holds no Python: one wheel serves every interpreter of the platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


setup(
    ext_modules=[Extension("torchquant.libtorchquant", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": AnyPythonWheel},
)
