"""Calls on a GPU beside the same ones on the CPU, whose results they must equal to the bit.

TORCHQUANT_TEST_DEVICE=cpu puts the CPU in the GPU's place: so the tests of CUDA are tested.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest
import torch
from operator_tests import OVERLOADS, Results, bits_of, outcome, overload
from samples import U8, Sample
from torch import Tensor

DEVICE = os.environ.get("TORCHQUANT_TEST_DEVICE", "cuda")
# These read on the host: the one to refuse codes out of range, the other to search the counts.
SYNCHRONISING = ("pack_bits", "histogram_qparams")
NOTHING_RAISED = "nothing was raised"
RAISED = "raised "
MOST_OF_A_KIND = 4  # of a test's differences are shown

Case = tuple[str, Sample]  # an operator and its arguments


def has_cuda_kernel(name: str) -> bool:
    """Of an operator, or of an overload, `operator.overload`."""
    found: bool = torch._C._dispatch_has_kernel_for_dispatch_key(f"torchquant::{name}", "CUDA")
    return found


def why_not() -> str:
    """Why nothing runs on the device; nothing where it does."""
    if DEVICE != "cuda":
        return ""
    if not torch.backends.cuda.is_built():
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "there is no GPU"
    return "" if has_cuda_kernel("quantize_per_tensor") else "torchquant has no CUDA kernels"


needs_device = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it runs")
needs_gpu = pytest.mark.skipif(
    bool(why_not()) or DEVICE != "cuda", reason=why_not() or f"the device is {DEVICE}"
)


def moved(value: Any) -> Any:
    """A tensor on the device as it lies here: strides, offset and what is between, too."""
    if not isinstance(value, Tensor):
        return value
    memory = torch.empty(0, dtype=U8).set_(value.untyped_storage())
    whole = memory[: len(memory) // value.element_size() * value.element_size()]
    copy = whole.to(DEVICE, copy=True).view(value.dtype)
    return copy.as_strided(value.shape, value.stride(), value.storage_offset())


def described(value: Any) -> str:
    """An argument for a message: of a tensor dtype, shape, and how it lies if not densely."""
    if not isinstance(value, Tensor):
        return str(value)
    text = f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if value.numel() == 1:
        text += f"={value.item()!r}"
    if not value.is_contiguous():
        text += f" strides {value.stride()}"
    return text + (f" offset {value.storage_offset()}" if value.storage_offset() else "")


def described_case(name: str, sample: Sample) -> str:
    given = [*map(described, sample.arguments)]
    given += [f"{key}={described(value)}" for key, value in sample.keywords.items()]
    return f"{name}{f' {sample.name!r}' if sample.name else ''} ({', '.join(given)})"


def difference(result: Tensor, expected: Tensor) -> str:
    """How a result on the device differs from the CPU's; nothing where it does not."""
    if result.device.type != DEVICE:
        return f"it is on {result.device}"
    if (result.dtype, result.shape) != (expected.dtype, expected.shape):
        return f"it is {described(result)}, expected {described(expected)}"
    if not result.is_contiguous():
        return f"it is not contiguous: {described(result)}"
    result = result.detach().cpu()
    if torch.equal(_bytes(result), _bytes(expected)):
        return ""
    wrong = torch.nonzero(bits_of(result) != bits_of(expected))
    if not len(wrong):
        return ""
    first = tuple(wrong[0].tolist())
    return (
        f"{len(wrong)} of {result.numel()} values differ, the first at {first}: "
        f"got {result[first].item()!r}, expected {expected[first].item()!r}"
    )


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(U8)


def error_difference(result: Tensor, expected: Tensor) -> str:
    """Of quantization_error: its snr_db goes through log10, which libraries round apart."""
    if result.shape != (4,) or not result.is_contiguous():
        return f"it is {described(result)}"
    snr, wanted = result[3].item(), expected[3].item()
    close = math.isclose(snr, wanted, rel_tol=1e-14, abs_tol=1e-14)
    if not close and not (math.isnan(snr) and math.isnan(wanted)):
        return f"snr_db is {snr!r}, expected {wanted!r}"
    return difference(result[:3], expected[:3])


