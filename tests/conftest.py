"""Samples for the operator tests, and tests that need to run for one kernel set only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from operator_tests import OperatorTests
from refusals import refusals
from samples import samples

from torchquant.demo import cpp


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "any_kernels: independent of the kernel set, so run for the machine's default set only",
    )
    # A shell's background jobs ignore it, and so would the processes that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cls = metafunc.cls
    if cls is None or not issubclass(cls, OperatorTests):
        return
    if "sample" in metafunc.fixturenames:
        metafunc.parametrize("sample", samples(cls.name), ids=str)
    if "refusal" in metafunc.fixturenames:
        metafunc.parametrize("refusal", refusals(cls.name), ids=str)


def _default_kernels() -> str:
    """The set that runs here when nothing is asked for."""
    environment = {key: value for key, value in os.environ.items() if key != "TORCHQUANT_KERNELS"}
    code = "import torchquant; print(torchquant.ops.active_kernels())"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return ran.stdout.strip()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = os.environ.get("TORCHQUANT_KERNELS")
    if not asked or asked == _default_kernels():
        return
    left_out = [item for item in items if item.get_closest_marker("any_kernels")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker("any_kernels")]


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built programs of examples/cpp."""
    if not cpp.EXAMPLE.is_dir():
        pytest.skip("examples/cpp is not here")
    return cpp.build(tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="session")
def model_files() -> Path:
    """The program of tests/cpp/model_files.cpp."""
    build = Path(__file__).parent.parent / os.environ.get("TORCHQUANT_BUILD_DIR", "build")
    program = build / "tests" / "cpp" / "model_files"
    if not program.is_file():
        pytest.skip(f"{program} is not built: make test-cpp")
    return program


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
