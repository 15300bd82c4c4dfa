"""Finding and loading the library, and the Python package around it."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from operator_tests import assert_same, operator, outcome, outcome_of
from samples import OPERATORS, samples

import torchquant
from torchquant import _library

pytestmark = pytest.mark.any_kernels


def test_another_torch_release_gives_one_readable_sentence() -> None:
    code = "import torch; torch.__version__ = '9.8.7+cpu'; import torchquant"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode != 0
    built_with = _library.BUILT_WITH.read_text().strip().split("+")[0]
    assert ran.stderr.splitlines()[-1] == (
        f"ImportError: torchquant was built with torch {built_with}, but torch 9.8.7 is installed: "
        "build it again for this torch, in the torchquant source folder: "
        "pip install --no-build-isolation --force-reinstall --no-deps ."
    )


def test_another_build_of_the_same_release_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The C++ interface is the release's; a CPU and a CUDA build share it."""
    release = torch.__version__.split("+")[0]
    for version in (release, f"{release}+cpu", f"{release}+cu130"):
        monkeypatch.setattr(torch, "__version__", version)
        _library.check_torch_version()


def test_a_missing_library_says_how_to_build_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_library, "LIBRARY", tmp_path / "libtorchquant.so")
    with pytest.raises(ImportError, match=r"is not built: .*libtorchquant\.so does not exist") as e:
        _library.load()
    assert "pip install --no-build-isolation" in str(e.value)


def test_cmake_prefix_path_holds_the_cmake_package() -> None:
    folder = Path(torchquant.cmake_prefix_path)
    assert folder.is_absolute()
    assert (folder / "TorchQuant" / "TorchQuantConfig.cmake").is_file()


def test_the_header_is_inside_the_package() -> None:
    header = Path(torchquant.__file__).parent / "include" / "torchquant.h"
    text = header.read_text()
    for name in OPERATORS:
        assert re.search(rf"\b{name}\(", text), name


def test_the_library_needs_no_python() -> None:
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("needs readelf, of binutils")
    ran = subprocess.run(
        [readelf, "--dynamic", "--wide", _library.LIBRARY], capture_output=True, text=True
    )
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", ran.stdout)
    assert "libtorch_cpu.so" in needed
    assert not [name for name in needed if "python" in name]


def test_every_operator_is_registered_and_tested() -> None:
    registered = {
        schema.name.removeprefix("torchquant::")
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("torchquant::")
    }
    assert registered == {*OPERATORS, "active_kernels"}


@pytest.mark.parametrize("name", [*OPERATORS, "active_kernels"])
def test_python_function_has_the_arguments_of_the_schema(name: str) -> None:
    """With `out`, a keyword that is None by default, where the operator has such an overload."""
    function = getattr(torchquant.ops, name)
    parameters = list(inspect.signature(function).parameters.values())
    schema = operator(name).default._schema
    if "out" in operator(name).overloads():
        assert [a.name for a in operator(name).out._schema.arguments] == [
            p.name for p in parameters
        ]
        out = parameters.pop()
        assert (out.kind, out.default) == (inspect.Parameter.KEYWORD_ONLY, None)
    assert [parameter.name for parameter in parameters] == [a.name for a in schema.arguments]
    for parameter, argument in zip(parameters, schema.arguments, strict=True):
        assert (parameter.kind is inspect.Parameter.KEYWORD_ONLY) == argument.kwarg_only
        if argument.has_default_value():
            # out_dtype's default is torch.float32 here and its number, 6, in a schema.
            default = parameter.default
            assert argument.default_value == (6 if default is torch.float32 else default)
        else:
            assert parameter.default is inspect.Parameter.empty
    assert function.__doc__


@pytest.mark.parametrize("name", OPERATORS)
def test_python_function_calls_the_operator(name: str) -> None:
    for sample in samples(name):
        function = getattr(torchquant.ops, name)
        result = outcome(name, sample.arguments, sample.keywords, call=function)
        assert_same(result, outcome_of(name, sample))
