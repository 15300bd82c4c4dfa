"""Activations that stay in 8 bits between static layers: where, and that no result changes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from calibrations import calibrated
from models import Nested, Shared, encoder, operator_calls
from operator_tests import assert_same
from samples import floats
from torch import Tensor, nn
from torch.nn import functional as F

import torchquant
from torchquant import Calibration
from torchquant.nn import StaticLinear

U8 = torch.uint8


class Layers(nn.Module):
    """Three layers, a relu and what its subclasses do with them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.relu = nn.ReLU()
        self.between = nn.Identity()
        self.flag = True


def layers(forward: Callable[..., Any], **children: nn.Module) -> Layers:
    model = type("Model", (Layers,), {"forward": forward})().eval()
    for name, child in children.items():
        setattr(model, name, child)
    return model


def static_layers(model: nn.Module) -> dict[str, StaticLinear]:
    return {
        name: module for name, module in model.named_modules() if isinstance(module, StaticLinear)
    }


def links_of(model: nn.Module) -> list[str]:
    """The layers that give codes."""
    return [name for name, layer in static_layers(model).items() if layer.output_scale is not None]


def taken_by(model: nn.Module, *arguments: Any) -> dict[str, list[torch.dtype]]:
    """The dtypes that each static layer really took."""
    taken: dict[str, list[torch.dtype]] = {}
    handles = []
    for name, layer in static_layers(model).items():
        taken[name] = []

        def record(module: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            taken[name].append(inputs[0].dtype)

        handles.append(layer.register_forward_pre_hook(record))
    model(*arguments)
    for handle in handles:
        handle.remove()
    return taken


def flat(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output)


def check(model: nn.Module, expected: list[str], *arguments: Any, **options: Any) -> nn.Module:
    """Exactly the expected links, and the very results of layer by layer."""
    arguments = arguments or (floats(6, 8),)
    calibration = calibrated(model, arguments, **options)
    chained = torchquant.quantize_static(model, calibration)
    apart = torchquant.quantize_static(model, calibration, chain=False)
    assert links_of(chained) == expected
    assert links_of(apart) == []
    with torch.no_grad():
        for x in (arguments, tuple(7 * argument for argument in arguments)):
            for one, other in zip(flat(chained(*x)), flat(apart(*x)), strict=True):
                assert_same(one, other)
        calls = operator_calls("linear_static", apart, *arguments)
        assert operator_calls("linear_static", chained, *arguments) == calls > 0
    return chained


def mlp(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 12), *between, nn.Linear(12, 5)).eval()


def test_a_sequential_keeps_codes_between_its_layers() -> None:
    model = nn.Sequential(
        nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 5)
    ).eval()
    chained = check(model, ["0", "2"])
    assert taken_by(chained, floats(6, 8)) == {"0": [torch.float32], "2": [U8], "4": [U8]}
    assert [type(module) for module in chained] == [
        StaticLinear,
        nn.ReLU,
        StaticLinear,
        nn.ReLU,
        StaticLinear,
    ]
    assert [static_layers(chained)[name].activation for name in ("0", "2", "4")] == [
        "relu",
        "relu",
        "none",
    ]
    assert chained(floats(6, 8)).dtype == torch.float32


def test_the_result_is_that_of_the_reference() -> None:
    model, x = mlp(nn.ReLU()), floats(6, 8)
    calibration = calibrated(model, x)
    chained = torchquant.quantize_static(model, calibration)
    first, last = chained[0], chained[2]
    assert (first.output_scale, first.output_zero_point) == calibration.qparams("2")
    codes = reference.linear_static(
        x,
        *calibration.qparams("0"),
        first.packed_weight,
        first.weight_scale,
        first.weight_sum,
        first.bias,
        "relu",
        *calibration.qparams("2"),
    )
    assert codes.dtype == U8
    assert_same(first(x), codes)
    expected = reference.linear_static(
        codes,
        *calibration.qparams("2"),
        last.packed_weight,
        last.weight_scale,
        last.weight_sum,
        last.bias,
    )
    assert_same(chained(x), expected)


