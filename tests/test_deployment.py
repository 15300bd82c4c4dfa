"""docs/deployment.md: its code runs, and its format is what is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pages import DOCS, code_of
from safetensors import safe_open

from torchquant.layer_entry import SCHEMES, LayerEntry
from torchquant.nn import StaticLinear

pytestmark = pytest.mark.any_kernels

PAGE = DOCS / "deployment.md"


def test_the_code_runs_and_its_format_is_that_of_the_page(tmp_path: Path) -> None:
    code = code_of(PAGE.read_text())
    assert code.count("assert ") >= 8
    (tmp_path / "deployment.py").write_text(code)
    # TorchScript warns that it is deprecated.
    command = [sys.executable, "-W", "ignore", "deployment.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    _, _, rest = PAGE.read_text().partition("```json\n")
    shown = json.loads(rest.partition("```")[0])
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        written = json.loads(file.metadata()["torchquant"])
    assert list(shown) == list(written)
    for key in ("format", "version", "aliases"):
        assert shown[key] == written[key]
    shown_layer, layer = shown["layers"]["0"], written["layers"]["0"]
    # The weights are random.
    assert abs(shown_layer.pop("weight_snr_db") - layer.pop("weight_snr_db")) < 3
    assert shown_layer.items() == layer.items()


def test_every_entry_and_tensor_is_on_the_page() -> None:
    layer = StaticLinear(4, 4, requantize=True)
    page = PAGE.read_text()
    names = [*LayerEntry.of(layer).as_json(), *layer.state_dict(), *SCHEMES]
    assert [name for name in names if name not in page] == []
