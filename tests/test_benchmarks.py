"""The benchmarks run, are right where they claim to be, and name what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.any_kernels

MATMUL = Path(__file__).parent.parent / "benchmarks" / "matmul.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(MATMUL), *arguments], capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    only = ("linear_*", "int8_*", "F.linear *", "torch._int_mm", "OpenVINO *")
    ran = run("--quick", "--shape", "5,33,17", "--threads", "1", "--json", "-", "--only", *only)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = report["rows"]
    return found


def test_ours_are_measured_and_right(report: dict[str, Any]) -> None:
    ours = {row["contender"]: row for row in rows(report) if row["kernels"]}
    assert set(ours) == {
        "int8_matmul",
        "int8_matmul_packed",
        "linear_static uint8 to float32",
        "linear_static uint8 to uint8",
        "linear_static float32 to float32",
        "linear_static float32 to uint8",
        "linear_dynamic float32",
        "linear_dynamic bfloat16",
    }
    for name, row in ours.items():
        assert 0 < row["least"] <= row["seconds"] <= row["greatest"]
        assert row["gops"] == pytest.approx(2 * 5 * 33 * 17 / row["seconds"] / 1e9)
        # The products are exact; a layer quantizes its input or output to 8 bits: about 1 %.
        assert row["error"] <= (0 if name.startswith("int8") else 0.03)
        assert not row["wrong"]
    assert ours["linear_static float32 to uint8"]["dtypes"] == "f32 -> u8"


def test_ours_are_set_against_the_peers_of_the_run(report: dict[str, Any]) -> None:
    peers = [row for row in rows(report) if not row["kernels"]]
    assert {"F.linear float32", "torch._int_mm"} <= {row["contender"] for row in peers}
    quickest = min(row["seconds"] for row in peers)
    for row in rows(report):
        if row["kernels"]:
            assert row["vs_any"] == pytest.approx(quickest / row["seconds"])


def test_what_does_not_run_is_named(report: dict[str, Any]) -> None:
    """OpenVINO is optional: it is measured or named as missing, with a reason."""
    absent = {absence["contender"]: absence["reason"] for absence in report["missing"]}
    measured = {row["contender"] for row in rows(report)}
    for name in ("OpenVINO static", "OpenVINO dynamic"):
        assert name in measured or absent[name]


def test_an_unknown_contender_is_refused() -> None:
    ran = run("--only", "no such thing")
    assert ran.returncode != 0
    assert "no contender here is named 'no such thing'" in ran.stderr


def test_a_shape_that_is_none_is_refused() -> None:
    ran = run("--shape", "3,4")
    assert ran.returncode != 0
    assert "a shape is M,K,N, three positive numbers, but this is '3,4'" in ran.stderr
