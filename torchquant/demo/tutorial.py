"""Six demonstrations of what quantization costs and saves, on real integer tensors and kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from torchquant import functional, ops
from torchquant.demo.report import Section, Value

SEED = 42
_SCALE_BYTES = 4


def _normal(*shape: int, seed: int = SEED) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _stored(q: Tensor, num_bits: int) -> Tensor:
    """Return what a file would hold: packed bits below a byte, else the integers themselves."""
    return ops.pack_bits(q, num_bits) if num_bits < 8 else q


def _bit_depth_row(x: Tensor, num_bits: int) -> dict[str, Value]:
    """Quantize, store, read back from what was stored, and measure."""
    q, scale = functional.symmetric_quantize(x, num_bits)
    stored = _stored(q, num_bits)
    if num_bits < 8:
        q = ops.unpack_bits(stored, num_bits, x.size(-1), torch.int8)
    size = _num_bytes(stored) + _SCALE_BYTES
    error = functional.compute_quantization_error(x, functional.symmetric_dequantize(q, scale))
    return {
        "bits": num_bits,
        "scale": scale.item(),
        "bytes": size,
        "compression": _num_bytes(x) / size,
        **error,
    }


def symmetric() -> Section:
    """Symmetric INT8 and INT4 of 1,000 normal values."""
    x = _normal(1000) * 10
    return Section(
        "symmetric",
        "Symmetric quantization of randn(1000) * 10",
        [_bit_depth_row(x, num_bits) for num_bits in (8, 4)],
        {"float32_bytes": _num_bytes(x)},
    )


def symmetric_vs_asymmetric() -> Section:
    """A ReLU output never is negative, so symmetric leaves half of its levels unused."""
    x = torch.relu(_normal(1000) * 5 + 2)
    q, scale = functional.symmetric_quantize(x)
    u, u_scale, zero_point = functional.asymmetric_quantize(x)
    results = {
        "symmetric": (q, scale, 0, functional.symmetric_dequantize(q, scale)),
        "asymmetric": (
            u,
            u_scale,
            int(zero_point.item()),
            functional.asymmetric_dequantize(u, u_scale, zero_point),
        ),
    }
    errors = {
        scheme: functional.compute_quantization_error(x, restored)
        for scheme, (*_, restored) in results.items()
    }
    rows: list[dict[str, Value]] = [
        {
            "scheme": scheme,
            "scale": step.item(),
            "zero_point": zero,
            "smallest": int(integers.min()),
            "largest": int(integers.max()),
            **errors[scheme],
        }
        for scheme, (integers, step, zero, _) in results.items()
    ]
    gain = errors["asymmetric"]["snr_db"] - errors["symmetric"]["snr_db"]
    return Section(
        "symmetric_vs_asymmetric",
        "Symmetric against asymmetric INT8 of relu(randn(1000) * 5 + 2)",
        rows,
        {"gain_db": gain},
    )


def per_tensor_vs_per_channel() -> Section:
    """One scale for all rows is the scale of the largest, and drowns the small ones."""
    weight = _normal(256, 512)
    weight[:64] *= 10
    weight[64:128] *= 0.1
    q, scale = functional.symmetric_quantize(weight)
    rows_q, scales = functional.per_channel_quantize(weight)
    restored = {
        "per tensor": (1, functional.symmetric_dequantize(q, scale)),
        "per channel": (scales.numel(), functional.per_channel_dequantize(rows_q, scales)),
    }
    error = functional.compute_quantization_error
    rows: list[dict[str, Value]] = [
        {
            "granularity": granularity,
            "scales": count,
            **error(weight, approximation),
            "small_rows_snr_db": error(weight[64:128], approximation[64:128])["snr_db"],
        }
        for granularity, (count, approximation) in restored.items()
    ]
    snr = [error(weight, approximation)["snr_db"] for _, approximation in restored.values()]
    return Section(
        "per_tensor_vs_per_channel",
        "Per-tensor against per-channel INT8 of a 256x512 weight, rows 0-63 x10, rows 64-127 x0.1",
        rows,
        {"gain_db": snr[1] - snr[0]},
    )


def bit_depths() -> Section:
    """Each bit more is worth about 6 dB and costs its bytes."""
    x = _normal(1000) * 10
    return Section(
        "bit_depths",
        "Bit depths: size as stored (packed bits and the scale) and what is lost",
        [_bit_depth_row(x, num_bits) for num_bits in (2, 4, 8, 16)],
        {"float32_bytes": _num_bytes(x)},
    )


def _calibration_row(method: str, x: Tensor, threshold: Tensor) -> dict[str, Value]:
    clipped = x.clamp(-threshold, threshold)
    scale, zero_point = ops.choose_qparams_per_tensor(clipped, -128, 127, True)
    q = ops.quantize_per_tensor(x, scale, zero_point, -128, 127, torch.int8)
    restored = ops.dequantize_per_tensor(q, scale, zero_point)
    against_original = functional.compute_quantization_error(x, restored)
    against_clipped = functional.compute_quantization_error(clipped, restored)
    inside = x.abs() <= threshold
    return {
        "method": method,
        "threshold": threshold.item(),
        "snr_db_against_original": against_original["snr_db"],
        "snr_db_against_clipped": against_clipped["snr_db"],
        "mean_error_inside": functional.compute_quantization_error(x[inside], restored[inside])[
            "mean_error"
        ],
    }


def calibration() -> Section:
    """Clipping outliers makes a finer step, and its SNR depends on what one compares with."""
    x = _normal(10000)
    x[::1000] *= 30
    absolute = x.abs()
    return Section(
        "calibration",
        "Min-max against 99th-percentile calibration, INT8, 10,000 normal values, 10 of them x30",
        [
            _calibration_row("min-max", x, absolute.max()),
            _calibration_row("99th percentile", x, torch.quantile(absolute, 0.99)),
        ],
        note=(
            "Against the clipped tensor the outliers are forgotten; against the original one they "
            "count."
        ),
    )


def matmul() -> Section:
    """INT8 x INT8 with an exact int32 result, then one multiplication by both scales."""
    a, b = _normal(64, 128), _normal(128, 256, seed=SEED + 1)
    qa, scale_a = functional.symmetric_quantize(a)
    qb, scale_b = functional.symmetric_quantize(b)
    product = ops.int8_matmul(qa, qb).float() * (scale_a * scale_b)
    exact = a.double() @ b.double()
    error = functional.compute_quantization_error(exact, product)
    relative = (exact - product).norm() / exact.norm()
    float_bytes = _num_bytes(a) + _num_bytes(b)
    int8_bytes = _num_bytes(qa) + _num_bytes(qb) + 2 * _SCALE_BYTES
    return Section(
        "matmul",
        "INT8 matmul, 64x128 by 128x256, against float64",
        [
            {
                **error,
                "relative_error": relative.item(),
                "float32_bytes": float_bytes,
                "int8_bytes": int8_bytes,
                "memory_saved": 1 - int8_bytes / float_bytes,
            }
        ],
        {"kernels": ops.active_kernels()},
    )


DEMONSTRATIONS: tuple[Callable[[], Section], ...] = (
    symmetric,
    symmetric_vs_asymmetric,
    per_tensor_vs_per_channel,
    bit_depths,
    calibration,
    matmul,
)


def sections() -> Iterator[Section]:
    """Run the six demonstrations, one after the other."""
    for demonstration in DEMONSTRATIONS:
        yield demonstration()
