"""Every operator on a GPU: the same results, to the bit, and the same refusals as on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from on_device import (
    DEVICE,
    NOTHING_RAISED,
    WITH_OUT,
    Differences,
    attempted,
    check_all,
    described_case,
    laid_out,
    message_of,
    moved,
    needs_device,
    out_layouts,
    results_difference,
    written_into,
)
from operator_tests import OVERLOADS, all_arguments, operator, outcome, overload, script
from refusals import refusals
from samples import I8, I32, OPERATORS, U8, floats, integers, samples
from torch import Tensor
from workload import large_samples

pytestmark = [needs_device, pytest.mark.any_kernels]

EVERY_OPERATOR = pytest.mark.parametrize("name", OPERATORS)
EVERY_OUT = pytest.mark.parametrize("name", WITH_OUT)


# Results


@EVERY_OPERATOR
def test_samples_in_every_layout(name: str) -> None:
    cases = [(name, one) for sample in samples(name) for one in laid_out(name, sample)]
    check_all(cases, arguments_too=True)


@EVERY_OPERATOR
def test_larger_samples(name: str) -> None:
    """With NaN, infinities and every size of value in them."""
    check_all((name, sample) for sample in large_samples(name))


@EVERY_OUT
def test_out(name: str) -> None:
    """At any strides and offset; all around it is as it was."""
    differences = Differences()
    for sample in samples(name):
        like = operator(name)(*sample.arguments, **sample.keywords)
        arguments = [*map(moved, sample.arguments)]
        for layout in out_layouts(like.shape):
            expected = written_into(name, sample.arguments, sample.keywords, like, layout)
            found = attempted(
                lambda: results_difference(
                    name,
                    written_into(name, arguments, sample.keywords, like, layout),  # noqa: B023
                    expected,  # noqa: B023
                )
            )
            differences.add(f"{described_case(name, sample)} {layout}", found)
    differences.report()


def check_messages(case: str, call: Callable[[str], Any], differences: Differences) -> None:
    """The call raises on the device what it raises on the CPU."""
    expected, found = message_of(lambda: call("cpu")), message_of(lambda: call(DEVICE))
    wrong = found != expected or found == NOTHING_RAISED
    differences.add(case, f"{found!r}, expected {expected!r}" if wrong else "")


@EVERY_OUT
@pytest.mark.parametrize("shared", ["input", "scale", "zero_point"])
def test_out_refuses_memory_of_an_argument(name: str, shared: str) -> None:
    sample, differences = samples(name)[0], Differences()
    like = operator(name)(*sample.arguments, **sample.keywords)
    position = ("input", "scale", "zero_point").index(shared)
    owner = sample.arguments[position]
    size, room = owner.numel() * owner.element_size(), like.numel() * like.element_size()

    def call(device: str, offset: int) -> None:
        memory = torch.zeros(size + room + 16, dtype=I8, device=device)
        arguments = [a.to(device) if isinstance(a, Tensor) else a for a in sample.arguments]
        arguments[position] = memory[:size].view(owner.dtype).view(owner.shape)
        out = memory[offset : offset + room].view(like.dtype).view(like.shape)
        overload(f"{name}.out")(*arguments, **sample.keywords, out=out)

    for offset in {0, (size - 1) // 4 * 4}:
        check_messages(
            f"{name}, out {offset} bytes into {shared}",
            lambda device: call(device, offset),  # noqa: B023
            differences,
        )
    differences.report()


def test_out_refuses_elements_in_one_place() -> None:
    differences = Differences()
    for strides in [(0, 1), (1, 0), (0, 0), (1, 1), (2, 1), (3, 1), (1, 2), (2, 3)]:

        def call(device: str) -> None:
            out = torch.zeros(100, device=device).as_strided((3, 4), strides)  # noqa: B023
            qparams = torch.tensor(0.5).to(device), torch.tensor(3, dtype=I32).to(device)
            codes = torch.ones(3, 4, dtype=I8, device=device)
            overload("dequantize_per_tensor.out")(codes, *qparams, out=out)

        check_messages(f"strides {strides}", call, differences)
    differences.report()


INTERLEAVED: dict[str, Callable[[Tensor], Tensor]] = {
    "in place": lambda memory: memory[:, ::2],
    "in its gaps": lambda memory: memory[:, 1::2],
    "in part and gaps": lambda memory: memory.flatten()[:4096].view(64, 64),
    "further on": lambda memory: memory.flatten()[3:4099].view(64, 64),
    "beside": lambda memory: memory[:, :64],
}


def test_an_input_with_gaps_is_read_before_what_lies_among_them_is_written() -> None:
    differences = Differences()
    for layout, out_of in INTERLEAVED.items():

        def written(device: str) -> Tensor:
            memory = floats(64, 128).to(device)
            qparams = torch.tensor(0.5).to(device), torch.tensor(3, dtype=I32).to(device)
            out = out_of(memory)  # noqa: B023
            overload("fake_quantize_per_tensor.out")(memory[:, ::2], *qparams, -128, 127, out=out)
            return memory

        expected = written("cpu")
        found = attempted(lambda: results_difference("", written(DEVICE), expected))  # noqa: B023
        differences.add(f"out {layout} of input", found)
    differences.report()


def test_histogram_observe_refuses_shared_memory_and_takes_any_strides() -> None:
    differences = Differences()

    def state(device: str) -> tuple[Tensor, Tensor]:
        memory = torch.zeros(32769, dtype=torch.int64, device=device)
        return memory, torch.zeros(2, device=device)

    def range_in_counts(device: str) -> None:
        counts, _ = state(device)
        operator("histogram_observe_")(
            counts[:-1], counts.view(torch.float32)[:2], torch.ones(3, device=device)
        )

    def input_in_counts(device: str) -> None:
        counts, range_ = state(device)
        operator("histogram_observe_")(counts[:-1], range_, counts.view(torch.float32)[:9])

    check_messages("range in counts", range_in_counts, differences)
    check_messages("input in counts", input_in_counts, differences)

    def strided(device: str) -> list[Tensor]:
        counts = torch.zeros(32768, 3, dtype=torch.int64, device=device)
        range_ = torch.tensor([9.0, 0.5, 9.0, -0.5, 9.0]).to(device)
        operator("histogram_observe_")(counts[:, 1], range_[1::2], floats(9, 13).to(device))
        return [counts, range_]

    expected = strided("cpu")
    found = attempted(lambda: results_difference("", strided(DEVICE), expected))
    differences.add("counts and range with gaps", found)
    differences.report()


# Refusals


@pytest.mark.parametrize("name", OVERLOADS)
def test_refuses_with_the_repair(name: str) -> None:
    differences = Differences()
    call = overload(name)
    for refusal in refusals(name):
        found = message_of(lambda: call(**refusal.right_call(DEVICE)))  # noqa: B023
        differences.add(f"{name}, right", "" if found == NOTHING_RAISED else found)
        message = message_of(lambda: call(**refusal.wrong_call(DEVICE)))  # noqa: B023
        wanted = refusal.message(DEVICE)
        found = "" if message == wanted else f"{message!r}, expected {wanted!r}"
        differences.add(f"{name} {refusal}", found, ", ".join(refusal.wrong.change))
    differences.report()


def codes_out_of_range() -> Iterator[tuple[Tensor, int]]:
    for bits in range(2, 8):
        for length in (1, 16, 37, 5000):
            for position in {0, length // 2, length - 1}:
                for value in (-(1 << (bits - 1)) - 1, 1 << (bits - 1)):
                    codes = torch.zeros(3, length, dtype=I8)
                    codes[1, position] = value
                    yield codes, bits
                codes = torch.zeros(3, length, dtype=U8)
                codes[1, position] = 1 << bits
                yield codes, bits


def test_pack_bits_refuses_values_out_of_range() -> None:
    differences = Differences()
    for codes, bits in codes_out_of_range():
        check_messages(
            f"{codes.dtype} {list(codes.shape)} in {bits} bits",
            lambda device: operator("pack_bits")(codes.to(device), bits),  # noqa: B023
            differences,
        )
    differences.report()
    message = message_of(lambda: operator("pack_bits")(moved(integers(3, 5, low=-9, high=9)), 4))
    assert message.startswith("input must lie in [-8, 7] to fit 4 bits, but got values from -9 to")


def test_arguments_of_both_devices_are_refused() -> None:
    """By torch, which hands them to the GPU's kernel, and there in the operator's own words."""
    if DEVICE == "cpu":
        pytest.skip("it takes two devices")
    for name in WITH_OUT:
        sample = samples(name)[0]
        given = [sample.arguments[0], *map(moved, sample.arguments[1:])]
        message = message_of(lambda: operator(name)(*given, **sample.keywords))  # noqa: B023
        assert "must be on the device of input, cpu, but got cuda:0" in message, name


# The ways to call


@EVERY_OPERATOR
def test_passes_opcheck(name: str) -> None:
    sample = samples(name)[0]
    arguments = tuple(map(moved, sample.arguments))
    torch.library.opcheck(operator(name).default, arguments, sample.keywords)


@pytest.mark.parametrize("name", ["fake_quantize_per_tensor", "fake_quantize_per_channel"])
def test_passes_opcheck_where_grad_is_required(name: str) -> None:
    x, scale, *more = map(moved, samples(name)[0].arguments)
    both = (x.requires_grad_(), scale.requires_grad_())
    torch.library.opcheck(operator(name).default, (*both, *more))


@EVERY_OUT
def test_out_passes_opcheck(name: str) -> None:
    sample = samples(name)[0]
    arguments = tuple(map(moved, sample.arguments))
    out = torch.empty_like(operator(name)(*arguments, **sample.keywords))
    torch.library.opcheck(operator(name).out, arguments, {**sample.keywords, "out": out})


def check_way(name: str, call: Callable[..., Any], arguments: list[Any]) -> None:
    sample = samples(name)[0]
    expected = outcome(name, sample.arguments, sample.keywords)
    found = results_difference(name, outcome(name, [*map(moved, arguments)], call=call), expected)
    assert not found, f"{described_case(name, sample)}: {found}"


# TorchScript is deprecated as a whole.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@EVERY_OPERATOR
def test_scripted(name: str) -> None:
    check_way(name, script(name), all_arguments(name, samples(name)[0]))


@EVERY_OPERATOR
def test_compiled_whole(name: str) -> None:
    torch.compiler.reset()
    op, sample = operator(name), samples(name)[0]
    compiled = torch.compile(
        lambda *arguments: op(*arguments, **sample.keywords), fullgraph=True, backend="aot_eager"
    )
    check_way(name, compiled, [*sample.arguments])


@EVERY_OPERATOR
def test_runs_in_inference_mode(name: str) -> None:
    sample = samples(name)[0]
    with torch.inference_mode():
        check_way(name, lambda *a: operator(name)(*a, **sample.keywords), [*sample.arguments])
