"""int8_matmul and int8_matmul_packed: every int32 exact."""

from __future__ import annotations

from typing import Any

import pytest
import reference
import torch
from operator_tests import OperatorTests, assert_same, operator
from samples import I8, U8, bytes_, quantized_linear
from torch import Tensor

DYNAMIC = torch.export.Dim.DYNAMIC

SIGNS = [pytest.param(a, b, id=f"{str(a)[6:]}-by-{str(b)[6:]}") for a in (I8, U8) for b in (I8, U8)]
DEPTHS = [*range(10), 63, 64, 65, 255, 256, 257]
WIDTHS = [0, 1, 15, 16, 17, 31, 33, 47, 48, 49, 63, 64, 65, 100]
ROWS = [*range(15), 100]
LIMITS = {(I8, I8): 131071, (U8, I8): 65793, (I8, U8): 65793, (U8, U8): 33025}


def int8_matmul(a: Tensor, b: Tensor) -> Tensor:
    return operator("int8_matmul")(a, b)


def check(a: Tensor, b: Tensor) -> None:
    """Both operators on one product; the packed one takes int8 weights only."""
    expected = reference.int8_matmul(a, b)
    assert_same(int8_matmul(a, b), expected)
    if b.dtype == I8 and b.ndim == 2:
        packed = reference.pack_weight(b.t())
        weight_sum = b.sum(0, dtype=torch.int32)
        packed_matmul = operator("int8_matmul_packed")
        assert_same(packed_matmul(a, packed, b.shape[1]), expected)
        assert_same(packed_matmul(a, packed, b.shape[1], weight_sum), expected)


class TestInt8Matmul(OperatorTests):
    name = "int8_matmul"

    def exported(self) -> Any:
        shapes = ({0: DYNAMIC, 1: DYNAMIC, 2: DYNAMIC}, {0: DYNAMIC, 1: DYNAMIC, 2: DYNAMIC})
        first = (bytes_(3, 5, 17), bytes_(3, 17, 18))
        return int8_matmul, first, (bytes_(2, 7, 40), bytes_(2, 40, 50)), shapes


class TestInt8MatmulPacked(OperatorTests):
    name = "int8_matmul_packed"

    def exported(self) -> Any:
        packed, _, weight_sum = quantized_linear(35, 70)

        def function(a: Tensor) -> Any:
            return operator(self.name)(a, packed, 35, weight_sum)

        shapes = ({0: DYNAMIC, 1: DYNAMIC},)
        return function, (bytes_(3, 5, 70),), (bytes_(2, 9, 70),), shapes

    def test_exports_with_dynamic_features(self) -> None:
        class Module(torch.nn.Module):
            def forward(self, a: Tensor, packed: Tensor) -> Any:
                return torch.ops.torchquant.int8_matmul_packed(a, packed, 35)

        first = (bytes_(4, 70), reference.pack_weight(bytes_(35, 70)))
        shapes = {"a": {0: DYNAMIC, 1: DYNAMIC}, "packed": {1: DYNAMIC}}
        program = torch.export.export(Module(), first, dynamic_shapes=shapes)
        other = (bytes_(5, 21), reference.pack_weight(bytes_(35, 21)))
        for call in (first, other):
            assert_same(program.module()(*call), reference.int8_matmul_packed(*call, 35))


