"""Every operator on fixed inputs, and the recorded hashes of what it gives.

The inputs come from integers alone, so they are the same on every machine and with every release of
torch and NumPy. ``python tests/recorded_results.py`` records anew: where a hash changes, what the
operator computes has changed, and that is a decision.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import torchquant  # noqa: F401  loads torch.ops.torchquant

TABLE = Path(__file__).parent / "data" / "results.json"
ROWS, DEPTH, FEATURES = 37, 135, 45  # no multiples of any vector's width


def _integers(count: int, seed: int) -> np.ndarray:
    """The upper 24 bits of a linear congruential generator's uint32."""
    state, states = seed, []
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        states.append(state >> 8)
    return np.array(states, dtype=np.int64)


def _floats(rows: int, columns: int, seed: int) -> Tensor:
    """From -8 to 8, magnitudes of many kinds, ties among them; a last row with NaN and Inf."""
    bits = _integers(rows * columns, seed)
    values = (bits - 2**23).astype(np.float64) * 2.0 ** (-20 - bits % 7)
    values[::11] = np.rint(values[::11]) / 2
    table = torch.from_numpy(values.astype(np.float32)).reshape(rows, columns)
    table[-1, 3], table[-1, 70], table[-1, 71] = torch.nan, torch.inf, -torch.inf
    return table


def _bytes(rows: int, columns: int, seed: int) -> Tensor:
    values = (_integers(rows * columns, seed) >> 16).astype(np.uint8)
    return torch.from_numpy(values).reshape(rows, columns)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """float32 [37, 135] with a last row that is not finite, uint8 [37, 135], int8 [45, 135]."""
    weight = _bytes(FEATURES, DEPTH, 3).view(torch.int8)
    return _floats(ROWS, DEPTH, 1), _bytes(ROWS, DEPTH, 2), weight


class EveryOperator(nn.Module):
    """Every result, one behind the other, in float64, which holds all of them exactly."""

    def results(self, x: Tensor, a: Tensor, weight: Tensor) -> list[Tensor]:
        ops = torch.ops.torchquant
        every: list[Tensor] = []
        finite = x[:-1]
        # Chosen parameters, of all granularities, with the row that is not finite and without it.
        scale, zero = ops.choose_qparams_per_tensor(finite, 0, 255, False)
        scales, zeros = ops.choose_qparams_per_channel(x, 0, -128, 127, True)
        group_scales, group_zeros = ops.choose_qparams_per_group(x, 32, -8, 7, False)
        token_scales, token_zeros = ops.choose_qparams_per_token(x, 0, 65535, False)
        every += [scale, zero, scales, zeros, group_scales, group_zeros, token_scales, token_zeros]
        # Codes of all four dtypes.
        codes = ops.quantize_per_tensor(x, scale, zero, 0, 255, torch.uint8)
        channel = ops.quantize_per_channel(x, scales, zeros, 0, -128, 127, torch.int8)
        group = ops.quantize_per_group(x, group_scales, group_zeros, 32, -8, 7, torch.int16)
        token = ops.quantize_per_token(x, token_scales, token_zeros, 0, 65535, torch.int32)
        every += [codes, channel, group, token]
        for dtype in [torch.float16, torch.bfloat16]:
            every.append(ops.quantize_per_tensor(x.to(dtype), scale, zero, 0, 255, torch.uint8))
        # And back, to all three.
        every.append(ops.dequantize_per_tensor(codes, scale, zero, out_dtype=torch.float32))
        every.append(ops.dequantize_per_channel(channel, scales, zeros, 0, out_dtype=torch.float16))
        every.append(ops.dequantize_per_group(group, group_scales, group_zeros, 32))
        every.append(
            ops.dequantize_per_token(token, token_scales, token_zeros, out_dtype=torch.bfloat16)
        )
        every += ops.quantize_dynamic_per_tensor(finite, 0, 255, False, torch.uint8)
        every += ops.quantize_dynamic_per_token(x, -128, 127, True, torch.int8)
        every += ops.quantize_dynamic_per_group(x, 32, 0, 15, False, torch.uint8)
        # Training.
        every.append(ops.fake_quantize_per_tensor(x, scale, zero, 0, 100))
        every.append(ops.fake_quantize_per_channel(x, scales, zeros, 0, -100, 100))
        every += ops.fake_quantize_per_tensor_backward(finite, finite, scale, zero, 0, 100, True)
        every += ops.fake_quantize_per_channel_backward(x, x, scales, zeros, 0, -9, 9, True)
        every.append(ops.quantization_error(finite, finite.to(torch.bfloat16)))
        # Storage.
        packed = ops.pack_weight(weight)
        bits = ops.pack_bits(a & 7, 3)
        every += [packed, ops.unpack_weight(packed, weight.size(0), weight.size(1))]
        every += [bits, ops.unpack_bits(bits, 3, a.size(1), torch.uint8)]
        # Products and layers.
        sums = weight.sum(1).to(torch.int32)
        weight_scale = torch.abs(finite[0, : weight.size(0)]) + 0.01
        bias = finite[1, : weight.size(0)]
        every.append(ops.int8_matmul(a, weight.t()))
        every.append(ops.int8_matmul(weight, a.t()))
        every.append(ops.int8_matmul_packed(a, packed, weight.size(0), sums))
        every.append(ops.linear_dynamic(x, packed, weight_scale, sums, bias, "none"))
        for dtype in [torch.float16, torch.bfloat16]:
            every.append(ops.linear_dynamic(x.to(dtype), packed, weight_scale, sums, None, "relu"))
        every.append(ops.linear_static(x, scale, zero, packed, weight_scale, sums, bias, "relu"))
        every.append(
            ops.linear_static(
                a, scale, zero, packed, weight_scale, sums, bias, "none", scale * 100, zero, None
            )
        )
        # Calibration.
        counts = torch.zeros(32768, dtype=torch.int64, device=x.device)
        ends = torch.tensor([torch.inf, -torch.inf], device=x.device)
        ops.histogram_observe_(counts, ends, finite)
        every += [counts, ends]
        for method in ["minmax", "percentile", "mse", "entropy"]:
            every += ops.histogram_qparams(counts, ends, 0, 255, False, method, 99.0)
        return every

    def forward(self, x: Tensor, a: Tensor, weight: Tensor) -> Tensor:
        flat: list[Tensor] = []
        for result in self.results(x, a, weight):
            flat.append(result.reshape(-1).to(torch.float64))
        return torch.cat(flat)


