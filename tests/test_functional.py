"""The tutorial-level functions, against the contract in numpy and float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from torchquant import functional

ALL_BITS = range(2, 17)
HALVES = [torch.float16, torch.bfloat16]


def quantized(
    x: Tensor, scale: Tensor, zero_point: int, quant_min: int, quant_max: int
) -> npt.NDArray[Any]:
    steps = x.float().numpy() * (np.float32(1) / scale.numpy())
    rounded = np.rint(steps.astype(np.float64)) + zero_point
    return np.asarray(np.clip(rounded, quant_min, quant_max))


def assert_integers(q: Tensor, expected: npt.NDArray[Any]) -> None:
    np.testing.assert_array_equal(q.numpy().astype(np.float64), expected)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(7, 33) * 3 + 1


class TestSymmetric:
    @pytest.mark.parametrize("num_bits", ALL_BITS)
    def test_follows_the_equation(self, x: Tensor, num_bits: int) -> None:
        q, scale = functional.symmetric_quantize(x, num_bits)
        half = 2 ** (num_bits - 1)
        assert q.shape == x.shape
        assert q.dtype == (torch.int8 if num_bits <= 8 else torch.int16)
        assert scale.shape == ()
        assert scale.item() == np.float32(x.abs().max().double().item() / (half - 1))
        assert_integers(q, quantized(x, scale, 0, -half, half - 1))

    @pytest.mark.parametrize("num_bits", ALL_BITS)
    def test_is_undone_within_half_a_step(self, x: Tensor, num_bits: int) -> None:
        q, scale = functional.symmetric_quantize(x, num_bits)
        restored = functional.symmetric_dequantize(q, scale)
        assert restored.dtype == torch.float32
        assert (restored - x).abs().max() <= 0.5001 * scale

    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    def test_takes_half_types(self, x: Tensor, dtype: torch.dtype) -> None:
        half = x.to(dtype)
        q, scale = functional.symmetric_quantize(half)
        assert torch.equal(q, functional.symmetric_quantize(half.float())[0])
        assert scale.dtype == torch.float32

    def test_takes_strides(self, x: Tensor) -> None:
        q, _ = functional.symmetric_quantize(x.t())
        assert torch.equal(q, functional.symmetric_quantize(x.t().contiguous())[0])

    def test_refuses_float64_and_says_what_to_do(self) -> None:
        with pytest.raises(RuntimeError, match=r"\.float\(\)"):
            functional.symmetric_quantize(torch.ones(3, dtype=torch.float64))


class TestAsymmetric:
    @pytest.mark.parametrize("num_bits", ALL_BITS)
    def test_follows_the_equation(self, x: Tensor, num_bits: int) -> None:
        q, scale, zero_point = functional.asymmetric_quantize(x, num_bits)
        levels = 2**num_bits - 1
        low, high = x.double().min().item(), x.double().max().item()
        wide = torch.int16 if num_bits <= 15 else torch.int32
        assert q.dtype == (torch.uint8 if num_bits <= 8 else wide)
        assert scale.item() == np.float32((high - low) / levels)
        assert zero_point.dtype == torch.int32
        assert zero_point.item() == np.rint(-low / ((high - low) / levels))
        assert_integers(q, quantized(x, scale, int(zero_point), 0, levels))

    @pytest.mark.parametrize("num_bits", ALL_BITS)
    def test_is_undone_within_a_step(self, x: Tensor, num_bits: int) -> None:
        q, scale, zero_point = functional.asymmetric_quantize(x, num_bits)
        restored = functional.asymmetric_dequantize(q, scale, zero_point)
        # Half a step, and another at the ends for the rounding of the zero point.
        assert (restored - x).abs().max() <= 1.0001 * scale

    @pytest.mark.parametrize("offset", [10.0, -10.0], ids=["positive", "negative"])
    def test_keeps_zero_exact(self, x: Tensor, offset: float) -> None:
        x = torch.cat([x.flatten() + offset, torch.zeros(1)])
        restored = functional.asymmetric_dequantize(*functional.asymmetric_quantize(x, 4))
        assert restored[-1] == 0


class TestPerChannel:
    @pytest.mark.parametrize("dim", [0, 1, 2, -1, -2, -3])
    @pytest.mark.parametrize("num_bits", [2, 8, 16])
    def test_is_symmetric_on_each_slice(self, num_bits: int, dim: int) -> None:
        x = torch.randn(3, 4, 5) * torch.tensor([0.1, 1, 10]).view(3, 1, 1)
        q, scales = functional.per_channel_quantize(x, num_bits, dim)
        restored = functional.per_channel_dequantize(q, scales, dim)
        assert scales.shape == (x.size(dim),)
        for channel in range(x.size(dim)):
            q_slice, scale = functional.symmetric_quantize(x.select(dim, channel), num_bits)
            assert torch.equal(q.select(dim, channel), q_slice)
            assert torch.equal(scales[channel], scale)
            expected = functional.symmetric_dequantize(q_slice, scale)
            assert torch.equal(restored.select(dim, channel), expected)

    @pytest.mark.parametrize("dim", [2, -3])
    def test_refuses_a_dimension_that_is_not_there(self, x: Tensor, dim: int) -> None:
        with pytest.raises(RuntimeError, match=r"must lie in \[-2, 1\]"):
            functional.per_channel_quantize(x, dim=dim)

    def test_refuses_a_wrong_number_of_scales(self, x: Tensor) -> None:
        q, scales = functional.per_channel_quantize(x)
        with pytest.raises(RuntimeError, match="scale must have shape"):
            functional.per_channel_dequantize(q, scales, dim=1)


class TestNumBits:
    @pytest.mark.parametrize("num_bits", [1, 17, 0, -8, True, 8.0, "8", None])
    @pytest.mark.parametrize(
        "quantize",
        [
            functional.symmetric_quantize,
            functional.asymmetric_quantize,
            functional.per_channel_quantize,
        ],
    )
    def test_refuses_what_is_not_2_to_16(
        self, quantize: Callable[..., object], num_bits: object
    ) -> None:
        with pytest.raises(ValueError, match=r"num_bits must be .* 2 to 16") as error:
            quantize(torch.ones(2, 2), num_bits)
        assert repr(num_bits) in str(error.value)
        assert "num_bits=8" in str(error.value)


class TestError:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES], ids=str)
    def test_follows_the_equations(self, x: Tensor, dtype: torch.dtype) -> None:
        original, approximation = x.to(dtype), (x + torch.randn_like(x) * 0.01).to(dtype)
        error = functional.compute_quantization_error(original, approximation)
        a, b = original.double().numpy(), approximation.double().numpy()
        mse = ((a - b) ** 2).mean()
        expected = {
            "max_error": np.abs(a - b).max(),
            "mean_error": np.abs(a - b).mean(),
            "mse": mse,
            "snr_db": 10 * math.log10((a**2).mean() / mse),
        }
        assert error == pytest.approx(expected, rel=1e-12)
        assert all(type(value) is float for value in error.values())

    @pytest.mark.parametrize("value", [0.0, 2.5])
    def test_no_error_is_an_infinite_ratio(self, value: float) -> None:
        x = torch.full((5,), value)
        error = functional.compute_quantization_error(x, x)
        assert error == {"max_error": 0, "mean_error": 0, "mse": 0, "snr_db": math.inf}

    def test_refuses_empty_tensors(self) -> None:
        with pytest.raises(RuntimeError, match="empty"):
            functional.compute_quantization_error(torch.empty(0), torch.empty(0))