@pytest.mark.parametrize(("a_dtype", "b_dtype"), SIGNS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_every_depth(a_dtype: torch.dtype, b_dtype: torch.dtype, depth: int) -> None:
    check(bytes_(7, depth, dtype=a_dtype), bytes_(depth, 33, dtype=b_dtype, seed=1))


@pytest.mark.parametrize(("a_dtype", "b_dtype"), SIGNS)
@pytest.mark.parametrize("columns", WIDTHS)
def test_every_width(a_dtype: torch.dtype, b_dtype: torch.dtype, columns: int) -> None:
    check(bytes_(6, 37, dtype=a_dtype), bytes_(37, columns, dtype=b_dtype, seed=1))


@pytest.mark.parametrize(("a_dtype", "b_dtype"), SIGNS)
@pytest.mark.parametrize("rows", ROWS)
def test_every_number_of_rows(a_dtype: torch.dtype, b_dtype: torch.dtype, rows: int) -> None:
    check(bytes_(rows, 37, dtype=a_dtype), bytes_(37, 49, dtype=b_dtype, seed=1))


@pytest.mark.parametrize(("a_dtype", "b_dtype"), SIGNS)
def test_sizes_that_all_have_tails(a_dtype: torch.dtype, b_dtype: torch.dtype) -> None:
    for rows in (1, 5, 13):
        for columns in (1, 17, 79):
            for depth in (1, 6, 67):
                check(
                    bytes_(rows, depth, dtype=a_dtype),
                    bytes_(depth, columns, dtype=b_dtype, seed=1),
                )


@pytest.mark.parametrize(("a_dtype", "b_dtype"), SIGNS)
@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [(131, 517, 270), (131, 4100, 50), (2000, 9, 7), (5, 300, 1030)],
    ids=["middling", "deep", "tall", "wide"],
)
def test_many_blocks_over_both_threads(
    a_dtype: torch.dtype, b_dtype: torch.dtype, rows: int, depth: int, columns: int
) -> None:
    check(bytes_(rows, depth, dtype=a_dtype), bytes_(depth, columns, dtype=b_dtype, seed=1))


@pytest.mark.parametrize(("a_dtype", "b_dtype"), SIGNS)
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 64, 4096])
def test_extremes_of_the_range(a_dtype: torch.dtype, b_dtype: torch.dtype, depth: int) -> None:
    """A pairwise sum in 16 bits saturates here: 255 * 127 * 2 = 64770."""

    def ends(dtype: torch.dtype) -> list[int]:
        return [-128, 127] if dtype == I8 else [0, 255]

    for x in ends(a_dtype):
        for y in ends(b_dtype):
            result = int8_matmul(
                torch.full((3, depth), x, dtype=a_dtype), torch.full((depth, 18), y, dtype=b_dtype)
            )
            assert_same(result, torch.full((3, 18), x * y * depth, dtype=torch.int32))
    generator = torch.Generator().manual_seed(depth)
    a = torch.tensor(ends(a_dtype), dtype=a_dtype)[
        torch.randint(2, (5, depth), generator=generator)
    ]
    b = torch.tensor(ends(b_dtype), dtype=b_dtype)[
        torch.randint(2, (depth, 21), generator=generator)
    ]
    check(a, b)


@pytest.mark.parametrize(("a_dtype", "b_dtype"), SIGNS)
def test_deepest_sum_is_exact_and_one_deeper_is_refused(
    a_dtype: torch.dtype, b_dtype: torch.dtype
) -> None:
    depth = LIMITS[a_dtype, b_dtype]
    a = torch.full((2, depth), -128 if a_dtype == I8 else 255, dtype=a_dtype)
    b = torch.full((depth, 17), -128 if b_dtype == I8 else 255, dtype=b_dtype)
    check(a, b)
    exact = a.long() @ b.long()
    assert exact.abs().max() <= 2**31 - 1 < exact.abs().max() // depth * (depth + 1)
    assert torch.equal(int8_matmul(a, b).long(), exact)
    past = f"^a must have at most {depth} values in its last dimension .* but got {depth + 1}: "
    deeper = (torch.zeros(2, depth + 1, dtype=a_dtype), torch.zeros(depth + 1, 17, dtype=b_dtype))
    with pytest.raises(RuntimeError, match=past):
        int8_matmul(*deeper)
    if b_dtype == I8:
        packed = operator("int8_matmul_packed")(a, reference.pack_weight(b.t()), 17)
        assert torch.equal(packed.long(), exact)
        with pytest.raises(RuntimeError, match=past):
            operator("int8_matmul_packed")(deeper[0], reference.pack_weight(deeper[1].t()), 17)


