"""quantize_dynamic_per_tensor, _per_token and _per_group: choosing and quantizing in one call."""

from __future__ import annotations

import math
from typing import Any

import pytest
import reference
import torch
from operator_tests import OperatorTests, assert_same, operator
from samples import BF16, F16, I8, I16, I32, U8, floats
from torch import Tensor

DYNAMIC = torch.export.Dim.DYNAMIC
FLOATS = [torch.float32, F16, BF16]
CODES = [
    (0, 255, False, U8),
    (-128, 127, True, I8),
    (-3000, 3000, False, I16),
    (0, 65535, False, I32),
]


def check(granularity: str, x: Tensor, *codes: Any) -> None:
    name = f"quantize_dynamic_{granularity}"
    result = operator(name)(x, *codes)
    assert_same(result, getattr(reference, name)(x, *codes))
    *limits, symmetric, dtype = codes
    qparams = operator(f"choose_qparams_{granularity}")(x, *limits, symmetric)
    quantized = operator(f"quantize_{granularity}")(x, *qparams, *limits, dtype)
    assert_same(result, (quantized, *qparams))


class TestQuantizeDynamicPerTensor(OperatorTests):
    name = "quantize_dynamic_per_tensor"

    def exported(self) -> Any:
        def function(x: Tensor) -> Any:
            return operator(self.name)(x, 0, 255, False, U8)

        return function, (floats(3, 5),), (floats(7, 40),), ({0: DYNAMIC, 1: DYNAMIC},)


class TestQuantizeDynamicPerToken(OperatorTests):
    name = "quantize_dynamic_per_token"

    def exported(self) -> Any:
        def function(x: Tensor) -> Any:
            return operator(self.name)(x, -128, 127, True, I8)

        shapes = ({0: DYNAMIC, 1: DYNAMIC, 2: DYNAMIC},)
        return function, (floats(3, 5, 9),), (floats(2, 17, 40),), shapes


class TestQuantizeDynamicPerGroup(OperatorTests):
    name = "quantize_dynamic_per_group"

    def exported(self) -> Any:
        def function(x: Tensor) -> Any:
            return operator(self.name)(x, 4, -128, 127, True, I8)

        shapes = ({0: DYNAMIC, 1: DYNAMIC, 2: DYNAMIC},)
        return function, (floats(3, 5, 9),), (floats(2, 17, 40),), shapes


@pytest.mark.parametrize("granularity", ["per_tensor", "per_token"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("codes", CODES, ids=str)
def test_equals_choosing_and_quantizing(
    granularity: str, dtype: torch.dtype, codes: tuple[Any, ...]
) -> None:
    for length in [*range(1, 20), 31, 64, 100]:
        check(granularity, floats(7, length, dtype=dtype), *codes)
    for shape in [(0, 3), (3, 0), (2, 0, 3), (1, 1), (300, 400)]:
        check(granularity, floats(*shape, dtype=dtype), *codes)
    check(granularity, floats(40, 21, dtype=dtype).t(), *codes)
    check(granularity, floats(6, 8, 10, dtype=dtype)[::2, 1::3, ::4], *codes)
    check(granularity, floats(1, dtype=dtype).expand(5, 8), *codes)


def check_groups(x: Tensor, group_size: int, *codes: Any) -> None:
    name = "quantize_dynamic_per_group"
    result = operator(name)(x, group_size, *codes)
    assert_same(result, getattr(reference, name)(x, group_size, *codes))
    *limits, symmetric, dtype = codes
    qparams = operator("choose_qparams_per_group")(x, group_size, *limits, symmetric)
    quantized = operator("quantize_per_group")(x, *qparams, group_size, *limits, dtype)
    assert_same(result, (quantized, *qparams))


@pytest.mark.parametrize("group_size", [1, 2, 7, 16, 32, 100, 101, 1 << 40])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("codes", CODES, ids=str)
def test_groups_equal_choosing_and_quantizing(
    dtype: torch.dtype, codes: tuple[Any, ...], group_size: int
) -> None:
    """Groups that divide a row, that leave a short one, and that are longer than it."""
    for shape in [(7, 1), (7, 31), (7, 32), (7, 33), (100,), (2, 3, 100)]:
        check_groups(floats(*shape, dtype=dtype), group_size, *codes)
    if group_size > 10:  # the reference takes its groups one by one
        check_groups(floats(300, 200, dtype=dtype), group_size, *codes)
    for shape in [(0, 3), (3, 0), (2, 0, 3), (0,), (1, 1)]:
        check_groups(floats(*shape, dtype=dtype), group_size, *codes)
    check_groups(floats(40, 21, dtype=dtype).t(), group_size, *codes)
    check_groups(floats(6, 8, 10, dtype=dtype)[::2, 1::3, ::4], group_size, *codes)
    check_groups(floats(9, 50, dtype=dtype)[:, :33], group_size, *codes)
    check_groups(floats(1, dtype=dtype).expand(5, 8), group_size, *codes)


def test_a_group_of_the_whole_row_is_its_token() -> None:
    x, codes = floats(9, 70), (0, 255, False, U8)
    for group_size in (70, 71, 1 << 62):
        assert_same(
            operator("quantize_dynamic_per_group")(x, group_size, *codes),
            operator("quantize_dynamic_per_token")(x, *codes),
        )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("group_size", [1, 8, 32])
def test_a_bad_group_has_a_nan_scale_and_touches_no_other(bad: float, group_size: int) -> None:
    x = floats(9, 70)
    codes, scale, _ = operator("quantize_dynamic_per_group")(x, group_size, 0, 255, False, U8)
    x[4, 68] = bad  # in the last group, a short one
    bad_codes, bad_scale, bad_zero = operator("quantize_dynamic_per_group")(
        x, group_size, 0, 255, False, U8
    )
    begin = 68 // group_size * group_size
    here = torch.zeros(9, 70, dtype=torch.bool)
    here[4, begin : begin + group_size] = True
    assert (bad_codes[here] == 0).all()
    assert torch.equal(bad_codes[~here], codes[~here])
    of_group = torch.zeros(scale.shape, dtype=torch.bool)
    of_group[4, 68 // group_size] = True
    assert torch.equal(bad_scale.isnan(), of_group)
    assert torch.equal(bad_scale[~of_group], scale[~of_group])
    assert (bad_zero[of_group] == 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_token_has_a_nan_scale_and_touches_no_other(bad: float) -> None:
    x = floats(9, 70)
    codes, scale, zero_point = operator("quantize_dynamic_per_token")(x, 0, 255, False, U8)
    x[4, 33] = bad
    result = operator("quantize_dynamic_per_token")(x, 0, 255, False, U8)
    others = torch.arange(9) != 4
    assert result[1].isnan().flatten().tolist() == (~others).tolist()
    assert (result[0][4] == 0).all()
    assert result[2][4] == 0
    for before, after in zip((codes, scale, zero_point), result, strict=True):
        assert_same(after[others], before[others])
    check("per_tensor", x, 0, 255, False, U8)