@pytest.mark.parametrize(
    "between",
    [
        [],
        [nn.ReLU(inplace=True)],
        [nn.Dropout(0.5)],
        [nn.ReLU(), nn.Dropout(0.5)],
        [nn.Dropout(0.5), nn.ReLU()],
        [nn.Identity(), nn.ReLU(), nn.Identity()],
        [nn.ReLU(), nn.Flatten()],
        [nn.ReLU(), nn.ReLU()],
    ],
    ids=lambda between: "-".join(type(module).__name__ for module in between) or "nothing",
)
def test_what_keeps_codes_may_stand_between(between: list[nn.Module]) -> None:
    chained = check(mlp(*between), ["0"])
    activation = "relu" if any("ReLU" in repr(module) for module in between) else "none"
    assert static_layers(chained)["0"].activation == activation


@pytest.mark.parametrize(
    "between",
    [
        [nn.GELU()],
        [nn.ReLU6()],
        [nn.LeakyReLU()],
        [nn.Sigmoid()],
        [nn.LayerNorm(12)],
        [nn.ReLU(), nn.Tanh()],
        [nn.Sequential(nn.ReLU())],
        [nn.AlphaDropout(0.5)],
        [nn.BatchNorm1d(12)],
        [nn.Unflatten(1, (1, 12))],
        [nn.Softmax(-1)],
    ],
    ids=lambda between: "-".join(type(module).__name__ for module in between),
)
def test_what_needs_floats_ends_a_chain(between: list[nn.Module]) -> None:
    chained = check(mlp(*between), [])
    assert [type(m) for m in chained] == [StaticLinear, *map(type, between), StaticLinear]


@pytest.mark.parametrize("zeros", ["positive", "negative"])
def test_ranges_of_one_sign(zeros: str) -> None:
    """Zero points at both ends of the codes."""
    model = mlp()
    with torch.no_grad():
        model[0].bias.fill_(100.0 if zeros == "positive" else -100.0)
    chained = check(model, ["0"])
    assert chained[2 - 1].input_zero_point == (0 if zeros == "positive" else 255)
    check(nn.Sequential(model[0], nn.ReLU(), model[1]), ["0"])


def test_links_stay_within_a_sequential() -> None:
    """Its parts may be called by themselves, and then give floats."""
    model = nn.Sequential(
        nn.Sequential(nn.Linear(8, 8), nn.ReLU()),
        nn.Sequential(nn.Sequential(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 8)),
    ).eval()
    chained = check(model, [])
    assert chained[0](floats(6, 8)).dtype == torch.float32
    model = nn.Sequential(mlp(nn.ReLU()), nn.ReLU(), nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8))
    check(model.eval(), ["0.0", "2"])


