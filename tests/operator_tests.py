"""The tests that every operator passes, fed by its samples; test_<subject>.py subclasses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
import reference
import torch
from guarded import guarded
from refusals import Refusal
from samples import Sample, samples, unaligned
from torch import Tensor

import torchquant  # noqa: F401  loads torch.ops.torchquant

Results = Tensor | Sequence[Tensor]
# Every operator of tensors, and every overload, as torch.ops.torchquant names them.
OVERLOADS = sorted(
    schema.name.removeprefix("torchquant::") + (f".{schema.overload_name}").rstrip(".")
    for schema in torch._C._jit_get_all_schemas()
    if schema.name.startswith("torchquant::") and schema.arguments
)


def operator(name: str) -> Callable[..., Any]:
    return getattr(torch.ops.torchquant, name)


def assert_same(result: Results, expected: Results) -> None:
    """Equal to the last bit (any NaN equals any NaN), and fresh as every result: contiguous."""
    if not isinstance(result, Tensor):
        assert len(result) == len(expected)
        for one, other in zip(result, expected, strict=True):
            assert_same(one, other)
        return
    assert isinstance(expected, Tensor)
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    assert result.is_contiguous()
    if not torch.equal(bits_of(result), bits_of(expected)):
        wrong = torch.nonzero(bits_of(result) != bits_of(expected).reshape(result.shape))
        first = tuple(wrong[0].tolist())
        pytest.fail(
            f"{len(wrong)} of {result.numel()} values differ, the first at {first}: "
            f"got {result[first].item()!r}, expected {expected[first].item()!r}"
        )


def bits_of(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if not tensor.is_floating_point():
        return tensor
    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16}[tensor.element_size()]
    same_nan = torch.full_like(tensor, torch.nan)
    return torch.where(tensor.isnan(), same_nan, tensor).contiguous().view(integers)


def overload(name: str) -> Any:
    """Of an operator or, as `operator.overload`, of one of its overloads."""
    base, _, which = name.partition(".")
    return getattr(operator(base), which or "default")


def written_by(name: str) -> list[int]:
    """The positions of the arguments that the operator writes into; of most none."""
    arguments = operator(name).default._schema.arguments
    return [i for i, a in enumerate(arguments) if a.alias_info and a.alias_info.is_write]


def outcome(
    name: str,
    arguments: Sequence[Any],
    keywords: dict[str, Any] | None = None,
    call: Callable[..., Any] | None = None,
) -> Results:
    """What the operator returns, or where it writes into arguments, copies of them as written."""
    call = call or operator(name)
    written = written_by(name)
    if not written:
        result: Results = call(*arguments, **keywords or {})
        return result
    copies = [a.clone() if i in written else a for i, a in enumerate(arguments)]
    assert call(*copies, **keywords or {}) is None
    return [copies[i] for i in written]


def outcome_of(name: str, sample: Sample) -> Results:
    return outcome(name, sample.arguments, sample.keywords)


def script(name: str) -> Callable[..., Any]:
    """A TorchScript function that calls the operator with all of its arguments."""
    schema = operator(name).default._schema
    types = {"number": "float", "SymInt": "int", "ScalarType": "int"}
    declared = ", ".join(
        f"{argument.name}: {types.get(str(argument.type), str(argument.type))}"
        for argument in schema.arguments
    )
    passed = ", ".join(
        f"{argument.name}={argument.name}" if argument.kwarg_only else argument.name
        for argument in schema.arguments
    )
    returned = "return " if schema.returns else ""
    unit = torch.jit.CompilationUnit(
        f"def call({declared}):\n    {returned}torch.ops.torchquant.{name}({passed})\n"
    )
    return unit.call


def all_arguments(name: str, sample: Sample) -> list[Any]:
    """The sample's arguments with the schema's defaults filled in."""
    given = dict(sample.keywords)
    schema = operator(name).default._schema
    arguments = list(sample.arguments)
    for argument in schema.arguments[len(arguments) :]:
        arguments.append(given.pop(argument.name, argument.default_value))
    assert not given
    return arguments


class OperatorTests:
    """Subclasses name the operator, and for export one more call of other sizes."""

    name: ClassVar[str]

    def test_equals_the_reference(self, sample: Sample) -> None:
        result = outcome_of(self.name, sample)
        expected = getattr(reference, self.name)(*sample.arguments, **sample.keywords)
        self.assert_same(result, expected)

    def assert_same(self, result: Results, expected: Results) -> None:
        assert_same(result, expected)

    def test_leaves_its_arguments_alone(self, sample: Sample) -> None:
        def tensors() -> list[Tensor]:
            return [argument for argument in sample.arguments if isinstance(argument, Tensor)]

        before = [argument.clone() for argument in tensors()]
        outcome_of(self.name, sample)
        for argument, copy in zip(tensors(), before, strict=True):
            assert torch.equal(bits_of(argument), bits_of(copy))

    def test_runs_in_inference_mode(self, sample: Sample) -> None:
        expected = outcome_of(self.name, sample)
        with torch.inference_mode():
            result = outcome_of(self.name, sample)
        assert_same(result, expected)

    def test_unaligned_storage_changes_nothing(self, sample: Sample) -> None:
        arguments = [
            unaligned(argument) if isinstance(argument, Tensor) and argument.numel() else argument
            for argument in sample.arguments
        ]
        result = outcome(self.name, arguments, sample.keywords)
        assert_same(result, outcome_of(self.name, sample))

    @pytest.mark.parametrize("at_end", [False, True], ids=["begin", "end"])
    def test_touches_nothing_beyond_its_arguments(self, sample: Sample, at_end: bool) -> None:
        """Each begins, or ends, where a page does that no process may touch."""
        arguments = [
            guarded(argument, at_end) if isinstance(argument, Tensor) else argument
            for argument in sample.arguments
        ]
        expected = outcome_of(self.name, sample)
        written = written_by(self.name)
        result = operator(self.name)(*arguments, **sample.keywords)
        assert_same([arguments[i] for i in written] if written else result, expected)

    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_refuses_with_the_repair(self, refusal: Refusal, device: str) -> None:
        """Meta has the same checks, so torch.compile and torch.export say the same."""
        operator(self.name)(**refusal.right_call(device))
        with pytest.raises(RuntimeError) as error:
            operator(self.name)(**refusal.wrong_call(device))
        assert str(error.value).splitlines()[0] == refusal.message(device)

    @pytest.mark.any_kernels
    def test_passes_opcheck(self, sample: Sample) -> None:
        torch.library.opcheck(operator(self.name).default, sample.arguments, sample.keywords)

    # TorchScript is deprecated as a whole.
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.any_kernels
    def test_scripted_equals_eager(self, sample: Sample) -> None:
        result = outcome(self.name, all_arguments(self.name, sample), call=script(self.name))
        assert_same(result, outcome_of(self.name, sample))

    @pytest.mark.any_kernels
    def test_compiled_whole_equals_eager(self, sample: Sample) -> None:
        torch.compiler.reset()
        op, keywords = operator(self.name), sample.keywords
        compiled = torch.compile(
            lambda *arguments: op(*arguments, **keywords), fullgraph=True, backend="aot_eager"
        )
        result = outcome(self.name, sample.arguments, call=compiled)
        assert_same(result, outcome_of(self.name, sample))

    @pytest.mark.any_kernels
    def test_input_that_requires_grad_gives_a_result_that_does_not(
        self, recwarn: pytest.WarningsRecorder
    ) -> None:
        sample = samples(self.name)[0]
        arguments = [
            argument.clone().requires_grad_()
            if isinstance(argument, Tensor)
            and argument.is_floating_point()
            and position not in written_by(self.name)
            else argument
            for position, argument in enumerate(sample.arguments)
        ]
        result = outcome(self.name, arguments, sample.keywords)
        for tensor in [result] if isinstance(result, Tensor) else result:
            assert not tensor.requires_grad
        assert not recwarn.list
        assert_same(result, outcome_of(self.name, sample))

    def exported(self) -> tuple[Callable[..., Any], tuple[Tensor, ...], tuple[Tensor, ...], Any]:
        """A function of tensors that calls the operator; two calls; its dynamic dimensions."""
        raise NotImplementedError

    @pytest.mark.any_kernels
    def test_exports_with_dynamic_dimensions(self) -> None:
        function, arguments, others, dynamic_shapes = self.exported()

        class Module(torch.nn.Module):
            def forward(self, *arguments: Tensor) -> Any:
                return function(*arguments)

        program = torch.export.export(Module(), arguments, dynamic_shapes=(dynamic_shapes,))
        for call in (arguments, others):
            assert_same(program.module()(*call), function(*call))
