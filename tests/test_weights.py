"""Scales of weights: max|w| / 127, or those of least squared error over each row."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from operator_tests import assert_same
from samples import BF16, F16, I8, floats
from torch import Tensor, nn

from torchquant.weights import (
    MAX_IN_FEATURES,
    check_quantizable,
    check_weight_method,
    quantize_weight,
)

SHARES = [2 ** (-step / 32) for step in range(65)]


def squared_error(row: Tensor, scale: float) -> float:
    w, s = row.numpy(), np.float32(scale)
    codes = np.clip(np.rint((w * (np.float32(1) / s)).astype(np.float64)), -128, 127)
    restored = codes.astype(np.float32) * s
    return float(((restored.astype(np.float64) - w.astype(np.float64)) ** 2).sum())


def long_tailed() -> Tensor:
    """1, 4 and 16 weights of 16 among 32,768 normal ones: the fewer, the less they are worth."""
    weight = floats(3, 32_768, seed=5).clamp(-2, 2)
    for row, count in enumerate((1, 4, 16)):
        weight[row, :count] = 16.0
    return weight


@pytest.mark.parametrize("dtype", [torch.float32, F16, BF16])
def test_minmax_is_absmax_over_127(dtype: torch.dtype) -> None:
    weight = floats(7, 33).to(dtype)
    codes, scale = quantize_weight(weight)
    expected, zero_point = reference.choose_qparams_per_channel(weight, 0, -128, 127, True)
    assert_same(scale, expected)
    assert_same(scale, (weight.float().abs().amax(1).double() / 127).float())
    assert_same(
        codes, reference.quantize_per_channel(weight, expected, zero_point, 0, -128, 127, I8)
    )
    assert_same(quantize_weight(weight, "minmax"), (codes, scale))


def test_mse_takes_the_share_of_least_error() -> None:
    weight = long_tailed()
    codes, scale = quantize_weight(weight, "mse")
    _, minmax = quantize_weight(weight)
    shares = []
    for row, chosen, whole in zip(weight, scale, minmax, strict=True):
        errors = [squared_error(row, np.float32(whole.item()) * np.float32(s)) for s in SHARES]
        best = int(np.argmin(errors))
        assert chosen.item() == pytest.approx(whole.item() * SHARES[best], rel=1e-6)
        assert squared_error(row, chosen.item()) == pytest.approx(min(errors), rel=1e-6)
        shares.append(SHARES[best])
    # 43 s^2 + 256 n (1 - s)^2, of rounding and of clipping, is least at 0.86, 0.96 and 0.99.
    assert shares == [2 ** (-6 / 32), 2 ** (-3 / 32), 1.0]
    zero_point = torch.zeros(len(weight), dtype=torch.int32)
    assert_same(codes, reference.quantize_per_channel(weight, scale, zero_point, 0, -128, 127, I8))


@pytest.mark.parametrize("rows", [floats(20, 50), long_tailed(), torch.rand(5, 3) - 0.5])
def test_mse_is_never_worse_than_minmax(rows: Tensor) -> None:
    _, minmax = quantize_weight(rows)
    _, mse = quantize_weight(rows, "mse")
    for row, one, other in zip(rows, mse, minmax, strict=True):
        assert squared_error(row, one.item()) <= squared_error(row, other.item())
    assert (mse <= minmax).all()
    assert (mse >= minmax / 4 * 0.999999).all()


def test_mse_helps_where_tails_are_long() -> None:
    weight = long_tailed()[:1]
    (minmax,), (mse,) = quantize_weight(weight)[1], quantize_weight(weight, "mse")[1]
    assert mse < 0.9 * minmax
    assert squared_error(weight[0], mse.item()) < 0.9 * squared_error(weight[0], minmax.item())


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize("dtype", [torch.float32, F16, BF16])
def test_rows_of_zeros_keep_scale_1(method: str, dtype: torch.dtype) -> None:
    weight = floats(3, 8).to(dtype)
    weight[1] = 0
    codes, scale = quantize_weight(weight, method)
    assert scale.dtype == torch.float32
    assert scale[1] == 1
    assert codes[1].eq(0).all()


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_tiny_and_huge_weights(method: str) -> None:
    weight = torch.tensor([[1e-44, -1e-44], [3e38, -3e38], [1e-36, 1e-38]])
    codes, scale = quantize_weight(weight, method)
    assert torch.isfinite(scale).all()
    assert (scale >= torch.finfo(torch.float32).tiny).all()
    assert codes[1].tolist() == [127, -127]


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_weights_without_elements(method: str) -> None:
    for shape in ((0, 8), (3, 0)):
        codes, scale = quantize_weight(torch.empty(shape), method)
        assert codes.shape == shape
        assert scale.tolist() == [1.0] * shape[0]


def test_rows_are_chosen_apart() -> None:
    weight = long_tailed()
    codes, scale = quantize_weight(weight, "mse")
    for row in range(len(weight)):
        one_codes, one_scale = quantize_weight(weight[row : row + 1], "mse")
        assert_same(one_scale, scale[row : row + 1])
        assert_same(one_codes, codes[row : row + 1])


def test_the_weight_is_left_alone() -> None:
    weight = floats(3, 8)
    for method in ("minmax", "mse"):
        quantize_weight(weight, method)
        assert torch.equal(weight, floats(3, 8))


@pytest.mark.parametrize("method", ["max", "", "percentile"])
def test_another_method_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="weight_method") as error:
        check_weight_method(method)
    assert str(error.value) == (
        f'weight_method must be "minmax" or "mse", but got {method!r}: "minmax" keeps every weight '
        "in range"
    )


def test_refusals_name_the_layer() -> None:
    check_quantizable(nn.Linear(4, 4), "head")
    check_quantizable(nn.Linear(MAX_IN_FEATURES, 1), "head")
    for layer, message in (
        (
            nn.Linear(MAX_IN_FEATURES + 1, 1),
            "head must have at most 65793 inputs, or the int32 sums may overflow, but has 65794: "
            "leave it in float by filter_fn",
        ),
        (
            nn.Linear(4, 4, device="meta"),
            "head must have a floating-point weight with data, but got torch.float32 on meta: load "
            "the model's weights first",
        ),
    ):
        with pytest.raises(ValueError, match="head") as error:
            check_quantizable(layer, "head")
        assert str(error.value) == message