FORWARDS: dict[str, Callable[..., Any]] = {
    "module": lambda self, x: self.b(self.relu(self.a(x))),
    "torch.relu": lambda self, x: self.b(torch.relu(self.a(x))),
    "torch.relu_": lambda self, x: self.b(torch.relu_(self.a(x))),
    "F.relu": lambda self, x: self.b(F.relu(self.a(x))),
    "F.relu-inplace": lambda self, x: self.b(F.relu(self.a(x), inplace=True)),
    "F.relu_": lambda self, x: self.b(F.relu_(self.a(x))),
    "method": lambda self, x: self.b(self.a(x).relu()),
    "method_": lambda self, x: self.b(self.a(x).relu_()),
    "nothing": lambda self, x: self.b(self.a(x)),
    "flatten": lambda self, x: self.b(torch.flatten(self.relu(self.a(x)), 0, 0)),
    "flatten-method": lambda self, x: self.b(self.relu(self.a(x)).flatten(0, 0)),
    "identity": lambda self, x: self.b(self.between(self.relu(self.a(x)))),
    "keyword": lambda self, x: self.b(input=self.relu(input=self.a(input=x))),
    "floats-afterwards": lambda self, x: torch.tanh(self.b(self.relu(self.a(x)))),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_forwards_with_a_chain(name: str) -> None:
    model = layers(FORWARDS[name])
    del model.c
    chained = check(model, ["a"])
    assert static_layers(chained)["a"].activation == ("none" if name == "nothing" else "relu")


def _reads_twice(self: Any, x: Tensor) -> Tensor:
    h = self.relu(self.a(x))
    return self.b(h) + self.c(h)


def _reads_before_relu(self: Any, x: Tensor) -> Tensor:
    h = self.a(x)
    return self.b(torch.relu(h)) + h


def _residual(self: Any, x: Tensor) -> Tensor:
    return self.b(self.relu(self.a(x) + x))


def _returns_both(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    h = self.relu(self.a(x))
    return self.b(h), h


def _in_place_behind_its_back(self: Any, x: Tensor) -> Tensor:
    h = self.a(x)
    h.mul_(2)
    return self.b(h)


def _called_twice(self: Any, x: Tensor) -> Tensor:
    return self.b(self.relu(self.a(self.relu(self.a(x)))))


def _read_twice(self: Any, x: Tensor) -> Tensor:
    return self.b(self.relu(self.b(self.relu(self.a(x)))))


def _training_branch(self: Any, x: Tensor) -> Tensor:
    h = self.a(x)
    return self.b(h if self.training else torch.tanh(h))


def _of_its_shape(self: Any, x: Tensor) -> Tensor:
    h = self.relu(self.a(x))
    return self.b(h.view(h.shape[0], -1))


def _data_dependent(self: Any, x: Tensor) -> Tensor:
    h = self.relu(self.a(x))
    return self.b(h) if h.sum() > 0 else h


WITHOUT: dict[str, Callable[..., Any]] = {
    "two-readers": _reads_twice,
    "read-before-relu": _reads_before_relu,
    "residual": _residual,
    "returned-too": _returns_both,
    "changed-in-place": _in_place_behind_its_back,
    "writer-called-twice": _called_twice,
    "reader-called-twice": _read_twice,
    "in-training-only": _training_branch,
    "view": _of_its_shape,
    "data-dependent": _data_dependent,
    "gelu": lambda self, x: self.b(F.gelu(self.a(x))),
    "dropout": lambda self, x: self.b(F.dropout(self.a(x), training=self.training)),
    "times-two": lambda self, x: self.b(2 * self.relu(self.a(x))),
    "relu-on-the-way-to-a-sum": lambda self, x: self.relu(self.a(x)) + self.b(x),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_forwards_without_a_chain(name: str) -> None:
    model = layers(WITHOUT[name])
    if name != "two-readers":
        del model.c
    check(model, [])


def test_a_model_in_training_is_chained_as_in_evaluation() -> None:
    """Whose results are compared, as such a model is for evaluation."""
    model = layers(_training_branch)
    del model.c
    calibration = calibrated(model, floats(6, 8))
    model.train()
    assert links_of(torchquant.quantize_static(model, calibration)) == []
    model = layers(FORWARDS["module"])
    del model.c
    calibration = calibrated(model, floats(6, 8))
    chained = torchquant.quantize_static(model.train(), calibration)
    assert links_of(chained) == ["a"]
    assert all(module.training for module in chained.modules())


def _optional(self: Any, x: Tensor, y: Tensor | None = None) -> Tensor:
    h = self.a(x)
    h = torch.tanh(h) if y is None else h
    return self.b(h)


def _optional_relu(self: Any, x: Tensor, y: Tensor | None = None) -> Tensor:
    h = self.a(x)
    return self.b(torch.relu(h) if y is None else h)


def test_branches_on_optional_arguments_end_a_chain() -> None:
    """torch.fx passes something for each argument, and so takes one branch of two."""
    for forward in (_optional, _optional_relu):
        for arguments in ((floats(6, 8),), (floats(6, 8), floats(6, 8))):
            model = layers(forward)
            del model.c
            check(model, [], *arguments)


FORWARDS_OF_MORE: dict[str, Any] = {
    "tensor": lambda self, x, y: self.b(self.relu(self.a(x))) + y,
    "optional": lambda self, x, y=None: self.b(self.relu(self.a(x))),
    "flag": lambda self, x, hidden=False: self.a(x) if hidden is True else self.b(self.a(x)),
    "keywords": lambda self, x, **more: self.a(x) if more else self.b(self.a(x)),
    "mode": lambda self, x, *, mode="plain": self.b(self.relu(self.a(x))),
}


@pytest.mark.parametrize("name", FORWARDS_OF_MORE)
def test_forwards_of_more_than_a_tensor_end_a_chain(name: str) -> None:
    """What else they are given may lead them elsewhere."""
    model = layers(FORWARDS_OF_MORE[name])
    del model.c
    check(model, [], *[floats(6, 8)] * (2 if name == "tensor" else 1))


def test_a_forward_that_keeps_what_it_saw_ends_a_chain() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        h = self.a(x)
        self.seen["hidden"] = [h]
        return self.b(self.relu(h))

    model = layers(forward)
    model.seen = {}
    del model.c
    check(model, [])


def test_another_method_finds_the_relu_it_uses() -> None:
    model = layers(lambda self, x: self.b(self.relu(self.a(x))))
    del model.c
    chained = check(model, ["a"])
    assert chained.relu(torch.tensor([-1.0])) == 0


@pytest.mark.parametrize(
    "steps",
    [
        lambda inner, x: inner[2](torch.tanh(inner[0](x))),
        lambda inner, x: inner[2](torch.relu(inner[0](x))),
        lambda inner, x: inner[1:](inner[:1](x)),
    ],
    ids=["tanh", "relu", "slices"],
)
def test_a_sequential_that_is_never_called_as_a_whole_has_no_chain(steps: Any) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return steps(self.inner, x) if bool((x.sum() != 0).item()) else x

    check(outer(sequential(), forward), [])


def test_links_leave_out_what_a_part_has() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.c[0](torch.relu(self.b(torch.relu(self.a(x)))))

    model = layers(forward, c=nn.Sequential(nn.Linear(8, 8)))
    check(model, ["a"])


def test_an_encoder_may_be_called_without_its_decoder() -> None:
    model = nn.Sequential(mlp(nn.ReLU()), nn.Sequential(nn.ReLU(), nn.Linear(5, 8))).eval()
    chained = check(model, ["0.0"])
    assert chained[0](floats(6, 8)).dtype == torch.float32


def test_other_methods_may_be_called_without_forward() -> None:
    def encode(self: Any, x: Tensor) -> Tensor:
        return self.relu(self.a(x))

    model = layers(lambda self, x: self.b(self.encode(x)))
    type(model).encode = encode
    del model.c
    chained = check(model, [])
    assert chained.encode(floats(6, 8)).dtype == torch.float32


def test_an_active_dropout_ends_a_chain() -> None:
    model = mlp(nn.ReLU(), nn.Dropout(0.5)).train()
    calibration = calibrated(model, (floats(6, 8),))
    static = torchquant.quantize_static(model, calibration)
    assert links_of(static) == []
    assert static(floats(6, 8)).dtype == torch.float32


def test_a_forward_of_an_instance_is_what_it_does() -> None:
    model = mlp(nn.ReLU())
    model[1].forward = torch.tanh
    check(model, [])


def test_branches_on_types_end_a_chain() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(torch.tanh(h) if isinstance(h, Tensor) else h)

    model = layers(forward)
    del model.c
    check(model, [])


def test_forwards_that_cannot_be_traced_stay_in_float_between_layers() -> None:
    model = layers(lambda self, *x: self.b(self.relu(self.a(x[0] if len(x) else None))))
    del model.c
    check(model, [])


def test_a_part_that_can_be_traced_in_a_model_that_cannot() -> None:
    inner = mlp(nn.ReLU())

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(8, 8)
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.inner(x) if bool((x.sum() != 0).item()) else x

    check(Outer().eval(), ["inner.0"])


def test_loops_over_a_list_of_layers() -> None:
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stack = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.stack[:-1]:
                x = torch.relu(layer(x))
            return self.stack[-1](x)

    check(Stack().eval(), ["stack.0", "stack.1"])


def test_a_shared_layer_is_in_no_chain() -> None:
    check(Shared().eval(), [], floats(5, 16))
    shared = nn.Linear(8, 8)
    check(nn.Sequential(shared, nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), shared).eval(), [])


def test_a_relu_shared_by_two_places_is_left_there() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(
        nn.Linear(8, 8), relu, nn.Linear(8, 8), nn.Tanh(), relu, nn.Linear(8, 8)
    ).eval()
    chained = check(model, ["0"])
    assert chained[1] is chained[4]
    assert type(chained[1]) is nn.ReLU


def test_a_relu_called_twice_is_left_there() -> None:
    model = layers(lambda self, x: self.c(torch.tanh(self.relu(self.b(self.relu(self.a(x)))))))
    chained = check(model, ["a"])
    assert type(chained.relu) is nn.ReLU


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.relu = nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.relu(self.a(x)))


def outer(inner: nn.Module, forward: Callable[..., Tensor]) -> nn.Module:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

    Outer.forward = forward
    return Outer().eval()


CALLED_ELSEWHERE: dict[str, Callable[..., Tensor]] = {
    "writer": lambda self, x: self.inner(x) + self.inner.a(x),
    "reader": lambda self, x: self.inner(x) + self.inner.b(x),
    "both": lambda self, x: self.inner(x) + self.inner.a(x) + self.inner.b(x),
}


@pytest.mark.parametrize("name", CALLED_ELSEWHERE)
def test_a_layer_called_by_another_parent_too_is_in_no_chain(name: str) -> None:
    check(outer(Inner(), CALLED_ELSEWHERE[name]), [])


def sequential() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))


