"""That the table of refusals leaves out no argument of any operator, and no kind of wrong value."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from operator_tests import OVERLOADS, operator, overload, written_by
from refusals import HUGE, LOWEST, Refusal, Zeros, refusals
from samples import samples

import torchquant  # noqa: F401  loads torch.ops.torchquant

NAMES = OVERLOADS
# These take tensors of any shape.
ANY_SHAPE = {
    ("choose_qparams_per_tensor", "input"),
    ("quantize_per_tensor", "input"),
    ("quantize_dynamic_per_tensor", "input"),
    ("dequantize_per_tensor", "input"),
    ("fake_quantize_per_tensor", "input"),
    ("fake_quantize_per_tensor_backward", "input"),
    ("histogram_observe_", "input"),
}
DTYPES = {"dtype", "out_dtype", "output_dtype"}  # whose type is int, as schemas print it
# Of a tensor of any size there may be one group.
NO_GREATEST = {"group_size"}


def arguments_of(name: str) -> dict[str, str]:
    """The type of each argument of the operator."""
    return {argument.name: str(argument.type) for argument in overload(name)._schema.arguments}


def tensors_of(name: str) -> list[str]:
    return [argument for argument, of_type in arguments_of(name).items() if "Tensor" in of_type]


def wanted_kinds(name: str, argument: str, of_type: str) -> set[str]:
    """The kinds of wrong values that the table must have, but for another device."""
    if of_type in ("Tensor", "Optional[Tensor]"):
        kinds = {"dtype", "shape"}
        if of_type == "Tensor" and len(tensors_of(name)) > 1:  # torch itself refuses a lone None
            kinds.add("None")
        return kinds - ({"shape"} if (name.partition(".")[0], argument) in ANY_SHAPE else set())
    if argument in DTYPES:
        return {"another dtype", "no dtype"}
    if of_type in ("int", "SymInt"):
        return {"low", "lowest"} | ({"high", "huge"} if argument not in NO_GREATEST else set())
    return {
        "str": {"another string", "empty string"},
        "float": {"low", "high", "NaN", "infinite"},
        "bool": set(),
    }[of_type]


def kinds_of(given: Any, right: Any) -> Iterator[str]:
    """What is wrong with a value, seen from the right one."""
    if given is None:
        yield "None"
    elif isinstance(given, Zeros):
        if given.elsewhere:
            yield "device"
        if right is not None and given.dtype != right.dtype:
            yield "dtype"
        if right is not None and given.shape != right.shape:
            yield "shape"
    elif isinstance(given, str):
        yield "another string" if given else "empty string"
    elif isinstance(given, torch.dtype):
        yield "another dtype"
    elif isinstance(given, float) and not math.isfinite(given):
        yield "NaN" if math.isnan(given) else "infinite"
    elif right is None:
        yield "no dtype"
    else:
        yield from kinds_of_number(given, right)


def kinds_of_number(given: float, right: Any) -> Iterator[str]:
    if isinstance(right, torch.dtype):
        yield "no dtype"
        return
    yield "low" if given < right else "high"
    if given == LOWEST:
        yield "lowest"
    if given == HUGE:
        yield "huge"


def kinds_in_the_table(name: str, argument: str) -> set[str]:
    return {
        kind
        for refusal in refusals(name)
        if argument in refusal.wrong.change
        for kind in kinds_of(refusal.wrong.change[argument], refusal.right.get(argument))
    }


@pytest.mark.any_kernels
@pytest.mark.parametrize("name", NAMES)
def test_every_argument_of_every_operator_has_its_wrong_values(name: str) -> None:
    missing = {
        argument: kinds
        for argument, of_type in arguments_of(name).items()
        if (kinds := wanted_kinds(name, argument, of_type) - kinds_in_the_table(name, argument))
    }
    assert not missing


@pytest.mark.any_kernels
@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_but_one_has_another_device(name: str) -> None:
    """They are compared with that one, to whose device the message says to move them."""
    without = [t for t in tensors_of(name) if "device" not in kinds_in_the_table(name, t)]
    assert len(without) == 1


@pytest.mark.any_kernels
@pytest.mark.parametrize("name", NAMES)
def test_every_message_names_an_argument_shows_what_came_and_ends_with_a_repair(name: str) -> None:
    for refusal in refusals(name):
        message = refusal.message("cpu")
        assert message.split()[0] in arguments_of(name)
        changed = {*refusal.wrong.change}
        if "weight_scale" in changed:
            changed.add("out_features")  # its size
        assert any(re.search(rf"\b{argument}\b", message) for argument in changed)
        assert re.search(r", but got .+: .+", message), message


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".out")])
def test_out_overloads_refuse_with_the_repair(name: str, device: str) -> None:
    for refusal in refusals(name):
        overload(name)(**refusal.right_call(device))
        with pytest.raises(RuntimeError) as error:
            overload(name)(**refusal.wrong_call(device))
        assert str(error.value).splitlines()[0] == refusal.message(device)


@pytest.mark.parametrize("name", [name for name in NAMES if len(tensors_of(name)) == 1])
def test_torch_itself_refuses_none_where_there_is_no_other_tensor(name: str) -> None:
    right = refusals(name)[0].right_call("cpu")
    (tensor,) = tensors_of(name)
    with pytest.raises(NotImplementedError, match="no tensor arguments"):
        overload(name)(**{**right, tensor: None})


def strange_tensors(like: torch.Tensor) -> dict[str, torch.Tensor]:
    """Tensors of other layouts and backends, of this one's shape and values where they can be."""
    matrix = like.float() if like.dim() > 0 else like.float().reshape(1)
    strange = {
        "sparse": like.to_sparse(),
        "quint8": torch.quantize_per_tensor(matrix, 1.0, 0, torch.quint8),
        "qint8": torch.quantize_per_tensor(matrix, 1.0, 0, torch.qint8),
        "mkldnn": matrix.to_mkldnn(),
        "nested": torch.nested.nested_tensor([matrix, matrix]),
    }
    if like.dim() == 2:
        strange["csr"] = like.to_sparse_csr()
    return strange


