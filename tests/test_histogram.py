"""histogram_observe_ and histogram_qparams: the calibration state and what is read from it."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import reference
import torch
from operator_tests import OperatorTests, assert_same, operator, outcome_of
from samples import BF16, F16, Sample, floats, histogram, unaligned
from torch import Tensor

DYNAMIC = torch.export.Dim.DYNAMIC
FLT_MIN, FLT_MAX = reference.FLT_MIN, reference.FLT_MAX
DTYPES = [torch.float32, F16, BF16]
METHODS = ["minmax", "percentile", "mse", "entropy"]
NOT_FINITE = [*range(255 * 64, 1 << 14), *range((1 << 14) + 255 * 64, 1 << 15)]
# (quant_min, quant_max, symmetric)
GRIDS = [(-128, 127, True), (0, 255, False), (-8, 7, True), (0, 15, False)]
WIDE = (-65536, 65535, False)

State = tuple[Tensor, Tensor]


def new_state() -> State:
    return torch.zeros(32768, dtype=torch.int64), torch.tensor([math.inf, -math.inf])


def observe(counts: Tensor, range_: Tensor, x: Tensor) -> None:
    assert operator("histogram_observe_")(counts, range_, x) is None


def observed(*inputs: Tensor) -> State:
    state = new_state()
    for x in inputs:
        observe(*state, x)
    return state


def qparams(state: State, *grid: Any, method: str = "mse", percentile: float = 99.99) -> Any:
    return operator("histogram_qparams")(*state, *grid, method, percentile)


def check(*inputs: Tensor) -> None:
    assert_same(observed(*inputs), histogram(*inputs))


def ends_of(chosen: tuple[Tensor, Tensor], quant_min: int, quant_max: int) -> tuple[float, float]:
    scale, zero_point = chosen[0].item(), chosen[1].item()
    return scale * (quant_min - zero_point), scale * (quant_max - zero_point)


class TestHistogramObserve(OperatorTests):
    name = "histogram_observe_"

    def exported(self) -> Any:
        def function(counts: Tensor, range_: Tensor, x: Tensor) -> Any:
            state = counts.clone(), range_.clone()
            observe(*state, x)
            return state

        shapes = (None, None, {0: DYNAMIC, 1: DYNAMIC})
        return (
            function,
            (*new_state(), floats(3, 5)),
            (*histogram(floats(2)), floats(7, 40)),
            shapes,
        )


def assert_least_error(sample: Sample) -> None:
    """No range of a dense grid has an error that is less, but for the 1 % that clipping has to be
    worth, and 0.1 % if there is one end to choose: the search takes steps of 2^-11 in the end,
    where the error is flat. And for 0.5 %, 0.02 dB, if there are two: each zero point is another
    grid, so that the error has ripples."""
    counts, range_, quant_min, quant_max, symmetric, *_ = sample.arguments
    scale, zero_point = outcome_of("histogram_qparams", sample)
    moments = reference.Moments(reference.histogram_values(counts, range_))
    error = reference.histogram_error(
        moments, quant_min, quant_max, scale.item(), int(zero_point.item())
    )
    least = reference.least_histogram_error(counts, range_, quant_min, quant_max, symmetric)
    assert error <= least * (1.011 if symmetric else 1.015)


class TestHistogramQparams(OperatorTests):
    name = "histogram_qparams"

    def test_equals_the_reference(self, sample: Sample) -> None:
        if "mse" in str(sample):
            assert_least_error(sample)
            return
        scale, zero_point = outcome_of(self.name, sample)
        expected_scale, expected_zero_point = reference.histogram_qparams(*sample.arguments)
        # One unit in the last place: a quantile is interpolated in another order, and rounds apart.
        torch.testing.assert_close(scale, expected_scale, rtol=1.2e-7, atol=0)
        assert_same(zero_point, expected_zero_point)

    def exported(self) -> Any:
        def function(x: Tensor) -> Any:
            counts = torch.zeros(32768, dtype=torch.int64)
            range_ = torch.tensor([math.inf, -math.inf]).clone()
            observe(counts, range_, x)
            return qparams((counts, range_), 0, 255, False)

        return function, (floats(3, 5),), (floats(7, 40),), ({0: DYNAMIC, 1: DYNAMIC},)


# What is counted


VALUES = {
    "zeros": [0.0, -0.0, 0.0],
    "negative-zero": [-0.0],
    "denormals": [1e-45, -1e-45, 5e-39, -1.1e-38, FLT_MIN],
    "nan": [math.nan, -math.nan],
    "infinities": [math.inf, -math.inf, 1.0],
    "only-infinity": [-math.inf],
    "largest": [FLT_MAX, -FLT_MAX],
    "edges": [1.0, 1 + 2.0**-6, 1 + 2.0**-6 - 2.0**-23, 2 - 2.0**-23, 2.0, -1.0, -2.0],
    "equal": [3.0] * 9,
    "half-extremes": [65504.0, -65504.0, 6e-8, -6e-8],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("length", [0, 5, 30, 67])
def test_special_values_among_others(values: list[float], length: int, dtype: torch.dtype) -> None:
    """At the start, in the middle and at the end, so in a vector's body and tail."""
    others = floats(length).tolist()
    for row in (values + others, others + values, others + values + others):
        check(torch.tensor(row).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_length(dtype: torch.dtype) -> None:
    for length in [*range(71), 4095, 4096, 4097, 9000]:
        check(floats(length, dtype=dtype, seed=length))


def test_the_extremes_are_found_at_every_position() -> None:
    for length in (1, 7, 16, 33, 70):
        for position, extreme in itertools.product(range(length), (7.5, -7.5)):
            x = torch.full((length,), 0.25)
            x[position] = extreme
            assert (
                observed(x)[1].tolist() == [min(0.25, extreme), max(0.25, extreme)] or length == 1
            )
            assert extreme in observed(x)[1].tolist()


def test_every_bin_has_the_values_that_share_its_bits() -> None:
    """Written out, so that a mistake of the reference cannot hide one of the operator."""
    first = torch.arange(1 << 15, dtype=torch.int64) << 17
    last = first + (1 << 17) - 1
    for bits in (first, last):
        x = torch.where(bits < 1 << 31, bits, bits - (1 << 32)).to(torch.int32).view(torch.float32)
        counts, range_ = observed(x)
        assert (counts == 1).all()
        exact = x[x.isfinite()]
        assert range_.tolist() == [exact.min().item(), exact.max().item()]
    counts, _ = observed(torch.tensor([0.0, -0.0, 1.0, -1.0, 1 + 1 / 64, 2.0]))
    found = counts.nonzero().flatten().tolist()
    assert found == [0, 127 * 64, 127 * 64 + 1, 128 * 64, 16384, 16384 + 127 * 64]


def test_threads_may_share_a_state() -> None:
    state, x = new_state(), torch.randn(1000)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(observe, *state, x) for _ in range(2000)]:
            done.result()
    counts, range_ = observed(x)
    assert torch.equal(state[0], 2000 * counts)
    assert torch.equal(state[1], range_)


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_every_half_value(dtype: torch.dtype) -> None:
    x = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype)
    check(x)
    counts, range_ = observed(x)
    assert counts.sum() == 65536
    assert counts[NOT_FINITE].sum() == (~x.isfinite()).sum()
    assert range_.tolist() == [torch.finfo(dtype).min, torch.finfo(dtype).max]


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_are_counted_and_no_part_of_the_range(dtype: torch.dtype) -> None:
    for length, position in [(3, 1), (40, 17), (40, 39), (5000, 2222), (5000, 4999)]:
        for bad in (math.nan, math.inf, -math.inf):
            x = floats(length, dtype=dtype)
            x[position] = bad
            counts, range_ = observed(x)
            finite = x[x.isfinite()].float()
            assert counts[NOT_FINITE].tolist().count(1) == 1
            assert counts.sum() == length
            assert range_.tolist() == [finite.min().item(), finite.max().item()]
    counts, range_ = observed(torch.tensor([math.nan, math.inf, -math.inf], dtype=dtype))
    assert counts[NOT_FINITE].sum() == 3
    assert range_.tolist() == [math.inf, -math.inf]