def results_difference(name: str, results: Results, expected: Results) -> str:
    """Of a result, or of the first of several that differs."""
    if isinstance(results, Tensor) or isinstance(expected, Tensor):
        results, expected = [results], [expected]  # type: ignore[list-item]
    if len(results) != len(expected):
        return f"{len(results)} results, expected {len(expected)}"
    compare = error_difference if name == "quantization_error" else difference
    for i, (one, other) in enumerate(zip(results, expected, strict=True)):
        if found := compare(one, other):
            return found if len(expected) == 1 else f"of result {i}, {found}"
    return ""


class Differences:
    """Found in the cases of one test, which fails with all of them when it has seen them."""

    def __init__(self) -> None:
        self.cases = 0
        self.shown: list[str] = []
        self.of_kind: Counter[str] = Counter()

    def add(self, case: str, found: str, kind: str = "") -> None:
        """Counts a case; keeps what differs in the first ones of its kind."""
        self.cases += 1
        if not found:
            return
        self.of_kind[kind] += 1
        if self.of_kind[kind] <= MOST_OF_A_KIND:
            self.shown.append(f"{case}: {found}")
        if found.startswith(RAISED) and is_lost():
            pytest.exit(f"{case}: {found}\nThe GPU takes no more calls of this process.", 1)

    def report(self) -> None:
        """Fails where something differs, or where there was no case."""
        if self.shown:
            more = self.of_kind.total() - len(self.shown)
            last = [f"and {more} more of these kinds"] if more else []
            text = f"{self.of_kind.total()} of {self.cases} cases differ"
            pytest.fail("\n".join([text, *self.shown, *last]), pytrace=False)
        assert self.cases > 0


def is_lost() -> bool:
    """Whether an error, such as of an address, stays with the GPU until the process ends."""
    if DEVICE != "cuda":
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def attempted(call: Callable[[], str]) -> str:
    """What the call finds, or how it failed."""
    try:
        return call()
    except Exception as error:
        return f"{RAISED}{type(error).__name__}: {' '.join(str(error).splitlines()[:1])}"


def case_difference(name: str, sample: Sample, *, arguments_too: bool = False) -> str:
    """How the call on the device differs from the one on the CPU, or how it failed."""
    expected = outcome(name, sample.arguments, sample.keywords)

    def compare() -> str:
        arguments = [*map(moved, sample.arguments)]
        results = outcome(name, arguments, sample.keywords)
        found = results_difference(name, results, expected)
        return found or (arguments_difference(arguments, sample) if arguments_too else "")

    return attempted(compare)


def arguments_difference(arguments: Sequence[Any], sample: Sample) -> str:
    """Whether the call changed one of its arguments."""
    for i, (argument, before) in enumerate(zip(arguments, sample.arguments, strict=True)):
        if not isinstance(argument, Tensor):
            continue
        if not torch.equal(_bytes(argument.cpu()), _bytes(before)):
            return f"argument {i} was changed"
    return ""


def check_all(cases: Iterable[Case], *, arguments_too: bool = False) -> None:
    """Each gives on the device what it gives on the CPU; those that do not are named together."""
    differences = Differences()
    for name, sample in cases:
        found = case_difference(name, sample, arguments_too=arguments_too)
        differences.add(*described_difference(name, sample, found))
    differences.report()


def described_difference(name: str, sample: Sample, found: str) -> tuple[str, str, str]:
    """The arguments of Differences.add; what one operator does wrong to one dtype is of a kind."""
    if not found:
        return "", "", ""
    dtype = next(a.dtype for a in sample.arguments if isinstance(a, Tensor))
    return described_case(name, sample), found, f"{name} {dtype}"