@pytest.mark.parametrize(("a_dtype", "b_dtype"), SIGNS)
def test_sums_that_wrap_on_the_way_are_exact(a_dtype: torch.dtype, b_dtype: torch.dtype) -> None:
    """Shifting int8 by 128 doubles the largest sum, which then leaves int32 and must come back."""
    depth = LIMITS[a_dtype, b_dtype]
    a = torch.full((1, depth), 127 if a_dtype == I8 else 255, dtype=a_dtype)
    b = torch.full((depth, 3), 127 if b_dtype == I8 else 255, dtype=b_dtype)
    check(a, b)


@pytest.mark.parametrize(("a_dtype", "b_dtype"), SIGNS)
@pytest.mark.parametrize("batch", [(1,), (3,), (2, 3), (2, 0), (1, 2, 1)])
def test_batches(a_dtype: torch.dtype, b_dtype: torch.dtype, batch: tuple[int, ...]) -> None:
    check(bytes_(*batch, 5, 17, dtype=a_dtype), bytes_(*batch, 17, 19, dtype=b_dtype, seed=1))


@pytest.mark.parametrize(("a_dtype", "b_dtype"), SIGNS)
@pytest.mark.parametrize(
    ("a_layout", "b_layout"),
    [(a, b) for a in ("rows", "columns", "steps") for b in ("rows", "columns", "steps")],
)
def test_strides(a_dtype: torch.dtype, b_dtype: torch.dtype, a_layout: str, b_layout: str) -> None:
    def laid_out(layout: str, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        if layout == "columns":
            return bytes_(columns, rows, dtype=dtype).t()
        if layout == "steps":
            return bytes_(3 * rows, 2 * columns + 1, dtype=dtype)[1::3, 1::2]
        return bytes_(rows, columns, dtype=dtype)

    check(laid_out(a_layout, 9, 21, a_dtype), laid_out(b_layout, 21, 35, b_dtype))


@pytest.mark.parametrize(("a_dtype", "b_dtype"), SIGNS)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
def test_few_rows_by_a_weight_as_linear_holds_it(
    a_dtype: torch.dtype, b_dtype: torch.dtype, rows: int
) -> None:
    """Such a weight may be read where it lies, each column on its own."""
    for depth, columns in [(1, 1), (63, 5), (64, 8), (70, 9), (300, 2050)]:
        weight = bytes_(columns, depth + 3, dtype=b_dtype)[:, 2 : depth + 2]
        check(bytes_(rows, depth + 5, dtype=a_dtype)[:, :depth], weight.t())
    depth = LIMITS[a_dtype, b_dtype]
    ends = {I8: -128, U8: 255}
    a = torch.full((rows, depth), ends[a_dtype], dtype=a_dtype)
    check(a, torch.full((5, depth), ends[b_dtype], dtype=b_dtype).t())


@pytest.mark.parametrize(("a_dtype", "b_dtype"), SIGNS)
def test_expanded_operands(a_dtype: torch.dtype, b_dtype: torch.dtype) -> None:
    check(bytes_(1, 21, dtype=a_dtype).expand(6, 21), bytes_(21, 18, dtype=b_dtype))
    check(bytes_(6, 21, dtype=a_dtype), bytes_(21, 1, dtype=b_dtype).expand(21, 18))
    check(bytes_(6, 1, dtype=a_dtype).expand(6, 21), bytes_(1, 18, dtype=b_dtype).expand(21, 18))
    check(
        bytes_(6, 21, dtype=a_dtype).expand(3, 6, 21),
        bytes_(21, 18, dtype=b_dtype).expand(3, 21, 18),
    )


def test_transposed_batches() -> None:
    check(bytes_(5, 4, 21).transpose(0, 1), bytes_(4, 18, 21).transpose(1, 2))
    check(bytes_(21, 5, 2, 3).permute(2, 3, 1, 0), bytes_(3, 18, 2, 21).permute(2, 0, 3, 1))


@pytest.mark.parametrize(("a_dtype", "b_dtype"), SIGNS)
@pytest.mark.parametrize("shape", [(1, 21, 18), (6, 1, 18), (6, 21, 1), (1, 1, 18), (1, 1, 1)])
@pytest.mark.parametrize("stride", [0, 1, 1000])
def test_size_one_dimensions_of_any_stride(
    a_dtype: torch.dtype, b_dtype: torch.dtype, shape: tuple[int, int, int], stride: int
) -> None:
    """The stride of a dimension of size 1 says nothing: torch._int_mm reads it and is wrong."""

    def restride(tensor: Tensor) -> Tensor:
        strides = [
            stride if size == 1 else kept
            for size, kept in zip(tensor.shape, tensor.stride(), strict=True)
        ]
        return tensor.as_strided(tensor.shape, strides)

    rows, depth, columns = shape
    a = bytes_(rows, depth, dtype=a_dtype)
    b = bytes_(depth, columns, dtype=b_dtype, seed=1)
    check(restride(a), restride(b))
    check(restride(bytes_(depth, rows, dtype=a_dtype)).t(), restride(b.t().contiguous()).t())


@pytest.mark.parametrize("shape", [(0, 5, 7), (5, 0, 7), (5, 7, 0), (0, 0, 0)])
def test_empty_products(shape: tuple[int, int, int]) -> None:
    """No rows or columns give an empty result; an empty sum is 0."""
    rows, depth, columns = shape
    check(bytes_(rows, depth), bytes_(depth, columns))
    assert int8_matmul(bytes_(rows, depth), bytes_(depth, columns)).sum() == 0


def test_packed_weights_without_depth() -> None:
    packed = operator("pack_weight")(torch.empty(5, 0, dtype=I8))
    a = torch.empty(3, 0, dtype=I8)
    assert_same(operator("int8_matmul_packed")(a, packed, 5), torch.zeros(3, 5, dtype=torch.int32))


@pytest.mark.parametrize("shape", [(70,), (1, 70), (2, 3, 70), (2, 1, 3, 70), (2, 0, 70)])
@pytest.mark.parametrize("dtype", [I8, U8])
def test_packed_takes_any_leading_dimensions(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    packed, _, weight_sum = quantized_linear(35, 70)
    a = bytes_(*shape, dtype=dtype)
    expected = reference.int8_matmul_packed(a, packed, 35)
    assert_same(operator("int8_matmul_packed")(a, packed, 35), expected)
    assert_same(operator("int8_matmul_packed")(a, packed, 35, weight_sum), expected)


def test_packed_takes_strided_weights() -> None:
    packed, _, weight_sum = quantized_linear(35, 70)
    a = bytes_(9, 70)
    expected = reference.int8_matmul_packed(a, packed, 35)
    strided = packed.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert not strided.is_contiguous()
    sums = weight_sum.repeat_interleave(2)[::2]
    assert_same(operator("int8_matmul_packed")(a, strided, 35, sums), expected)


def test_packed_uses_the_weight_sum_it_is_given() -> None:
    """int8 activations may be shifted by 128 and corrected; uint8 ones need no correction."""
    packed, _, weight_sum = quantized_linear(35, 70)
    a = bytes_(9, 70, dtype=U8)
    result = operator("int8_matmul_packed")(a, packed, 35, weight_sum + 1)
    assert_same(result, reference.int8_matmul_packed(a, packed, 35))


def test_agrees_with_torch_int_mm() -> None:
    a, b = bytes_(40, 64), bytes_(64, 48)
    assert_same(int8_matmul(a, b), torch._int_mm(a, b))


@pytest.mark.any_kernels
def test_compiled_with_dynamic_shapes_compiles_once() -> None:
    torch.compiler.reset()
    compiled = torch.compile(int8_matmul, fullgraph=True, dynamic=True, backend="aot_eager")
    compiled(bytes_(5, 17), bytes_(17, 18))
    with torch.compiler.set_stance("fail_on_recompile"):
        for rows, depth, columns in [(7, 40, 50), (9, 3, 33)]:
            a, b = bytes_(rows, depth), bytes_(depth, columns)
            assert_same(compiled(a, b), reference.int8_matmul(a, b))
