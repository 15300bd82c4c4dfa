"""What a card is said to give at best, and the bandwidth of a copy that it gives in this run."""

from __future__ import annotations

import ctypes
import datetime
import math
import re
import shutil
import statistics
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from cuda_timing import EventClock, EventStopwatch

from torchquant import ops

_COPY_BYTES = 1 << 30
_COPY_SAMPLES = 9
_OPERATOR = "torchquant::quantize_per_tensor"
_WARM_SAMPLES = 60  # some 100 ms, in which the clocks rise

# 10^12 operations a second of dense INT8 tensor-core products, two to a multiply-add, as the
# makers' data sheets give them. What is not here by this very name is left out.
_INT8_TOPS = {
    r"Tesla T4|T4": 130,
    r"A10": 250,
    r"A100[- ].*": 624,
    r"L4": 242,
    r"L40S": 733,
    r"H100 80GB HBM3|H100 SXM.*|H200": 1979,
    r"H100 PCIe": 1513,
    r"GeForce RTX 4090": 660,
    r"B200": 4500,
}
# GB/s, where the driver does not tell the memory's clock and width.
_MEMORY = {
    r"Tesla T4|T4": 320,
    r"A10": 600,
    r"A100[- ].*40GB": 1555,
    r"A100[- ].*80GB": 2039,
    r"L4": 300,
    r"L40S": 864,
    r"H100 80GB HBM3|H100 SXM.*": 3350,
    r"H100 PCIe": 2039,
    r"H200": 4800,
    r"GeForce RTX 4090": 1008,
    r"B200": 8000,
}
_CLOCK_ATTRIBUTE, _WIDTH_ATTRIBUTE = 36, 37  # CU_DEVICE_ATTRIBUTE_*, kHz and bits


def by_name(figures: Mapping[str, float], name: str) -> float:
    """Return the figure of a card's name, NaN where there is none, or for a part of a card."""
    if "MIG" in name:
        return math.nan
    bare = name.removeprefix("NVIDIA ").strip()
    found = (figure for pattern, figure in figures.items() if re.fullmatch(pattern, bare))
    return next(found, math.nan)


def int8_tops(name: str) -> float:
    """Return the dense INT8 peak of a card, in 10^12 operations a second, or NaN."""
    return by_name(_INT8_TOPS, name)


def _driver_attribute(attribute: int, index: int) -> int:
    """Ask the driver itself, for PyTorch built with CUDA 13 may not tell; 0 where it does not."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        value, device = ctypes.c_int(0), ctypes.c_int(0)
        failed = (
            driver.cuInit(0)
            or driver.cuDeviceGet(ctypes.byref(device), index)
            or driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        )
    except (OSError, AttributeError):
        return 0
    return 0 if failed else value.value


def nominal_bandwidth(kilohertz: int, bits: int, name: str) -> tuple[float, str]:
    """Return GB/s, of two transfers a clock or else by the card's name, and where it is from."""
    if kilohertz > 0 and bits > 0:
        gigabytes = 2 * kilohertz * 1e3 * bits / 8 / 1e9
        return gigabytes, f"2 x {kilohertz / 1e3:,.0f} MHz x {bits:,} bits"
    gigabytes = by_name(_MEMORY, name)
    return gigabytes, "" if math.isnan(gigabytes) else "its data sheet"


def _driver_version() -> str:
    if not (command := shutil.which("nvidia-smi")):
        return "unknown"
    query = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        ran = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return (ran.stdout.split() or ["unknown"])[0]


@dataclass(frozen=True)
class Card:
    """A device.

    Attributes:
        nominal: Bandwidth of its memory in GB/s by its data; NaN where that is not known.
        nominal_source: From what.
        peak_tops: 10^12 dense INT8 operations a second by its data, or NaN.
        copy: GB/s of a large `copy_` from memory to memory, bytes in and out; of this run.
    """

    device: torch.device
    name: str
    driver: str
    multiprocessors: int
    memory_bytes: int
    cache_bytes: int
    nominal: float = math.nan
    nominal_source: str = ""
    peak_tops: float = math.nan
    copy: float = math.nan


def read_card(peak_tops: float | None) -> Card:
    """Return the current CUDA device, with the peak that is given, or that of its name."""
    index = torch.cuda.current_device()
    properties = torch.cuda.get_device_properties(index)
    clock = getattr(properties, "memory_clock_rate", 0) or _driver_attribute(
        _CLOCK_ATTRIBUTE, index
    )
    width = getattr(properties, "memory_bus_width", 0) or _driver_attribute(_WIDTH_ATTRIBUTE, index)
    nominal, source = nominal_bandwidth(clock, width, properties.name)
    return Card(
        device=torch.device("cuda", index),
        name=properties.name,
        driver=_driver_version(),
        multiprocessors=properties.multi_processor_count,
        memory_bytes=properties.total_memory,
        cache_bytes=properties.L2_cache_size,
        nominal=nominal,
        nominal_source=source,
        peak_tops=int8_tops(properties.name) if peak_tops is None else peak_tops,
    )


def measure_copy(card: Card, clock: EventClock) -> float:
    """Return the GB/s of `copy_` from memory to memory, in and out, once the clocks have risen."""
    count = min(_COPY_BYTES, card.memory_bytes // 8)
    source = torch.ones(count, dtype=torch.uint8, device=card.device)
    target = torch.empty_like(source)
    watch = EventStopwatch([lambda: target.copy_(source)], clock)
    for _ in range(_WARM_SAMPLES):
        watch()
    seconds = statistics.median(watch() for _ in range(_COPY_SAMPLES))
    return 2 * count / seconds / 1e9


def why_not() -> str:
    """Return why there is nothing to measure here, with what to do; nothing where there is."""
    if not torch.cuda.is_available():
        built = torch.version.cuda
        cause = f"this one is built for CUDA {built}" if built else "this one is built without CUDA"
        return (
            "no CUDA device to measure on: torch.cuda.is_available() is False. It takes an NVIDIA "
            f"card, its driver, and a PyTorch built for CUDA; torch {torch.__version__}, {cause}."
        )
    if not torch._C._dispatch_has_kernel_for_dispatch_key(_OPERATOR, "CUDA"):
        return (
            f"this torchquant has no CUDA kernels: {_OPERATOR} has none. Build it "
            "with TORCHQUANT_CUDA=ON (cmake -DTORCHQUANT_CUDA=ON), where CUDA's compiler is."
        )
    return ""


def describe(card: Card, rounds: int) -> dict[str, object]:
    """Return what a run is about, as it stands above the tables."""
    nominal = "unknown"
    if not math.isnan(card.nominal):
        nominal = f"{card.nominal:,.0f} GB/s ({card.nominal_source})"
    peak = "unknown" if math.isnan(card.peak_tops) else f"{card.peak_tops:,.0f} TOPS, dense"
    return {
        "card": card.name,
        "driver": card.driver,
        "multiprocessors": card.multiprocessors,
        "memory": f"{card.memory_bytes / 2**30:.0f} GiB, nominally {nominal}",
        "copy_": f"{card.copy:,.0f} GB/s, in and out",
        "L2": f"{card.cache_bytes / 2**20:.0f} MiB",
        "INT8 peak": peak,
        "torch": torch.__version__,
        "CUDA": torch.version.cuda or "none",
        "CPU kernels": ops.active_kernels(),
        "date": datetime.date.today().isoformat(),
        "rounds": rounds,
    }
