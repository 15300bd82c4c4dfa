"""Sizes as great as int64 holds: a right result or a clean refusal, at once, of little memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from operator_tests import assert_same, operator
from refusals import HUGE
from samples import I8, I32, U8, bytes_, floats
from torch import Tensor

FLOAT = torch.float32
ONE, ZERO = torch.tensor(1.0), torch.tensor(0, dtype=I32)
FEATURES = 2**31 - 1
# More bytes than any address space has.
BEYOND = "can't allocate memory|Storage size calculation overflowed|Stride calculation overflowed"


def empty(*shape: int, dtype: torch.dtype = FLOAT) -> Tensor:
    return torch.empty(shape, dtype=dtype)


def spread(*shape: int, dtype: torch.dtype = FLOAT) -> Tensor:
    """One element that passes for this many."""
    return torch.zeros(1, dtype=dtype).expand(shape)


def call(name: str, *arguments: Any) -> Callable[[str], Any]:
    def on(device: str) -> Any:
        moved = [a.to(device) if isinstance(a, Tensor) else a for a in arguments]
        return operator(name)(*moved)

    return on


LIMITS = (0, 255, False)
CODES = (0, 255, U8)
# Each with the shapes of its results, none of which has elements.
NOTHING: list[tuple[str, tuple[Any, ...], list[list[int]]]] = [
    ("quantize_per_tensor", (empty(0, 2**40, 2**20), ONE, ZERO, *CODES), [[0, 2**40, 2**20]]),
    (
        "quantize_per_channel",
        (empty(2**40, 0), spread(2**40), spread(2**40, dtype=I32), 0, *CODES),
        [[2**40, 0]],
    ),
    (
        "quantize_per_token",
        (empty(2**40, 0), spread(2**40, 1), spread(2**40, 1, dtype=I32), *CODES),
        [[2**40, 0]],
    ),
    (
        "dequantize_per_channel",
        (empty(2**40, 0, dtype=I8), spread(2**40), spread(2**40, dtype=I32), 0),
        [[2**40, 0]],
    ),
    (
        "fake_quantize_per_channel",
        (empty(2**40, 0), spread(2**40), spread(2**40, dtype=I32), 0, 0, 255),
        [[2**40, 0]],
    ),
    (
        "quantize_per_group",
        (empty(0, 2**60), empty(0, 1), empty(0, 1, dtype=I32), HUGE, *CODES),
        [[0, 2**60]],
    ),
    ("choose_qparams_per_token", (empty(0, 2**40, 2**20), *LIMITS), [[0, 2**40, 1]] * 2),
    ("choose_qparams_per_group", (empty(0, 2**60), 3, *LIMITS), [[0, 2**60 // 3 + 1]] * 2),
    ("choose_qparams_per_group", (empty(0, 2**60), HUGE, *LIMITS), [[0, 1]] * 2),
    ("pack_bits", (empty(0, HUGE, dtype=I8), 8), [[0, HUGE]]),
    ("pack_bits", (empty(0, HUGE, dtype=I8), 7), [[0, HUGE // 8 * 7 + 7]]),
    ("pack_bits", (empty(0, 2**62, dtype=I8), 2), [[0, 2**60]]),
    ("pack_bits", (empty(2**40, 2**22, 0, dtype=I8), 8), [[2**40, 2**22, 0]]),
    ("unpack_bits", (empty(0, 2**61, dtype=U8), 4, 2**62, I8), [[0, 2**62]]),
    ("unpack_bits", (empty(0, HUGE, dtype=U8), 8, HUGE, I8), [[0, HUGE]]),
    ("int8_matmul", (empty(0, 5, dtype=I8), spread(5, 2**60, dtype=I8)), [[0, 2**60]]),
    (
        "int8_matmul",
        (empty(2**40, 0, 2**20, 0, dtype=I8), empty(2**40, 0, 0, 2**20, dtype=I8)),
        [[2**40, 0, 2**20, 2**20]],
    ),
    ("pack_weight", (empty(2**40, 0, dtype=I8),), [[2**36, 0, 16, 4]]),
    ("pack_weight", (empty(HUGE, 0, dtype=I8),), [[2**59, 0, 16, 4]]),
    ("pack_weight", (empty(0, 2**40, dtype=I8),), [[0, 2**38, 16, 4]]),
    ("unpack_weight", (empty(2**27, 0, 16, 4, dtype=I8), FEATURES, 0), [[FEATURES, 0]]),
    ("unpack_weight", (empty(0, 2**29, 16, 4, dtype=I8), 0, FEATURES), [[0, FEATURES]]),
    (
        "int8_matmul_packed",
        (empty(0, 0, dtype=I8), empty(2**27, 0, 16, 4, dtype=I8), FEATURES),
        [[0, FEATURES]],
    ),
    (
        "linear_dynamic",
        (empty(2**40, 0), empty(0, 0, 16, 4, dtype=I8), empty(0), empty(0, dtype=I32)),
        [[2**40, 0]],
    ),
]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("name", "arguments", "shapes"), NOTHING, ids=[f"{n}-{s[0]}" for n, _, s in NOTHING]
)
def test_results_without_elements(
    name: str, arguments: tuple[Any, ...], shapes: list[list[int]], device: str
) -> None:
    result = call(name, *arguments)(device)
    results = [result] if isinstance(result, Tensor) else result
    assert [list(one.shape) for one in results] == shapes


def test_ranges_of_no_elements() -> None:
    for result in (
        operator("choose_qparams_per_tensor")(empty(0, 2**40, 2**20), *LIMITS),
        operator("quantize_dynamic_per_tensor")(empty(0, 2**40, 2**20), *CODES[:2], False, U8)[1:],
    ):
        assert_same(result, (ONE, ZERO))
    counts = torch.zeros(32768, dtype=torch.int64)
    operator("histogram_observe_")(counts, torch.zeros(2), empty(0, 2**40, 2**20))
    assert not counts.any()


TOO_LARGE: list[tuple[str, tuple[Any, ...]]] = [
    ("quantize_per_tensor", (spread(2**31, 2**31), ONE, ZERO, *CODES)),
    ("dequantize_per_tensor", (spread(2**30, 2**30, dtype=I8), ONE, ZERO)),
    ("fake_quantize_per_tensor", (spread(2**30, 2**30), ONE, ZERO, 0, 255)),
    ("quantize_dynamic_per_tensor", (spread(2**31, 2**31), *LIMITS, U8)),
    ("quantize_dynamic_per_token", (empty(2**40, 2**20, 0), *LIMITS, U8)),
    ("quantize_dynamic_per_group", (spread(2**30, 2**30), 4, *LIMITS, U8)),
    ("choose_qparams_per_token", (empty(2**40, 2**20, 0), *LIMITS)),
    ("choose_qparams_per_channel", (empty(0, 2**60), 1, *LIMITS)),
    ("choose_qparams_per_group", (spread(2**30, 2**30), 4, *LIMITS)),
    ("pack_bits", (spread(2**30, 2**30, dtype=I8), 4)),
    ("unpack_bits", (spread(2**30, 2**30, dtype=U8), 4, 2**31, I8)),
    ("int8_matmul", (empty(2**33, 0, dtype=I8), empty(0, 2**33, dtype=I8))),
    ("int8_matmul", (spread(2**30, 3, dtype=I8), spread(3, 2**30, dtype=I8))),
    ("pack_weight", (spread(2**30, 2**30, dtype=I8),)),
    ("pack_weight", (empty(0, HUGE, dtype=I8),)),
    ("unpack_weight", (spread(2**27, 2**29, 16, 4, dtype=I8), FEATURES, FEATURES)),
    (
        "int8_matmul_packed",
        (empty(2**40, 0, dtype=I8), empty(2**27, 0, 16, 4, dtype=I8), FEATURES),
    ),
    (
        "linear_dynamic",
        (
            empty(2**40, 0),
            empty(2**27, 0, 16, 4, dtype=I8),
            spread(FEATURES),
            spread(FEATURES, dtype=I32),
        ),
    ),
    (
        "linear_dynamic",
        (
            empty(5, 0),
            empty(2**59, 0, 16, 4, dtype=I8),
            spread(HUGE),
            spread(HUGE, dtype=I32),
        ),
    ),
    (
        "linear_static",
        (
            empty(2**40, 0),
            ONE,
            ZERO,
            empty(2**27, 0, 16, 4, dtype=I8),
            spread(FEATURES),
            spread(FEATURES, dtype=I32),
        ),
    ),
]


@pytest.mark.parametrize(("name", "arguments"), TOO_LARGE, ids=[n for n, _ in TOO_LARGE])
def test_results_beyond_all_memory_are_refused_at_once(
    name: str, arguments: tuple[Any, ...]
) -> None:
    with pytest.raises(RuntimeError, match=BEYOND):
        call(name, *arguments)("cpu")


def test_a_row_of_more_bytes_than_codes_can_be_counted() -> None:
    with pytest.raises(RuntimeError) as error:
        operator("unpack_bits")(empty(0, 2**62, dtype=U8), 2, -1, I8)
    assert str(error.value).splitlines()[0] == (
        f"last_dim must lie in [0, {HUGE}] for rows of {2**62} bytes, but got -1: pass the size of "
        "the last dimension that was packed"
    )


@pytest.mark.parametrize("group_size", [70, 71, sys.maxsize - 1, sys.maxsize])
def test_a_group_may_be_longer_than_any_row(group_size: int) -> None:
    x, codes = floats(9, 70), bytes_(9, 70)
    scale, zero_point = operator("choose_qparams_per_token")(x, *LIMITS)
    chosen = operator("choose_qparams_per_group")(x, group_size, *LIMITS)
    assert_same(chosen, (scale, zero_point))
    for name, values, more in (
        ("quantize", x, CODES),
        ("dequantize", codes, ()),
    ):
        expected = operator(f"{name}_per_token")(values, *chosen, *more)
        result = operator(f"{name}_per_group")(values, *chosen, group_size, *more)
        assert_same(result, expected)
    assert_same(
        operator("quantize_dynamic_per_group")(x, group_size, *LIMITS, U8),
        operator("quantize_dynamic_per_token")(x, *LIMITS, U8),
    )