@pytest.mark.parametrize("name", CALLED_ELSEWHERE)
def test_a_layer_of_a_sequential_called_by_its_parent_too_is_in_no_chain(name: str) -> None:
    forward: dict[str, Callable[..., Tensor]] = {
        "writer": lambda self, x: self.inner(x) + self.inner[0](x),
        "reader": lambda self, x: self.inner(x) + self.inner[2](x),
        "both": lambda self, x: self.inner(x) + self.inner[0](x) + self.inner[2](x),
    }
    check(outer(sequential(), forward[name]), [])


def test_layers_with_a_second_name_are_in_no_chain() -> None:
    """Under which a parent that cannot be traced may call them."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.inner(x) + (self.a(x) + self.b(x) if bool((x.sum() != 0).item()) else 0)

    model = outer(sequential(), forward)
    model.a, model.b = model.inner[0], model.inner[2]
    check(model, [])


def test_a_relu_called_by_another_parent_too_is_left_there() -> None:
    chained = check(outer(Inner(), lambda self, x: self.inner.relu(self.inner(x))), ["inner.a"])
    assert type(chained.inner.relu) is nn.ReLU
    chained = check(outer(sequential(), lambda self, x: self.inner[1](self.inner(x))), ["inner.0"])
    assert type(chained.inner[1]) is nn.ReLU


def test_a_module_called_twice_keeps_its_chain() -> None:
    def twice(self: Any, x: Tensor) -> Tensor:
        return self.inner(x) + self.inner(torch.tanh(x))

    check(outer(Inner(), twice), ["inner.a"])
    check(outer(sequential(), twice), ["inner.0"])


def test_a_part_of_nested_sequentials_called_apart_is_in_no_chain() -> None:
    inner = nn.Sequential(nn.Sequential(nn.Linear(8, 8)), nn.Sequential(nn.ReLU(), nn.Linear(8, 8)))
    check(outer(inner, lambda self, x: self.inner(x) + self.inner[0](x) + self.inner[1](x)), [])


@pytest.mark.parametrize("hooked", [1, 2])
def test_hooks_between_end_a_chain(hooked: int) -> None:
    """They may change what passes, and see floats as they did."""
    model, x = mlp(nn.ReLU(), nn.Identity()), floats(6, 8)
    model[hooked].register_forward_hook(lambda module, arguments, output: 2 * output)
    check(model, [], x)


def test_tracing_has_no_effect_on_the_model() -> None:
    class Counting(Inner):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))
            self.seen: Any = None

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            self.seen = x.shape
            return super().forward(x)

    model = Counting().eval()
    calibration = calibrated(model, floats(6, 8))
    for inplace in (False, True):
        quantized = torchquant.quantize_static(model, calibration, inplace=inplace)
        assert quantized.count == 1
        assert quantized.seen == (6, 8)
        pickle.dumps(quantized.seen)


def test_a_layer_between_that_stays_in_float_ends_a_chain() -> None:
    model, x = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4))).eval(), floats(6, 8)
    calibration = calibrated(model, x, filter_fn=lambda module, name: name != "1")
    chained = torchquant.quantize_static(model, calibration)
    assert links_of(chained) == ["2"]
    assert type(chained[1]) is nn.Linear
    chained = torchquant.quantize_static(
        model, calibration, filter_fn=lambda module, name: name != "3"
    )
    assert links_of(chained) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_models_are_in_no_chain(dtype: torch.dtype) -> None:
    """Their activations are rounded to 16 bits between layers, which codes would skip."""
    chained = check(mlp(nn.ReLU()).to(dtype), [], floats(6, 8, dtype=dtype))
    assert taken_by(chained, floats(6, 8, dtype=dtype)) == {"0": [dtype], "2": [dtype]}


def test_layers_without_bias() -> None:
    model = nn.Sequential(
        nn.Linear(8, 12, bias=False), nn.ReLU(), nn.Linear(12, 5, bias=False)
    ).eval()
    check(model, ["0"])


def test_leading_dimensions_and_no_rows() -> None:
    model = mlp(nn.ReLU())
    chained = check(model, ["0"], floats(2, 3, 8))
    assert chained(floats(0, 8)).shape == (0, 5)
    assert chained(floats(8)).shape == (5,)


def test_models_of_many_kinds_compute_the_same() -> None:
    torch.manual_seed(0)
    check(Nested().eval(), [], floats(2, 5, 12))
    check(encoder().eval(), [], floats(2, 5, 16))


def test_links_in_the_feed_forward_of_an_encoder_need_no_tracing_of_it() -> None:
    """nn.TransformerEncoderLayer is not traceable, so its linear1 and linear2 stay apart."""
    model, x = encoder().eval(), floats(2, 5, 16)
    chained = torchquant.quantize_static(model, calibrated(model, x))
    assert {dtype for taken in taken_by(chained, x).values() for dtype in taken} == {torch.float32}


def test_a_chain_interrupted_in_calibration_is_none() -> None:
    """Where the counts of calls differ, another caller cannot be told."""
    model, x = mlp(nn.ReLU()), floats(6, 8)
    calibration = calibrated(model, x)
    calibration.calls["0"] += 1
    assert links_of(torchquant.quantize_static(model, calibration)) == []


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_a_chain(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    model, x = mlp(nn.ReLU()), floats(6, 8)
    chained = torchquant.quantize_static(model, calibrated(model, x))
    assert links_of(duplicate(chained)) == ["0"]
    assert_same(duplicate(chained)(x), chained(x))


def test_the_state_dict_of_a_chain_round_trips() -> None:
    x = floats(6, 8)
    one, other = mlp(nn.ReLU()), mlp(nn.ReLU())
    chained = torchquant.quantize_static(one, calibrated(one, x))
    loaded = torchquant.quantize_static(other, calibrated(other, 5 * x))
    loaded.load_state_dict(chained.state_dict())
    assert_same(loaded(x), chained(x))


# TorchScript is deprecated as a whole.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.any_kernels
def test_chains_script_compile_and_export() -> None:
    model, x, more = mlp(nn.ReLU(), nn.Dropout(0.1)), floats(6, 8), floats(20, 8)
    chained = torchquant.quantize_static(model, calibrated(model, x))
    torch.compiler.reset()
    rows = {0: torch.export.Dim.DYNAMIC}
    for road in (
        torch.jit.script(chained),
        torch.jit.trace(chained, (x,)),
        torch.compile(chained, fullgraph=True, backend="aot_eager"),
        torch.export.export(chained, (x,), dynamic_shapes=(rows,)).module(),
    ):
        assert_same(road(x), chained(x))
        assert_same(road(more), chained(more))


def test_each_method_chains() -> None:
    model, x = mlp(nn.ReLU()), floats(60, 8)
    calibration = calibrated(model, x)
    assert isinstance(calibration, Calibration)
    for method in ("minmax", "percentile", "mse", "entropy"):
        chained = torchquant.quantize_static(model, calibration, method=method)
        apart = torchquant.quantize_static(model, calibration, method=method, chain=False)
        assert_same(chained(x), apart(x))
        assert (chained[0].output_scale, chained[0].output_zero_point) == calibration.qparams(
            "2", method=method
        )
