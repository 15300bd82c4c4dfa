"""pack_bits and unpack_bits: codes of 2 to 8 bits in whole bytes per row, little-endian."""

from __future__ import annotations

from typing import Any

import pytest
import reference
import torch
from operator_tests import OperatorTests, assert_same, operator
from samples import I8, U8, bytes_, integers
from torch import Tensor

DYNAMIC = torch.export.Dim.DYNAMIC
WIDTHS = range(2, 9)
LENGTHS = [*range(131), 1000, 4099]


def pack_bits(codes: Tensor, num_bits: int) -> Tensor:
    return operator("pack_bits")(codes, num_bits)


def unpack_bits(packed: Tensor, num_bits: int, last_dim: int, dtype: torch.dtype) -> Tensor:
    return operator("unpack_bits")(packed, num_bits, last_dim, dtype)


def ends(num_bits: int, dtype: torch.dtype) -> tuple[int, int]:
    if dtype == I8:
        return -(1 << (num_bits - 1)), (1 << (num_bits - 1)) - 1
    return 0, (1 << num_bits) - 1


def codes(*shape: int, num_bits: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    low, high = ends(num_bits, dtype)
    return integers(*shape, low=low, high=high, dtype=dtype, seed=seed)


def check(q: Tensor, num_bits: int) -> None:
    packed = pack_bits(q, num_bits)
    assert_same(packed, reference.pack_bits(q, num_bits))
    assert_same(unpack_bits(packed, num_bits, q.shape[-1], q.dtype), q.contiguous())


class TestPackBits(OperatorTests):
    name = "pack_bits"

    def exported(self) -> Any:
        def function(x: Tensor) -> Any:
            return operator(self.name)(x, 3)

        def call(*shape: int) -> tuple[Tensor]:
            return (codes(*shape, num_bits=3, dtype=I8),)

        return function, call(3, 13), call(7, 40), ({0: DYNAMIC, 1: DYNAMIC},)


class TestUnpackBits(OperatorTests):
    name = "unpack_bits"

    def exported(self) -> Any:
        def function(packed: Tensor) -> Any:
            return operator(self.name)(packed, 4, packed.shape[-1] * 2, I8)

        first, other = (bytes_(3, 9, dtype=U8),), (bytes_(7, 20, dtype=U8),)
        return function, first, other, ({0: DYNAMIC, 1: DYNAMIC},)

    def test_exports_with_the_last_dimension_taken_from_another_tensor(self) -> None:
        class Module(torch.nn.Module):
            def forward(self, packed: Tensor, like: Tensor) -> Any:
                return torch.ops.torchquant.unpack_bits(packed, 3, like.shape[-1], like.dtype)

        first = codes(4, 13, num_bits=3, dtype=U8)
        shapes = ({0: DYNAMIC, 1: DYNAMIC}, {0: DYNAMIC, 1: DYNAMIC})
        program = torch.export.export(Module(), (pack_bits(first, 3), first), dynamic_shapes=shapes)
        for q in (first, codes(6, 50, num_bits=3, dtype=U8)):
            assert_same(program.module()(pack_bits(q, 3), q), q)


@pytest.mark.parametrize("dtype", [I8, U8])
@pytest.mark.parametrize("num_bits", WIDTHS)
def test_every_width_and_length(num_bits: int, dtype: torch.dtype) -> None:
    for length in LENGTHS:
        check(codes(length, num_bits=num_bits, dtype=dtype, seed=length), num_bits)
        check(codes(3, length, num_bits=num_bits, dtype=dtype, seed=length), num_bits)


@pytest.mark.parametrize("dtype", [I8, U8])
@pytest.mark.parametrize("num_bits", WIDTHS)
def test_every_code(num_bits: int, dtype: torch.dtype) -> None:
    low, high = ends(num_bits, dtype)
    q = torch.arange(low, high + 1, dtype=torch.int32).to(dtype)
    check(q, num_bits)
    check(q.flip(0).repeat(3), num_bits)


def test_the_layout_written_out() -> None:
    nibbles = torch.tensor([[1, 2, 15], [4, 0, 7]], dtype=U8)
    assert pack_bits(nibbles, 4).tolist() == [[0x21, 0x0F], [0x04, 0x07]]
    signed = torch.tensor([-1, 1, -2, 0, 1], dtype=I8)
    assert pack_bits(signed, 2).tolist() == [0b00_10_01_11, 0b01]
    threes = torch.tensor([0b001, 0b010, 0b111], dtype=U8)
    assert pack_bits(threes, 3).tolist() == [0b11_010_001, 0b1]


@pytest.mark.parametrize("num_bits", WIDTHS)
def test_the_size_is_that_of_whole_bytes_per_row(num_bits: int) -> None:
    packed = pack_bits(torch.zeros(5, 13, dtype=I8), num_bits)
    assert packed.shape == (5, -(-13 * num_bits // 8))
    assert packed.dtype == U8


@pytest.mark.parametrize("num_bits", WIDTHS)
def test_spare_bits_are_zero_and_not_read_back(num_bits: int) -> None:
    q = codes(4, 13, num_bits=num_bits, dtype=I8)
    packed = pack_bits(q, num_bits)
    spare = packed.shape[1] * 8 - 13 * num_bits
    assert not (packed[:, -1].long() >> (8 - spare)).any()
    filled = packed.clone()
    filled[:, -1] |= (0xFF << (8 - spare)) & 0xFF
    assert_same(unpack_bits(filled, num_bits, 13, I8), q)


@pytest.mark.parametrize("dtype", [I8, U8])
@pytest.mark.parametrize("num_bits", range(2, 8))
def test_a_value_out_of_range_raises_wherever_it_is(num_bits: int, dtype: torch.dtype) -> None:
    low, high = ends(num_bits, dtype)
    for length in (1, 16, 37, 130):
        for position in {0, length // 2, length - 1}:
            for value in {low - 1, high + 1}:
                if dtype == U8 and value < 0:
                    continue
                q = torch.zeros(3, length, dtype=dtype)
                q[1, position] = value
                with pytest.raises(RuntimeError, match="input"):
                    pack_bits(q, num_bits)


def test_any_strides() -> None:
    base = codes(6, 8, 10, num_bits=3, dtype=I8)
    for q in (
        base.transpose(0, 2),
        base[::2, 1::3, ::4],
        base[:, :, 3],
        base[:1, :, :1].expand(5, 8, 7),
        base.flip(0),
        base.as_strided((1, 8, 1), (0, 10, 0)),
        codes(2, 6, 5, 3, num_bits=3, dtype=I8).contiguous(memory_format=torch.channels_last),
    ):
        check(q, 3)
    packed = bytes_(9, 6, 5, dtype=U8)
    for strided in (packed.transpose(0, 2), packed[::2, :, ::2], packed[:1, :, :1].expand(4, 6, 3)):
        last_dim = strided.shape[-1] * 2
        assert_same(
            unpack_bits(strided, 4, last_dim, I8),
            reference.unpack_bits(strided.contiguous(), 4, last_dim, I8),
        )


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3), (2, 3, 0), (0, 2, 3)])
@pytest.mark.parametrize("num_bits", [3, 4, 8])
def test_empty_tensors(shape: tuple[int, ...], num_bits: int) -> None:
    check(torch.empty(shape, dtype=I8), num_bits)


@pytest.mark.parametrize("num_bits", [2, 3, 4, 5, 8])
def test_long_inputs_over_both_threads(num_bits: int) -> None:
    check(codes(701, 1003, num_bits=num_bits, dtype=I8), num_bits)
    check(codes(500_003, num_bits=num_bits, dtype=U8), num_bits)
