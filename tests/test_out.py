"""The .out overloads: results in a tensor of the caller's, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from operator_tests import all_arguments, assert_same, operator
from samples import F16, I8, I32, U8, Sample, floats, samples
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


def test_refuses_memory_that_is_shared() -> None:
    codes = torch.zeros(8, 16, dtype=I8)
    qparams = (torch.tensor(0.5), torch.tensor(3, dtype=I32))
    overlapping = torch.zeros(1, 16).expand(8, 16)
    with pytest.raises(RuntimeError, match="unsupported operation: more than one element"):
        operator("dequantize_per_tensor").out(codes, *qparams, out=overlapping)
    storage = torch.zeros(129, dtype=torch.float32)
    x, out = storage[:128], storage.view(I8)[4:132]
    with pytest.raises(RuntimeError, match="unsupported operation: some elements of the input"):
        operator("quantize_per_tensor").out(x, *qparams, -128, 127, I8, out=out)


def quantize_into(out: Tensor) -> None:
    qparams = (torch.tensor(0.5), torch.tensor(3, dtype=I32))
    operator("dequantize_per_tensor").out(torch.ones(out.shape, dtype=I8), *qparams, out=out)


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
