"""The .out overloads: results in a tensor of the caller's, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from guarded import guarded
from operator_tests import all_arguments, assert_same, operator
from samples import F16, I8, I32, U8, Sample, floats, integers, samples
from torch import Tensor

from torchquant import ops

NAMES = (
    *(
        f"{verb}_per_{granularity}"
        for verb in ("quantize", "dequantize")
        for granularity in ("tensor", "channel", "group", "token")
    ),
    "fake_quantize_per_tensor",
    "fake_quantize_per_channel",
)
CASES = [
    pytest.param(name, sample, id=f"{name}-{sample}") for name in NAMES for sample in samples(name)
]
QPARAMS = (torch.tensor(0.5), torch.tensor(3, dtype=I32))
MEND = "pass torch.empty_like(input, dtype=...), nothing is resized or converted"


def expected_of(name: str, sample: Sample) -> Tensor:
    result: Tensor = operator(name)(*sample.arguments, **sample.keywords)
    return result


def call_out(name: str, sample: Sample, out: Tensor) -> None:
    assert operator(name).out(*sample.arguments, **sample.keywords, out=out) is None


@pytest.mark.parametrize(("name", "sample"), CASES)
def test_equals_the_fresh_result(name: str, sample: Sample) -> None:
    expected = expected_of(name, sample)
    out = torch.empty_like(expected)
    call_out(name, sample, out)
    assert_same(out, expected)
    again = torch.empty_like(expected)
    returned = getattr(ops, name)(*sample.arguments, **sample.keywords, out=again)
    assert returned is again
    assert_same(again, expected)


@pytest.mark.parametrize(("name", "sample"), CASES)
def test_any_strides(name: str, sample: Sample) -> None:
    expected = expected_of(name, sample)
    spread = torch.empty(*expected.shape, 3, dtype=expected.dtype).fill_(7)
    call_out(name, sample, spread[..., 1])
    assert_same(spread[..., 1].contiguous(), expected)
    assert (spread[..., 0] == 7).all()
    assert (spread[..., 2] == 7).all()
    reverse = list(range(expected.dim()))[::-1]
    turned = torch.empty(expected.shape[::-1], dtype=expected.dtype).permute(reverse)
    call_out(name, sample, turned)
    assert_same(turned.contiguous(), expected)


@pytest.mark.parametrize("at_end", [False, True], ids=["begin", "end"])
@pytest.mark.parametrize(("name", "sample"), CASES)
def test_touches_nothing_beyond_it(name: str, sample: Sample, at_end: bool) -> None:
    """A result begins, or ends, where a page does that no process may touch."""
    expected = expected_of(name, sample)
    reverse = list(range(expected.dim()))[::-1]
    for like in (torch.empty_like(expected), torch.empty(expected.shape[::-1]).permute(reverse)):
        out = guarded(like.to(expected.dtype), at_end)
        call_out(name, sample, out)
        assert_same(out.contiguous(), expected)


@pytest.mark.parametrize("name", NAMES)
def test_refuses_another_shape_or_dtype(name: str) -> None:
    sample = samples(name)[0]
    expected = expected_of(name, sample)
    wanted = str(expected.dtype)
    wrong_dtype = torch.empty(expected.shape, dtype=torch.int64)
    with pytest.raises(RuntimeError) as error:
        call_out(name, sample, wrong_dtype)
    message = f"out must be {wanted}, but got torch.int64: {MEND}"
    assert str(error.value).splitlines()[0] == message
    for shape in ([*expected.shape, 1], [1], [*expected.shape[:-1], expected.shape[-1] + 1]):
        out = torch.empty(shape, dtype=expected.dtype)
        with pytest.raises(RuntimeError) as error:
            call_out(name, sample, out)
        message = (
            f"out must have shape {list(expected.shape)}, that of input, but got {shape}: {MEND}"
        )
        assert str(error.value).splitlines()[0] == message
        assert list(out.shape) == shape


@pytest.mark.parametrize("name", NAMES)
def test_refuses_another_device(name: str) -> None:
    sample = samples(name)[0]
    with pytest.raises(RuntimeError, match="out must be on the device of input, cpu, but got meta"):
        call_out(name, sample, torch.empty_like(expected_of(name, sample), device="meta"))


OWN_MEMORY = "pass one with memory of its own, as torch.empty_like makes it"


def bytes_of(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format).view(U8)


def refused(name: str, *arguments: Any, out: Tensor) -> str:
    before = bytes_of(out)
    with pytest.raises(RuntimeError) as error:
        operator(name).out(*arguments, out=out)
    assert torch.equal(bytes_of(out), before)
    return str(error.value).splitlines()[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shared", ["input", "scale", "zero_point"])
def test_refuses_memory_of_an_argument(name: str, shared: str) -> None:
    """As a whole or in part, whatever the dtypes; in place is no exception."""
    sample = samples(name)[0]
    expected = expected_of(name, sample)
    arguments = dict(zip(("input", "scale", "zero_point"), sample.arguments, strict=False))
    owner = arguments[shared]
    size, room = owner.numel() * owner.element_size(), expected.numel() * expected.element_size()
    for offset in {0, (size - 1) // 4 * 4}:
        memory = torch.zeros(size + room + 16, dtype=torch.int8)
        arguments[shared] = memory[:size].view(owner.dtype).view(owner.shape)
        arguments[shared].copy_(owner)
        out = memory[offset : offset + room].view(expected.dtype).view(expected.shape)
        message = refused(name, *arguments.values(), *sample.arguments[3:], out=out)
        wanted = f"out must not share memory with {shared}, but got one that does: {OWN_MEMORY}"
        assert message == wanted


def overlapping(shape: tuple[int, int], strides: tuple[int, int]) -> Tensor:
    return torch.zeros(100).as_strided(shape, strides)


@pytest.mark.parametrize(
    "strides", [(0, 1), (1, 0), (0, 0), (1, 1), (2, 1), (3, 1), (1, 2), (2, 3)]
)
def test_refuses_elements_in_one_place(strides: tuple[int, int]) -> None:
    out = overlapping((3, 4), strides)
    message = refused("dequantize_per_tensor", torch.ones(3, 4, dtype=I8), *QPARAMS, out=out)
    assert message == (
        "out must have a place of its own in memory for each element, but got strides "
        f"{list(strides)} for shape [3, 4]: {OWN_MEMORY}"
    )


@pytest.mark.parametrize("strides", [(4, 1), (1, 3), (5, 1), (1, 4), (9, 2)])
def test_takes_elements_that_lie_apart(strides: tuple[int, int]) -> None:
    codes, out = integers(3, 4), overlapping((3, 4), strides)
    operator("dequantize_per_tensor").out(codes, *QPARAMS, out=out)
    assert_same(out.contiguous(), operator("dequantize_per_tensor")(codes, *QPARAMS))


@pytest.mark.parametrize(
    "out",
    [
        pytest.param(lambda memory: memory[:, ::2], id="in-place"),
        pytest.param(lambda memory: memory[:, 1::2], id="in-its-gaps"),
        pytest.param(lambda memory: memory.flatten()[:4096].view(64, 64), id="in-part-and-gaps"),
        pytest.param(lambda memory: memory.flatten()[3:4099].view(64, 64), id="further-on"),
        pytest.param(lambda memory: memory[:, :64], id="beside"),
    ],
)
def test_an_input_with_gaps_is_read_before_what_lies_among_them_is_written(
    out: Callable[[Tensor], Tensor],
) -> None:
    """A row of keys and values holds codes and scales: views that interleave are no mistake."""
    memory = floats(64, 128)
    expected = operator("fake_quantize_per_tensor")(memory[:, ::2], *QPARAMS, -128, 127)
    written = out(memory)
    operator("fake_quantize_per_tensor").out(memory[:, ::2], *QPARAMS, -128, 127, out=written)
    assert_same(written.contiguous(), expected)


def quantize_into(out: Tensor) -> None:
    operator("dequantize_per_tensor").out(torch.ones(out.shape, dtype=I8), *QPARAMS, out=out)


def test_autograd_notices_that_a_saved_tensor_has_changed() -> None:
    saved = torch.ones(5)
    weight = torch.ones(5, requires_grad=True)
    product = (weight * saved).sum()
    before = saved._version
    quantize_into(saved)
    assert saved._version == before + 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("name", NAMES)
def test_bumps_the_version_of_what_it_writes(name: str) -> None:
    sample = samples(name)[0]
    out = torch.empty_like(expected_of(name, sample))
    for times in (1, 2):
        call_out(name, sample, out)
        assert out._version == times


def test_refuses_to_write_what_requires_grad() -> None:
    leaf = torch.ones(5, requires_grad=True)
    with pytest.raises(
        RuntimeError, match=r"out must not require grad, but it does: .*\.detach\(\)"
    ):
        quantize_into(leaf)
    with torch.no_grad():
        quantize_into(leaf)
    assert leaf[0] == -1


def test_inference_mode() -> None:
    with torch.inference_mode():
        out = torch.empty(5)
        quantize_into(out)
        quantize_into(torch.empty(6)[1:])
    assert out[0] == -1


@pytest.mark.any_kernels
@pytest.mark.parametrize(("name", "sample"), CASES)
def test_passes_opcheck(name: str, sample: Sample) -> None:
    out = torch.empty_like(expected_of(name, sample))
    torch.library.opcheck(operator(name).out, sample.arguments, {**sample.keywords, "out": out})


@pytest.mark.any_kernels
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_scripted(name: str) -> None:
    schema = operator(name).out._schema
    types = {"number": "float", "ScalarType": "int"}
    declared = ", ".join(
        f"{a.name}: {types.get(str(a.type), str(a.type))}" for a in schema.arguments
    )
    passed = ", ".join(f"{a.name}={a.name}" if a.kwarg_only else a.name for a in schema.arguments)
    unit = torch.jit.CompilationUnit(
        f"def call({declared}):\n    torch.ops.torchquant.{name}({passed})\n    return out\n"
    )
    sample = samples(name)[0]
    expected = expected_of(name, sample)
    arguments = all_arguments(name, sample)
    assert_same(unit.call(*arguments, torch.empty_like(expected)), expected)


@pytest.mark.any_kernels
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # inductor's own
def test_compiled_whole(backend: str) -> None:
    qparams = (torch.tensor(0.1), torch.tensor(7, dtype=I32))

    def function(x: Tensor, codes: Tensor) -> Any:
        torch.ops.torchquant.quantize_per_tensor.out(x * 2, *qparams, 0, 255, U8, out=codes)
        return codes.to(F16) + 1

    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    x, codes, wanted = floats(9, 13), torch.empty(9, 13, dtype=U8), torch.empty(9, 13, dtype=U8)
    assert_same(compiled(x, codes), function(x, wanted))
    assert_same(codes, wanted)


@pytest.mark.any_kernels
def test_exports_with_dynamic_dimensions() -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
            codes = torch.empty_like(x, dtype=torch.uint8)
            torch.ops.torchquant.quantize_per_token.out(
                x, scale, zero_point, 0, 255, torch.uint8, out=codes
            )
            return codes

    def call(rows: int, columns: int) -> tuple[Tensor, ...]:
        x = floats(rows, columns)
        return x, *ops.choose_qparams_per_token(x, 0, 255, False)

    every = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    rows = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(Module(), call(5, 9), dynamic_shapes=(every, rows, rows))
    for arguments in (call(5, 9), call(7, 40)):
        expected = ops.quantize_per_token(*arguments, 0, 255, U8)
        assert_same(program.module()(*arguments), expected)