def test_negative_zero_never_shows_in_the_range() -> None:
    rows = [[-0.0], [0.0, -0.0], [-0.0, 0.0], [-0.0] * 40, [0.0] * 20 + [-0.0] * 20, [-0.0, 3.0]]
    for row in [*rows, [-0.0] * 20 + [-3.0]]:
        for x in (torch.tensor(row), torch.tensor(row[::-1])):
            _, range_ = observed(x)
            assert not range_[range_ == 0].signbit().any()
    for parts in ([-0.0, 0.0], [0.0, -0.0], [-0.0, -0.0]):
        _, range_ = observed(*(torch.tensor([value]) for value in parts))
        assert range_.tolist() == [0, 0]
        assert not range_.signbit().any()


def layouts() -> dict[str, Tensor]:
    base = floats(6, 8, 10)
    return {
        "contiguous": base,
        "transposed": base.transpose(0, 2),
        "permuted": base.permute(1, 2, 0),
        "strided": base[::2, 1::3, ::4],
        "columns": base[:, :, 3],
        "rows": floats(40, 300)[:, 7:290],
        "short-rows": floats(400, 40)[:, 3:38],
        "expanded": base[:1, :, :1].expand(5, 8, 7),
        "scalar-expanded": torch.tensor(2.5).expand(9, 40),
        "0-dim": base[0, 0, 0],
        "flipped": base.flip(0),
        "size-1-stride-0": base.as_strided((1, 8, 1), (0, 10, 0)),
        "channels-last": base[None].contiguous(memory_format=torch.channels_last),
        "diagonal": floats(50, 50).diagonal(),
        "empty": base[:0],
        "empty-columns": floats(3, 0).t(),
    }