@pytest.mark.any_kernels
@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning", "ignore:.*nested:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantiz.*:UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_tensors_of_other_layouts_are_refused(name: str) -> None:
    """By torch, which finds no kernel for them, or where it looks for none by the operator."""
    right = refusals(name)[0].right_call("cpu")
    tried = 0
    for argument in tensors_of(name):
        for tensor in strange_tensors(right[argument]).values():
            with pytest.raises(RuntimeError, match=r"Could not run 'torchquant::|must be"):
                overload(name)(**{**right, argument: tensor})
            tried += 1
    assert tried >= 5 * len(tensors_of(name))


@pytest.mark.parametrize("argument", ["counts", "range"])
def test_histogram_qparams_takes_dense_tensors_only(argument: str) -> None:
    """It runs for every backend, so no dispatcher stands before it."""
    right = refusals("histogram_qparams")[0].right_call("cpu")
    for layout, tensor in {
        "Sparse": right[argument].to_sparse(),
        "Mkldnn": right[argument].float().to_mkldnn(),
    }.items():
        with pytest.raises(RuntimeError) as error:
            operator("histogram_qparams")(**{**right, argument: tensor})
        message = (
            f"{argument} must be a dense tensor, but got {layout}: convert it with .to_dense()"
        )
        assert str(error.value).splitlines()[0] == message


@pytest.mark.parametrize("name", [n for n in NAMES if "." not in n and not written_by(n)])
def test_negated_views_are_taken_as_what_they_show(name: str) -> None:
    """The imaginary part of a conjugate is a tensor whose sign torch has yet to change."""
    sample = samples(name)[0]

    def negated(argument: Any) -> Any:
        is_float = isinstance(argument, torch.Tensor) and argument.is_floating_point()
        return torch._neg_view(-argument) if is_float else argument

    seen = operator(name)(*map(negated, sample.arguments), **sample.keywords)
    wanted = operator(name)(*sample.arguments, **sample.keywords)
    for one, other in zip(
        *((r,) if isinstance(r, torch.Tensor) else r for r in (seen, wanted)), strict=True
    ):
        assert torch.equal(one, other)


def test_the_walk_sees_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = refusals("quantize_per_channel")

    def without_axis(name: str) -> list[Refusal]:
        return [one for one in whole if "axis" not in one.wrong.change]

    monkeypatch.setitem(globals(), "refusals", without_axis)
    with pytest.raises(AssertionError, match="axis"):
        test_every_argument_of_every_operator_has_its_wrong_values("quantize_per_channel")


def test_every_schema_is_walked() -> None:
    assert {"quantize_per_tensor.out", "fake_quantize_per_channel_backward"} <= set(NAMES)
    assert len(NAMES) == 40
