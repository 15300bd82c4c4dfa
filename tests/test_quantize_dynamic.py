"""quantize_dynamic_per_tensor and _per_token: choosing and quantizing in one call."""

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
