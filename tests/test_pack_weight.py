"""pack_weight and unpack_weight: one layout for all machines, [N/16][K/4][16][4]."""

from __future__ import annotations

from typing import Any

import pytest
import reference
import torch
from operator_tests import OperatorTests, assert_same, operator
from samples import bytes_
from torch import Tensor

DYNAMIC = torch.export.Dim.DYNAMIC
FEATURES = [0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 47, 64, 65, 100]


def pack_weight(weight: Tensor) -> Tensor:
    return operator("pack_weight")(weight)


def unpack_weight(packed: Tensor, out_features: int, in_features: int) -> Tensor:
    return operator("unpack_weight")(packed, out_features, in_features)


class TestPackWeight(OperatorTests):
    name = "pack_weight"

    def exported(self) -> Any:
        return pack_weight, (bytes_(35, 70),), (bytes_(50, 21),), ({0: DYNAMIC, 1: DYNAMIC},)


class TestUnpackWeight(OperatorTests):
    name = "unpack_weight"

    def exported(self) -> Any:
        """Its sizes are plain integers, so what is dynamic is what follows from it."""

        def function(packed: Tensor, x: Tensor) -> Any:
            return x @ operator(self.name)(packed, 35, 70).t().float()

        packed = reference.pack_weight(bytes_(35, 70))
        first, other = torch.ones(3, 70), torch.ones(5, 70)
        return function, (packed, first), (packed, other), (None, {0: DYNAMIC})


@pytest.mark.parametrize("out_features", FEATURES)
@pytest.mark.parametrize("in_features", FEATURES)
def test_every_shape(out_features: int, in_features: int) -> None:
    weight = bytes_(out_features, in_features)
    packed = pack_weight(weight)
    assert_same(packed, reference.pack_weight(weight))
    assert_same(unpack_weight(packed, out_features, in_features), weight)


def test_the_layout_written_out() -> None:
    """Output n, input k lies at [n // 16, k // 4, n % 16, k % 4]; what is not a weight is 0."""
    weight = bytes_(19, 6)
    packed = pack_weight(weight)
    assert packed.shape == (2, 2, 16, 4)
    for n in range(32):
        for k in range(8):
            expected = weight[n, k] if n < 19 and k < 6 else 0
            assert packed[n // 16, k // 4, n % 16, k % 4] == expected


def test_any_strides() -> None:
    base = bytes_(40, 50)
    for weight in (
        base.t(),
        base[::2, 1::3],
        base[:, 3:4],
        base[3:4, :],
        base[:1].expand(18, 50),
        base[:, :1].expand(40, 9),
        base.as_strided((1, 9), (0, 1)),
        base.as_strided((9, 1), (50, 0)),
        base.flip(1),
    ):
        packed = pack_weight(weight)
        assert_same(packed, reference.pack_weight(weight))
        assert_same(unpack_weight(packed, *weight.shape), weight.contiguous())


def test_unpack_takes_any_strides() -> None:
    packed = bytes_(3, 5, 16, 4)
    expected = reference.unpack_weight(packed, 40, 18)
    strided = packed.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert_same(unpack_weight(strided, 40, 18), expected)
    twice = packed.repeat_interleave(2, dim=1)[:, ::2]
    assert_same(unpack_weight(twice, 40, 18), expected)


def test_padding_is_not_read_back() -> None:
    packed = torch.full((2, 2, 16, 4), 7, dtype=torch.int8)
    assert_same(unpack_weight(packed, 17, 5), torch.full((17, 5), 7, dtype=torch.int8))


def test_large_weights_over_both_threads() -> None:
    weight = bytes_(1000, 1030)
    packed = pack_weight(weight)
    assert_same(packed, reference.pack_weight(weight))
    assert_same(unpack_weight(packed, 1000, 1030), weight)
