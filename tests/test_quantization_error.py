"""quantization_error: max_error, mean_error, mse and snr_db, the same on any threads."""

from __future__ import annotations

import math
from typing import Any

import pytest
import reference
import torch
from operator_tests import OperatorTests, Results, assert_same, operator
from samples import BF16, F16, floats
from torch import Tensor

DYNAMIC = torch.export.Dim.DYNAMIC
DTYPES = [torch.float64, torch.float32, F16, BF16]


def quantization_error(original: Tensor, approximation: Tensor) -> Tensor:
    return operator("quantization_error")(original, approximation)


def assert_same_error(result: Tensor, expected: Tensor) -> None:
    """The first three to the last bit; snr_db goes through log10, which libraries round apart."""
    assert_same(result[:3], expected[:3])
    assert result.shape == (4,)
    assert result.is_contiguous()
    torch.testing.assert_close(result[3], expected[3], rtol=1e-14, atol=1e-14, equal_nan=True)


def check(original: Tensor, approximation: Tensor) -> None:
    expected = reference.quantization_error(original, approximation)
    assert_same_error(quantization_error(original, approximation), expected)


class TestQuantizationError(OperatorTests):
    name = "quantization_error"

    def assert_same(self, result: Results, expected: Results) -> None:
        assert isinstance(result, Tensor)
        assert isinstance(expected, Tensor)
        assert_same_error(result, expected)

    def exported(self) -> Any:
        rows = {0: DYNAMIC, 1: DYNAMIC}
        first = (floats(3, 5), floats(3, 5, seed=1))
        return quantization_error, first, (floats(9, 40), floats(9, 40, seed=1)), (rows, rows)


def test_the_four_values_written_out() -> None:
    original = torch.tensor([3.0, -4.0, 0.0, 5.0])
    approximation = torch.tensor([2.0, -4.0, 0.0, 8.0])
    max_error, mean_error, mse, snr_db = quantization_error(original, approximation).tolist()
    assert (max_error, mean_error, mse) == (3.0, 1.0, 2.5)
    # One ulp or so: log10 is not correctly rounded.
    assert snr_db == pytest.approx(10 * math.log10(50 / 10), rel=1e-15)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_length(dtype: torch.dtype) -> None:
    """Around a vector, a set of lanes and a block of 4096."""
    lengths = [*range(1, 131), 4079, 4080, 4081, 4095, 4096, 4097, 4112, 8191, 8192, 8193, 20000]
    for length in lengths:
        check(floats(length, seed=length).to(dtype), floats(length, seed=length + 1).to(dtype))


def test_sums_are_taken_in_blocks_and_lanes() -> None:
    """Sums in plain index order come out otherwise, so this order is seen to be taken."""
    x = floats(3 * 4096 + 100).double().exp()
    check(x, torch.zeros_like(x))
    expected = reference.quantization_error(x, torch.zeros_like(x))
    assert expected[1].item() != sum(x.tolist()) / len(x)


def test_the_order_of_the_elements_is_that_of_the_indices() -> None:
    x, y = floats(300, 70).double().exp(), floats(300, 70, seed=1).double()
    contiguous = quantization_error(x, y)
    assert_same(quantization_error(x.t().contiguous().t(), y), contiguous)
    assert_same(quantization_error(x, y.t().contiguous().t()), contiguous)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_any_number_of_threads_gives_the_same_bits(threads: int) -> None:
    x, y = floats(1_000_003).double().exp(), floats(1_000_003, seed=1).double()
    usual = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = quantization_error(x, y)
        torch.set_num_threads(threads)
        assert_same(quantization_error(x, y), expected)
    finally:
        torch.set_num_threads(usual)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("original_dtype", DTYPES)
def test_every_pair_of_dtypes(original_dtype: torch.dtype, dtype: torch.dtype) -> None:
    check(floats(999).to(original_dtype), floats(999, seed=1).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, 1.5, -3.0, 6e4])
def test_no_error_is_infinite_snr(dtype: torch.dtype, value: float) -> None:
    x = torch.full((77,), value, dtype=dtype)
    assert quantization_error(x, x.clone()).tolist() == [0, 0, 0, math.inf]


def test_an_error_whose_square_vanishes_is_an_error_all_the_same() -> None:
    x = torch.full((50,), 1e-200, dtype=torch.float64)
    assert quantization_error(x, 3 * x)[3].isnan()
    check(x, 3 * x)


def test_error_on_zeros_is_minus_infinite_snr() -> None:
    result = quantization_error(torch.zeros(77), torch.ones(77))
    assert result.tolist() == [1, 1, 1, -math.inf]


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_propagates_from_every_position(dtype: torch.dtype) -> None:
    """Into all four values, max_error too, which a plain comparison would lose."""
    for length in (1, 16, 37, 5000):
        for position in {0, 3, 15, length // 2, length - 1}:
            if position >= length:
                continue
            x, y = floats(length).to(dtype), floats(length, seed=1).to(dtype)
            bad = x.clone()
            bad[position] = math.nan
            assert quantization_error(bad, y).isnan().all()
            assert quantization_error(x, bad).isnan().all()


def test_infinities_propagate() -> None:
    x = floats(50)
    bad = x.clone()
    bad[33] = math.inf
    assert quantization_error(x, bad).tolist() == [math.inf, math.inf, math.inf, -math.inf]
    assert quantization_error(bad, bad.clone()).isnan().all()
    check(bad, x)


def test_float64_is_computed_in_float64() -> None:
    x = torch.full((100,), 1.0, dtype=torch.float64)
    assert quantization_error(x, x + 2.0**-50)[0] == 2.0**-50


def test_float32_differences_are_exact() -> None:
    """1e8 - 1 is no float32: the difference must be taken in float64."""
    result = quantization_error(torch.tensor([1e8]), torch.tensor([1.0]))
    assert result[0] == 1e8 - 1


def test_large_values_do_not_overflow() -> None:
    x = torch.full((50,), 3e38)
    check(x, -x)
    assert quantization_error(x, -x).isfinite().all()


def test_any_strides() -> None:
    base, other = floats(6, 8, 10), floats(6, 8, 10, seed=1)
    for view in (
        lambda x: x.transpose(0, 2),
        lambda x: x[::2, 1::3, ::4],
        lambda x: x[:1, :, :1].expand(5, 8, 7),
        lambda x: x[0, 0, 0],
        lambda x: x.flip(0),
        lambda x: x.as_strided((1, 8, 1), (0, 10, 0)),
        lambda x: x[None].contiguous(memory_format=torch.channels_last),
    ):
        check(view(base), view(other))
        check(view(base), view(other).contiguous())


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)])
def test_empty_tensors_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match="original must not be empty, but got shape"):
        quantization_error(torch.empty(shape), torch.empty(shape))
