"""Results are the recorded ones: for every kernel set, number of threads, layout and road."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from recorded_results import TABLE, EveryOperator, hashes, inputs
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
RECORDED = json.loads(TABLE.read_text())


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_any_number_of_threads_gives_the_recorded_results(threads: int) -> None:
    torch.set_num_threads(threads)
    assert hashes(EveryOperator()(*inputs())) == RECORDED


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.t().contiguous().t()


def _with_gaps(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, tensor], -1)[..., 0]


@pytest.mark.parametrize("layout", [_transposed, _with_gaps])
def test_any_layout_gives_the_recorded_results(layout: Callable[[Tensor], Tensor]) -> None:
    assert hashes(EveryOperator()(*map(layout, inputs()))) == RECORDED


def _scripted() -> Callable[..., Tensor]:
    return torch.jit.script(EveryOperator())


def _exported() -> Callable[..., Tensor]:
    return torch.export.export(EveryOperator(), inputs()).module()


def _compiled() -> Callable[..., Tensor]:
    torch.compiler.reset()
    return torch.compile(EveryOperator(), backend="aot_eager")


@pytest.mark.parametrize("road", [_scripted, _exported, _compiled])
def test_every_road_gives_the_recorded_results(road: Callable[[], Callable[..., Tensor]]) -> None:
    assert hashes(road()(*inputs())) == RECORDED


def test_cpp_gives_the_recorded_results(programs: Path, tmp_path: Path) -> None:
    torch.jit.script(EveryOperator()).save(str(tmp_path / "model.pt"))
    torch.save(inputs(), tmp_path / "inputs.pt")
    command = [str(programs / "run_model"), "model.pt", "inputs.pt", "output.pt"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert hashes(torch.load(tmp_path / "output.pt")) == RECORDED


def test_another_result_is_noticed() -> None:
    """The last bit of one of them."""
    flat = EveryOperator()(*inputs())
    flat[0] = torch.nextafter(flat[0].float(), torch.tensor(torch.inf))
    changed = hashes(flat)
    assert [name for name in RECORDED if changed[name] != RECORDED[name]] == ["scale per tensor"]


def test_every_operator_is_recorded() -> None:
    """An operator added later belongs in the table."""

    class Recorder(TorchDispatchMode):
        called: ClassVar[set[str]] = set()

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.called.add(func.name().split(".")[0])
            return func(*args, **kwargs or {})

    with Recorder():
        EveryOperator()(*inputs())
    registered = {
        schema.name
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("torchquant::") and not schema.overload_name
    }
    assert registered - Recorder.called == {"torchquant::active_kernels"}