def message_of(call: Callable[[], Any]) -> str:
    """The first line of the error that a call raises, or that it raises none."""
    try:
        call()
    except Exception as error:
        return " ".join(str(error).splitlines()[:1])
    return NOTHING_RAISED


# How arguments may lie, and where results may go


def transposed(tensor: Tensor) -> Tensor:
    """The same values in the opposite order of dimensions."""
    order = list(range(tensor.dim()))[::-1]
    return tensor.permute(order).contiguous().permute(order)


def sliced(tensor: Tensor) -> Tensor:
    """The same values as the inner columns of a wider tensor."""
    if tensor.dim() == 0:
        return torch.stack([tensor] * 3)[1]
    wide = tensor.new_zeros((*tensor.shape[:-1], tensor.shape[-1] + 5))
    wide[..., 3:-2] = tensor
    return wide[..., 3:-2]


def stepped(tensor: Tensor) -> Tensor:
    """The same values with gaps between them."""
    return torch.stack([torch.zeros_like(tensor), tensor], -1)[..., 1]


def offset_by(offset: int) -> Callable[[Tensor], Tensor]:
    """The same values some elements behind an aligned address."""

    def of(tensor: Tensor) -> Tensor:
        memory = tensor.new_zeros(tensor.numel() + offset)
        memory[offset:] = tensor.reshape(-1)
        return memory[offset:].view(tensor.shape)

    return of


def expanded(tensor: Tensor) -> Tensor:
    """Of the same shape, its first slice again and again."""
    return tensor[:1].expand(tensor.shape) if tensor.dim() and tensor.numel() else tensor


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": transposed,
    "sliced": sliced,
    "stepped": stepped,
    **{f"at offset {offset}": offset_by(offset) for offset in (1, 3)},
}
# Of these arguments, any values will do; what is left belongs together.
VALUES = {"input", "grad", "original", "approximation", "packed", "a", "b", "weight"}


def laid_out(name: str, sample: Sample) -> Iterator[Sample]:
    """A sample as it is, and with its tensors in other layouts."""
    yield sample
    for layout, of in LAYOUTS.items():
        arguments = [of(a) if isinstance(a, Tensor) else a for a in sample.arguments]
        yield Sample(f"{sample.name}, {layout}", tuple(arguments), sample.keywords)
    names = [argument.name for argument in overload(name)._schema.arguments]
    arguments = [
        expanded(a) if names[i] in VALUES and isinstance(a, Tensor) else a
        for i, a in enumerate(sample.arguments)
    ]
    yield Sample(f"{sample.name}, expanded", tuple(arguments), sample.keywords)


WITH_OUT = [name.removesuffix(".out") for name in OVERLOADS if name.endswith(".out")]


def out_layouts(shape: Sequence[int]) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Strides and an offset for a result, each with its name."""
    dense = torch.empty(shape, device="meta").stride()
    for offset in (0, 1, 3):
        yield f"dense at offset {offset}", dense, offset
    yield "stepped", tuple(3 * stride for stride in dense), 1
    turned = torch.empty(tuple(shape)[::-1], device="meta").stride()[::-1]
    yield "transposed", turned, 0
    if len(shape) > 0 and shape[-1] > 0:
        rows = torch.empty((*shape[:-1], shape[-1] + 5), device="meta").stride()
        yield "rows with gaps", rows, 2


def written_into(
    name: str, arguments: Sequence[Any], keywords: dict[str, Any], like: Tensor, layout: Any
) -> list[Tensor]:
    """All the memory around a result that the .out overload wrote, as this layout says."""
    _, strides, offset = layout
    extent = sum(max(0, n - 1) * stride for n, stride in zip(like.shape, strides, strict=True))
    device = next(a.device for a in arguments if isinstance(a, Tensor))
    memory = torch.full((offset + extent + 4,), 7, dtype=like.dtype, device=device)
    out = memory.as_strided(like.shape, strides, offset)
    assert overload(f"{name}.out")(*arguments, **keywords, out=out) is None
    assert out._version > 0
    return [memory]