@pytest.mark.parametrize("layout", layouts())
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_strides(layout: str, dtype: torch.dtype) -> None:
    check(layouts()[layout].to(dtype))
    view = layouts()[layout]
    check(view)
    assert_same(observed(view), observed(view.contiguous()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_unaligned_input_of_every_length(dtype: torch.dtype) -> None:
    for length in range(1, 71):
        x = floats(length, dtype=dtype, seed=length)
        assert_same(observed(unaligned(x)), observed(x))


# The same state, however the data come


def some_data() -> Tensor:
    x = floats(64 * 3000)
    x[5], x[100_000], x[70_000] = math.nan, -math.inf, 1e-42
    x[1000:90_000:7] = 0
    x[40_000:90_000:11] = -0.0
    return x


@pytest.mark.parametrize("batches", [1, 2, 3, 6, 64])
def test_any_batch_size_and_order_give_the_same_state(batches: int) -> None:
    x = some_data()
    expected = histogram(x)
    assert_same(observed(*x.chunk(batches)), expected)
    assert_same(observed(*reversed(x.chunk(batches))), expected)
    shuffled = x[torch.randperm(x.numel())]
    assert_same(observed(*shuffled.chunk(batches)), expected)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_threads_gives_the_same_state(threads: int, dtype: torch.dtype) -> None:
    x = some_data().to(dtype)
    expected = histogram(x)
    usual = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert_same(observed(x), expected)
        assert_same(observed(x.reshape(-1, 300)[:, :-1]), histogram(x.reshape(-1, 300)[:, :-1]))
    finally:
        torch.set_num_threads(usual)


def test_shards_merge_exactly() -> None:
    x = some_data()
    (counts, range_), (other_counts, other_range) = observed(x[:77_777]), observed(x[77_777:])
    ends = torch.stack([range_, other_range])
    merged = counts + other_counts, torch.stack([ends[:, 0].min(), ends[:, 1].max()])
    assert_same(merged, observed(x))


def test_a_count_is_exact_beyond_32_bits() -> None:
    counts, range_ = histogram(torch.tensor([3.0]))
    counts[128 * 64 + 32] = (1 << 40) + 1
    observe(counts, range_, torch.full((1000,), 3.0))
    assert counts[128 * 64 + 32] == (1 << 40) + 1001


def test_a_thread_that_flushes_denormals_observes_them_all_the_same() -> None:
    x = torch.tensor([1e-45, -3e-39, 5e-39, 0.0] * 20)
    expected = histogram(x)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush denormals")
    try:
        state = observed(x)
    finally:
        torch.set_flush_denormal(False)
    assert_same(state, expected)


# Where it is written


def spread(tensor: Tensor) -> Tensor:
    """The same values, three apart."""
    wide = torch.full((*tensor.shape, 3), 7, dtype=tensor.dtype)
    wide[..., 1] = tensor
    return wide[..., 1]


def test_state_that_is_not_contiguous() -> None:
    x = floats(500)
    for make in itertools.product((spread, Tensor.clone), repeat=2):
        counts, range_ = (one(part) for one, part in zip(make, new_state(), strict=True))
        observe(counts, range_, x)
        observe(counts, range_, x - 5)
        assert_same((counts.clone(), range_.clone()), histogram(x, x - 5))
        for part in (counts, range_):
            if not part.is_contiguous():
                whole = part._base
                assert whole is not None
                assert (whole[..., ::2] == 7).all()


def test_qparams_of_a_state_that_is_not_contiguous() -> None:
    state = histogram(floats(500))
    strided = spread(state[0]), spread(state[1])
    assert_same(qparams(strided, 0, 255, False), qparams(state, 0, 255, False))


def test_a_state_of_a_larger_tensor() -> None:
    """A row of the counts of many layers."""
    counts, ranges = torch.zeros(3, 32768, dtype=torch.int64), torch.zeros(3, 2)
    ranges[:] = torch.tensor([math.inf, -math.inf])
    observe(counts[1], ranges[1], floats(99))
    assert_same((counts[1], ranges[1]), histogram(floats(99)))
    assert counts[[0, 2]].sum() == 0
    assert ranges[[0, 2]].isinf().all()


def test_inference_mode() -> None:
    outside = new_state()
    with torch.inference_mode():
        inside = observed(floats(70))
        observe(*outside, floats(70))
        observe(spread(new_state()[0]), new_state()[1], floats(70))
    assert_same(outside, histogram(floats(70)))
    assert_same(inside, outside)
    assert [part._version for part in outside] == [1, 1]


@pytest.mark.parametrize("x", [floats(70), floats(0)], ids=["some", "none"])
def test_bumps_the_versions_of_what_it_writes(x: Tensor) -> None:
    state = new_state()
    for times in (1, 2):
        observe(*state, x)
        assert [part._version for part in state] == [times, times]
    assert x._version == 0


def test_bumps_the_version_of_what_it_writes_a_view_of() -> None:
    counts, ranges = torch.zeros(32768, 3, dtype=torch.int64), torch.zeros(2, 3)
    observe(counts[:, 1], ranges[:, 1], floats(70))
    assert counts._version > 0
    assert ranges._version > 0


def test_autograd_notices_that_a_saved_range_has_changed() -> None:
    counts, range_ = new_state()
    weight = torch.ones(2, requires_grad=True)
    product = (weight * range_).sum()
    observe(counts, range_, floats(5))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_refuses_a_range_that_requires_grad() -> None:
    counts, range_ = new_state()
    range_.requires_grad_()
    with pytest.raises(RuntimeError) as error:
        observe(counts, range_, floats(5))
    message = "range must not require grad, but it does: pass range.detach()"
    assert str(error.value).splitlines()[0] == message
    assert counts.sum() == 0
    with torch.no_grad():
        observe(counts, range_, floats(5))
    assert counts.sum() == 5


BINS = 32768
OWN_MEMORY = "pass one with memory of its own, as torch.empty_like makes it"


@pytest.mark.parametrize("step", [1, 2])
def test_refuses_a_range_within_counts(step: int) -> None:
    """In the gaps of counts as well."""
    memory = torch.zeros(2 * BINS + 4, dtype=torch.int64)
    counts = memory[1 : 1 + step * BINS : step]
    last = 2 * step * (BINS - 1)  # in float32, as seen from the first bin

    def observe_into(place: int) -> None:
        observe(counts, memory.view(torch.float32)[2 + place :][:2], torch.ones(3))

    for place in (-1, 0, 1, 2, last, last + 1):
        message = "range must not share memory with counts, but got one that lies within it"
        with pytest.raises(RuntimeError, match=f"^{message}: {OWN_MEMORY}"):
            observe_into(place)
        assert not memory.any()
    observe_into(-2)
    observe_into(last + 2)
    assert counts.sum() == 6


@pytest.mark.parametrize("name", ["counts", "range"])
def test_refuses_an_input_that_is_written(name: str) -> None:
    state = dict(zip(("counts", "range"), new_state(), strict=True))
    message = f"{name} must not share memory with input, but got one that does: {OWN_MEMORY}"
    for x in (state[name].view(torch.float32), state[name].view(torch.bfloat16)[-1:]):
        with pytest.raises(RuntimeError, match=f"^{message}"):
            observe(*state.values(), x)


def test_refuses_bins_in_one_place() -> None:
    counts, range_ = new_state()
    message = "must have a place of its own in memory for each element, but got strides"
    with pytest.raises(RuntimeError, match=rf"^counts {message} \[0\] for shape \[32768\]"):
        observe(torch.zeros(1, dtype=torch.int64).expand(BINS), range_, torch.ones(3))
    with pytest.raises(RuntimeError, match=rf"^range {message} \[0\] for shape \[2\]"):
        observe(counts, torch.zeros(1).expand(2), torch.ones(3))
    assert not counts.any()


def test_an_input_with_gaps_is_read_before_its_memory_is_written() -> None:
    """Counts that are bits of floats too: each call sees them as they were before it."""
    for step in (1, 2):
        counts, range_ = new_state()
        memory = counts if step == 1 else torch.zeros(2 * BINS, dtype=torch.int64)
        counts, x = memory[::step], memory.view(torch.float32)[::2]
        before = x.clone()
        observe(counts, range_, x)
        expected = new_state()
        observe(*expected, before)
        assert torch.equal(counts, expected[0])
        assert torch.equal(range_, expected[1])


@pytest.mark.any_kernels
def test_compiled_whole_among_other_operations() -> None:
    """The graph is made functional, and the state written after it, in the order of the calls."""

    def function(counts: Tensor, range_: Tensor, x: Tensor) -> Tensor:
        torch.ops.torchquant.histogram_observe_(counts, range_, x * 2)
        seen = counts.sum()
        torch.ops.torchquant.histogram_observe_(counts, range_, x - 1)
        return seen + counts.sum()

    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    state, x = new_state(), floats(9, 13)
    assert compiled(*state, x) == 3 * x.numel()
    assert_same(state, histogram(x * 2, x - 1))


@pytest.mark.any_kernels
def test_a_module_with_a_state_exports() -> None:
    """As calibration does it: buffers that are written on the way."""

    class Observer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            counts, range_ = new_state()
            self.register_buffer("counts", counts)
            self.register_buffer("range", range_)

        def forward(self, x: Tensor) -> Tensor:
            torch.ops.torchquant.histogram_observe_(self.counts, self.range, x * 2)
            return x + 1

    dynamic = ({0: DYNAMIC},)
    program = torch.export.export(Observer(), (floats(5, 3),), dynamic_shapes=dynamic).module()
    for rows in (5, 9):
        assert_same(program(floats(rows, 3)), floats(rows, 3) + 1)
    buffers = dict(program.named_buffers())
    expected = histogram(2 * floats(5, 3), 2 * floats(9, 3))
    assert_same((buffers["counts"], buffers["range"]), expected)


# What is read from it: refusals, empty states, bounds


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("grid", [*GRIDS, (10, 20, False), (-20, -10, False)], ids=str)
def test_no_values_and_zeros_give_scale_1(grid: tuple[int, int, bool], method: str) -> None:
    zero = min(max(0, grid[0]), grid[1])
    for state in (new_state(), observed(torch.zeros(9)), observed(torch.tensor([0.0, -0.0]))):
        scale, zero_point = qparams(state, *grid, method=method)
        assert_same(scale, torch.tensor(1.0))
        assert_same(zero_point, torch.tensor(zero, dtype=torch.int32))


@pytest.mark.parametrize("method", METHODS)
def test_refuses_what_is_not_finite(method: str) -> None:
    repair = "find out where the observed tensor took them from, or observe again without them"
    for values, bad in [
        ([1.0, math.inf], 1),
        ([math.nan], 1),
        ([-math.inf, math.nan, -math.nan, 0.0], 3),
    ]:
        with pytest.raises(RuntimeError) as error:
            qparams(observed(torch.tensor(values)), 0, 255, False, method=method)
        message = f"counts must hold finite values only, but got {bad} of NaN or Inf: {repair}"
        assert str(error.value).splitlines()[0] == message


@pytest.mark.parametrize("bin_", [0, 5000, 16383, 16384, 32767])
def test_refuses_negative_counts(bin_: int) -> None:
    counts, range_ = observed(floats(50))
    counts[bin_] = -3
    with pytest.raises(RuntimeError) as error:
        qparams((counts, range_), 0, 255, False)
    assert str(error.value).splitlines()[0] == (
        f"counts must hold no negative number, but got -3 in bin {bin_}: pass what "
        "histogram_observe_ filled"
    )


@pytest.mark.parametrize(
    ("ends", "printed"),
    [
        ((math.inf, -math.inf), "inf and -inf"),
        ((2.0, 1.0), "2 and 1"),
        ((math.nan, 1.0), "nan and 1"),
        ((0.0, math.nan), "0 and nan"),
        ((-math.inf, 1.0), "-inf and 1"),
        ((-1.0, math.inf), "-1 and inf"),
    ],
)
def test_refuses_a_range_of_something_else(ends: tuple[float, float], printed: str) -> None:
    counts, _ = observed(floats(50))
    with pytest.raises(RuntimeError) as error:
        qparams((counts, torch.tensor(ends)), 0, 255, False)
    assert str(error.value).splitlines()[0] == (
        f"range must hold the minimum and maximum of what was counted, but got {printed}: pass the "
        "one that histogram_observe_ filled with counts"
    )
    assert qparams((new_state()[0], torch.tensor(ends)), 0, 255, False)[0] == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_any_range_of_values_gives_a_scale(grid: tuple[int, int, bool], method: str) -> None:
    """From the least denormal to the greatest float, of one value or many."""
    for values in (
        *([x] for x in (1e-45, -1e-45, 1e-38, 1.0, -3.0, FLT_MAX, -FLT_MAX)),
        [1e-45, 0.0, -0.0, 2e-45],
        [1e-45, FLT_MAX],
        [-FLT_MAX, FLT_MAX],
        [-1e-30, 1.0, 1e30],
        [-1.0] * 500 + [1e-20] * 500,
    ):
        x = torch.tensor(values)
        scale, zero_point = qparams(observed(x), *grid, method=method)
        whole, _ = qparams(observed(x), *grid, method="minmax")
        # The least error of two points may be that of a grid which has both and reaches beyond.
        assert FLT_MIN <= scale.item() <= (FLT_MAX if method == "mse" else whole.item())
        assert grid[0] <= zero_point.item() <= grid[1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_denormals_on_a_thread_that_flushes_them(grid: tuple[int, int, bool], method: str) -> None:
    state = observed(torch.tensor([1e-45, -3e-39, 5e-39, 0.0] * 20))
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush denormals")
    try:
        scale, zero_point = qparams(state, *grid, method=method)
    finally:
        torch.set_flush_denormal(False)
    assert scale.item() >= FLT_MIN
    assert grid[0] <= zero_point.item() <= grid[1]


# minmax and percentile


DATA: dict[str, Callable[[], Tensor]] = {
    "gaussian": lambda: torch.randn(30_000),
    "laplace": lambda: torch.distributions.Laplace(0.0, 1.0).sample((20_001,)),
    "shifted": lambda: torch.randn(9000) * 0.1 + 0.05,
    "outlier": lambda: torch.cat([floats(20_000), torch.tensor([1e4])]),
    "n=1": lambda: torch.tensor([-2.7]),
    "n=2": lambda: torch.tensor([-2.7, 1.3]),
    "n=3": lambda: torch.tensor([0.3, -2.7, 1.3]),
    "n=10": lambda: floats(10),
    "zeros-between": lambda: torch.cat([torch.zeros(500), floats(30)]),
    "relu": lambda: torch.randn(30_000).relu(),
    "positive": lambda: torch.rand(999) + 2,
    "negative": lambda: -torch.rand(999) - 2,
    "n=2-positive": lambda: torch.tensor([0.001, 1000.0]),
    "equal": lambda: torch.full((7,), 3.1),
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_minmax_is_that_of_the_data(name: str, grid: tuple[int, int, bool]) -> None:
    x = DATA[name]()
    expected = operator("choose_qparams_per_tensor")(x, *grid)
    assert_same(qparams(observed(x), *grid, method="minmax"), expected)
    assert_same(qparams(observed(x), *grid, method="percentile", percentile=100.0), expected)


def exact_quantile(values: np.ndarray[Any, Any], share: float) -> tuple[float, float]:
    """It, and how far an interpolation between values that are right to within their bins may be
    from it: a bin is at most 1/64 of each of the two neighbours wide."""
    ordered = np.sort(values)
    rank = share * (ordered.size - 1)
    low, high = ordered[math.floor(rank)], ordered[math.ceil(rank)]
    part = rank - math.floor(rank)
    return float(np.quantile(values, share)), ((1 - part) * abs(low) + part * abs(high)) / 64


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("percentile", [50.1, 75.0, 99.0, 99.9, 99.99, 99.9999])
def test_symmetric_percentile_is_that_of_the_magnitudes(name: str, percentile: float) -> None:
    x = DATA[name]()
    scale, _ = qparams(observed(x), -127, 127, True, method="percentile", percentile=percentile)
    wanted, slack = exact_quantile(x.double().abs().numpy(), percentile / 100)
    assert wanted <= x.abs().max()
    if wanted == 0:
        # 1 where the end is 0, or next to nothing in the bin of 0, which is 2^-132 wide.
        assert scale.item() in (1.0, FLT_MIN)
        return
    # Twice a float32 rounding beside the bin: that of the end and that of the scale.
    assert abs(scale.item() * 127 - wanted) <= slack + 2.0**-22 * wanted


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("percentile", [50.1, 75.0, 99.0, 99.9, 99.99, 99.9999])
def test_affine_percentile_leaves_half_outside_on_each_side(name: str, percentile: float) -> None:
    x = DATA[name]()
    chosen = qparams(observed(x), *WIDE, method="percentile", percentile=percentile)
    low, high = ends_of(chosen, *WIDE[:2])
    outside = (100 - percentile) / 200
    wanted_low, low_slack = exact_quantile(x.double().numpy(), outside)
    wanted_high, high_slack = exact_quantile(x.double().numpy(), 1 - outside)
    if wanted_low == wanted_high == 0:
        assert chosen[0].item() in (1.0, FLT_MIN)
        return
    # A step of the grid beside the bin: 0 lies on it, so that its ends move by half a step.
    step = chosen[0].item()
    assert abs(low - min(wanted_low, 0)) <= low_slack + step
    assert abs(high - max(wanted_high, 0)) <= high_slack + step


@pytest.mark.parametrize("symmetric", [True, False])
def test_percentiles_grow(symmetric: bool) -> None:
    state = observed(floats(5000))
    scales = [
        qparams(state, -127, 127, symmetric, method="percentile", percentile=p)[0].item()
        for p in (50.0001, 60, 90, 99, 99.5, 99.9, 99.99, 99.999, 100)
    ]
    assert scales == sorted(scales)
    assert scales[0] < scales[-2]


def test_affine_percentile_of_skewed_data_keeps_both_tails() -> None:
    """The sides are not mirror images, so that swapped ones come out otherwise."""
    x = torch.cat([-torch.arange(1.0, 101), 10 * torch.arange(1.0, 301)])
    low, high = ends_of(
        qparams(observed(x), *WIDE, method="percentile", percentile=90.0), *WIDE[:2]
    )
    assert low == pytest.approx(-80, rel=1 / 50)
    assert high == pytest.approx(2800, rel=1 / 50)


# mse


def snr_db(x: Tensor, chosen: tuple[Tensor, Tensor], quant_min: int, quant_max: int) -> float:
    """Measured on the data themselves."""
    approximation = operator("fake_quantize_per_tensor")(x, *chosen, quant_min, quant_max)
    found: float = operator("quantization_error")(x, approximation)[3].item()
    return found


# Quantiles at (i + 0.5) / n, taken in float64, and no random draws: those have noise in the tails.
# Each n-th part is one value in its middle, so what is lost is the spread within the outermost two,
# less than 1e-6 of the variance, which is 0.01 dB of an SNR of 35 dB at most.
@functools.cache
def shares() -> Tensor:
    n = 1 << 22
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


@functools.cache
def standard(name: str) -> Tensor:
    p = shares()
    if name == "gaussian":
        return torch.special.ndtri(p).float()
    return torch.where(p < 0.5, (2 * p).log(), -(2 - 2 * p).log()).float()


@functools.cache
def standard_state(name: str) -> State:
    return observed(standard(name))


@pytest.mark.parametrize(
    ("name", "quant_min", "quant_max", "clip", "db"),
    [
        ("gaussian", -7, 7, 2.474, 18.898),
        ("gaussian", -8, 7, 2.370, 19.258),
        ("gaussian", -127, 127, 3.921, 40.540),
        ("laplace", -7, 7, 4.820, 15.623),
        ("laplace", -127, 127, 9.883, 35.181),
    ],
)
def test_mse_of_standard_distributions_is_that_of_theory(
    name: str, quant_min: int, quant_max: int, clip: float, db: float
) -> None:
    """The error is flat around its least, so 2 % of the clip are worth less than 0.05 dB."""
    chosen = qparams(standard_state(name), quant_min, quant_max, True)
    assert chosen[0].item() * quant_max == pytest.approx(clip, rel=0.02)
    assert snr_db(standard(name), chosen, quant_min, quant_max) == pytest.approx(db, abs=0.05)


N = 1 << 15
DISTRIBUTIONS: dict[str, Callable[[], Tensor]] = {
    "gaussian": lambda: torch.randn(N),
    "laplace": lambda: torch.distributions.Laplace(0.0, 1.0).sample((N,)),
    "relu": lambda: torch.randn(N).relu(),
    "gelu": lambda: torch.nn.functional.gelu(torch.randn(N)),
    "uniform": lambda: torch.rand(N) * 5 - 2,
    "lognormal": lambda: torch.randn(N).exp(),
    "negative-lognormal": lambda: -torch.randn(N).exp(),
    "outlier": lambda: torch.cat([torch.randn(N), torch.tensor([1000.0])]),
    "shifted": lambda: torch.randn(N) + 3,
    "skewed": lambda: torch.where(torch.rand(N) < 0.9, -torch.rand(N), 30 * torch.rand(N)),
    "constant": lambda: torch.full((N,), 3.1),
    "negative-constant": lambda: torch.full((N,), -0.7),
    # On edges of bins: the counts know no more of where a value lies within its bin.
    "two-points": lambda: torch.tensor([-1.0, 2.75]).repeat(N // 2),
    "two-points-of-a-sign": lambda: torch.tensor([0.6875, 2.75]).repeat(N // 2),
    "zero-and-one": lambda: torch.tensor([0.0, 1.0]).repeat(N // 2),
    # Ends that many values share.
    "masked": lambda: torch.where(torch.rand(N) < 0.12, torch.tensor(-1e4), torch.randn(N)),
    "one-hot": lambda: 0.3 * (torch.rand(N) < 0.01).float(),
    "clamped": lambda: torch.randn(N).clamp(-1, 1),
    "tanh": lambda: torch.tanh(3 * torch.randn(N)),
    "relu6": lambda: 1.1 * torch.nn.functional.relu6(3 * torch.randn(N)),
    "signs": lambda: torch.randn(N).sign(),
}


@functools.cache
def distribution(name: str) -> tuple[Tensor, State]:
    torch.manual_seed(0)
    x = DISTRIBUTIONS[name]()
    return x, observed(x)


def audible(db: float) -> float:
    """Above 120 dB the scale's own rounding to float32 is what is measured."""
    return min(db, 120.0)


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_mse_is_never_worse_than_minmax(name: str, symmetric: bool, bits: int) -> None:
    """But for 0.01 dB: the histogram knows the expected error of values spread over their bins, and
    the data are a sample of them."""
    x, state = distribution(name)
    ends = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    of_mse = snr_db(x, qparams(state, *ends, symmetric), *ends)
    of_minmax = snr_db(x, qparams(state, *ends, symmetric, method="minmax"), *ends)
    assert audible(of_mse) >= audible(of_minmax) - 0.01


@pytest.mark.parametrize("name", ["clamped", "signs"])
def test_mse_finds_the_zero_point_that_keeps_both_ends(name: str) -> None:
    """Min-max rounds its zero point, 127.5, and cuts half a step off one of them."""
    x, state = distribution(name)
    of_minmax = snr_db(x, qparams(state, 0, 255, False, method="minmax"), 0, 255)
    assert snr_db(x, qparams(state, 0, 255, False), 0, 255) > of_minmax + 3


@pytest.mark.parametrize("codes", [(-8, 7), (-128, 127)], ids=str)
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_mse_is_the_least_of_a_dense_grid(
    name: str, symmetric: bool, codes: tuple[int, int]
) -> None:
    state = distribution(name)[1]
    assert_least_error(Sample(name, (*state, *codes, symmetric, "mse", 99.99)))


def test_mse_clips_an_outlier_that_is_worth_less_than_the_rest() -> None:
    x = torch.randn(1 << 16)
    x[1234] = 100.0
    for symmetric in (True, False):
        _, high = ends_of(qparams(observed(x), -8, 7, symmetric), -8, 7)
        assert 2 < high < 50


def test_mse_does_not_depend_on_the_sign_or_the_power_of_two() -> None:
    """The bins of x and of -x and 2 x are the same, so is the best share of the range."""
    x = floats(5000)
    scale, _ = qparams(observed(x), -127, 127, True)
    assert qparams(observed(-x), -127, 127, True)[0] == scale
    for power in (-60, -1, 1, 60):
        moved = qparams(observed(x * 2.0**power), -127, 127, True)[0]
        assert moved == scale * 2.0**power


# entropy


def entropy_bins_of(state: State, clip: float) -> int:
    """How many of the 2048 bins make up a clip that is a float32."""
    bins = clip / state[1].abs().max().item() * 2048
    assert abs(bins - round(bins)) < 1e-2
    return round(bins)


@pytest.mark.parametrize("quant_max", [1, 127, 1000])
@pytest.mark.parametrize("name", ["gaussian", "relu", "skewed", "two-points"])
def test_entropy_keeps_the_bins_of_least_divergence(name: str, quant_max: int) -> None:
    state = distribution(name)[1]
    scale, _ = qparams(state, -quant_max, quant_max, True, method="entropy")
    expected = reference.entropy_bins(*state, quant_max + 1)
    assert entropy_bins_of(state, scale.item() * quant_max) == expected


@pytest.mark.parametrize("name", ["relu", "negative-lognormal", "constant"])
def test_entropy_of_one_sign_has_all_codes_for_it(name: str) -> None:
    state = distribution(name)[1]
    scale, _ = qparams(state, 0, 255, False, method="entropy")
    expected = reference.entropy_bins(*state, 256)
    assert entropy_bins_of(state, scale.item() * 255) == expected


@pytest.mark.parametrize("name", ["constant", "negative-constant"])
def test_entropy_of_values_far_from_zero_clips_at_the_threshold(name: str) -> None:
    """Which lies in the first bin that is not empty, so below the least magnitude."""
    state = distribution(name)[1]
    scale, _ = qparams(state, -127, 127, True, method="entropy")
    assert entropy_bins_of(state, scale.item() * 127) == reference.entropy_bins(*state, 128)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("grid", GRIDS[:2], ids=str)
def test_entropy_never_leaves_the_range(name: str, grid: tuple[int, int, bool]) -> None:
    x, state = distribution(name)
    low, high = ends_of(qparams(state, *grid, method="entropy"), *grid[:2])
    assert low < high
    step = (high - low) / (grid[1] - grid[0])
    if not grid[2]:
        # An end moves by half a step, so that 0 lies on the grid.
        assert low >= min(x.min().item(), 0) - step
        assert high <= max(x.max().item(), 0) + step
    # Beside a rounding of the scale.
    assert min(-low, high) <= x.abs().max() * (1 + 2.0**-22)


def test_entropy_of_a_gaussian_keeps_most_of_it() -> None:
    state = standard_state("gaussian")
    clip = 127 * qparams(state, -127, 127, True, method="entropy")[0].item()
    assert 2 < clip <= state[1].abs().max().item() * (1 + 2.0**-22)


@pytest.mark.parametrize("method", METHODS)
def test_as_many_codes_as_there_can_be(method: str) -> None:
    x = floats(500)
    for symmetric in (True, False):
        chosen = qparams(observed(x), -65536, 65535, symmetric, method=method)
        assert snr_db(x, chosen, -65536, 65535) > 50


def test_reading_leaves_the_state_alone() -> None:
    state = observed(floats(500))
    before = [part.clone() for part in state]
    for method, grid in itertools.product(METHODS, GRIDS):
        first = qparams(state, *grid, method=method)
        assert_same(qparams(state, *grid, method=method), first)
    assert_same(state, before)
    assert [part._version for part in state] == [1, 1]


@pytest.mark.parametrize(
    "make", [lambda x: x.view(1), lambda x: x.view(1, 1)], ids=["1-element", "2-dim"]
)
def test_results_are_0_dim(make: Callable[[Tensor], Tensor]) -> None:
    scale, zero_point = qparams(observed(make(torch.tensor(2.0))), 0, 255, False)
    assert (scale.shape, zero_point.shape) == ((), ())