# What EveryOperator.results lists, in its order.
NAMES = [
    *("scale per tensor", "zero point per tensor", "scale per channel", "zero point per channel"),
    *("scale per group", "zero point per group", "scale per token", "zero point per token"),
    *("quantize per tensor, uint8", "quantize per channel, int8"),
    *("quantize per group, int16", "quantize per token, int32"),
    *("quantize float16", "quantize bfloat16"),
    *("dequantize to float32", "dequantize to float16", "dequantize per group"),
    "dequantize to bfloat16",
    *("dynamic per tensor", "its scale", "its zero point"),
    *("dynamic per token", "scales of tokens", "zero points of tokens"),
    *("dynamic per group", "scales of groups", "zero points of groups"),
    *("fake quantize per tensor", "fake quantize per channel"),
    *("gradient per tensor", "gradient of the scale"),
    *("gradient per channel", "gradient of the scales"),
    "quantization error",
    *("packed weight", "unpacked weight", "packed bits", "unpacked bits"),
    *("uint8 x int8", "int8 x uint8", "uint8 x packed weight"),
    *("linear dynamic, float32", "linear dynamic, float16", "linear dynamic, bfloat16"),
    *("linear static", "linear static, 8 bits to 8 bits"),
    *("histogram counts", "histogram range"),
    *("scale of minmax", "zero point of minmax"),
    *("scale of percentile", "zero point of percentile"),
    *("scale of mse", "zero point of mse"),
    *("scale of entropy", "zero point of entropy"),
]


def _hash(result: Tensor) -> str:
    """Of the bytes, any NaN counted as the one of ``torch.nan``: which it is, is not promised."""
    if result.is_floating_point():
        result = torch.where(result.isnan(), torch.full_like(result, torch.nan), result)
    return hashlib.sha256(result.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


def hashes(flat: Tensor) -> dict[str, str]:
    """The hash of each result in its own dtype, by its name, of what EveryOperator gave."""
    results = EveryOperator().results(*inputs())
    pieces = flat.split([result.numel() for result in results])
    return {
        name: _hash(piece.to(result.dtype))
        for name, result, piece in zip(NAMES, results, pieces, strict=True)
    }


if __name__ == "__main__":
    TABLE.write_text(json.dumps(hashes(EveryOperator()(*inputs())), indent=1) + "\n")
