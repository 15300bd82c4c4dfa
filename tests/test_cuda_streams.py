"""What only a GPU has: streams, graphs, calls that return before they are done, and memory for
more elements than 32 bits count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
import torch
from on_device import (
    DEVICE,
    SYNCHRONISING,
    VALUES,
    WITH_OUT,
    Differences,
    attempted,
    described_difference,
    moved,
    needs_gpu,
    results_difference,
)
from operator_tests import Results, operator, outcome, overload, written_by
from samples import (
    F16,
    I8,
    I32,
    OPERATORS,
    U8,
    Sample,
    bytes_,
    floats,
    samples,
    scales,
    zero_points,
)
from torch import Tensor, nn
from workload import large_samples

from torchquant.nn import DynamicLinear, StaticLinear, WeightOnlyLinear

pytestmark = [
    needs_gpu,
    pytest.mark.any_kernels,
    pytest.mark.filterwarnings("ignore:.*CUDA Graph is empty", "ignore:.*prototype feature"),
]

EVERY_OPERATOR = pytest.mark.parametrize("name", OPERATORS)
ASYNCHRONOUS = [name for name in OPERATORS if name not in SYNCHRONISING]
CYCLES = 20_000_000  # some 10 ms of the GPU


def other_values(name: str, sample: Sample) -> Sample:
    """The same call with other values in the arguments whose values are free."""
    names = [argument.name for argument in overload(name)._schema.arguments]

    def other(argument: Any, name: str) -> Any:
        if not isinstance(argument, Tensor):
            return argument
        if name in VALUES:
            return argument.flip([*range(argument.dim())])
        if name.endswith(("scale", "zero_point")):
            return argument * 2 if argument.is_floating_point() else argument + 1
        return argument

    given = zip(sample.arguments, names, strict=False)
    return Sample(sample.name, tuple(other(*pair) for pair in given), sample.keywords)


def fill(arguments: Sequence[Any], values: Sequence[Any]) -> None:
    for argument, value in zip(arguments, values, strict=True):
        if isinstance(argument, Tensor):
            argument.copy_(value)


def results_of(name: str, arguments: Sequence[Any], returned: Any) -> Results:
    """Copies of what the operator returned, or wrote into its arguments."""
    written = written_by(name)
    results = [arguments[i] for i in written] if written else returned
    if isinstance(results, Tensor):
        return results.clone()
    return [result.clone() for result in results]


Call = Callable[[str, Sample, Sample], Results]


def check_with_other_values(name: str, given: Sequence[Sample], call: Call) -> None:
    """`call` begins with the values of a sample; its result is that of the others."""
    differences = Differences()
    for sample in given:
        others = other_values(name, sample)
        expected = outcome(name, others.arguments, others.keywords)
        found = attempted(
            lambda: results_difference(name, call(name, sample, others), expected)  # noqa: B023
        )
        differences.add(*described_difference(name, sample, found))
    differences.report()


# Streams


def on_another_stream(name: str, sample: Sample, others: Sample) -> Results:
    """Where the arguments get their values late, so that who does not wait reads old ones."""
    arguments, values = [*map(moved, sample.arguments)], [*map(moved, others.arguments)]
    warm = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
    operator(name)(*warm, **sample.keywords)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(CYCLES)
        fill(arguments, values)
        returned = operator(name)(*arguments, **sample.keywords)
        results = results_of(name, arguments, returned)
    stream.synchronize()
    return results


@EVERY_OPERATOR
def test_another_stream(name: str) -> None:
    check_with_other_values(name, samples(name), on_another_stream)


@EVERY_OPERATOR
def test_streams_at_once_do_not_disturb_each_other(name: str) -> None:
    """As what they share in memory would."""
    given = [*large_samples(name), *samples(name)]
    arguments = [[*map(moved, sample.arguments)] for sample in given]
    streams = [torch.cuda.Stream() for _ in range(4)]
    torch.cuda.synchronize()
    results: list[tuple[int, Results]] = []
    for round_, stream in enumerate(streams * 2):
        with torch.cuda.stream(stream):
            for i in range(len(given)):
                k = (round_ + i) % len(given)
                results.append((k, outcome(name, arguments[k], given[k].keywords)))
    torch.cuda.synchronize()
    differences = Differences()
    expected = [outcome(name, sample.arguments, sample.keywords) for sample in given]
    for k, result in results:
        found = results_difference(name, result, expected[k])
        differences.add(*described_difference(name, given[k], found))
    differences.report()


# No waiting


@pytest.fixture
def no_waiting() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Makes calls in which waiting for the GPU is an error."""

    def call(function: Callable[[], Any]) -> Any:
        function()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return function()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    yield call
    torch.cuda.set_sync_debug_mode("default")


NoWaiting = Callable[[Callable[[], Any]], Any]


def test_waiting_would_be_seen(no_waiting: NoWaiting) -> None:
    one = torch.ones(1, device=DEVICE)
    with pytest.raises(RuntimeError, match="synchroniz"):
        no_waiting(one.item)


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_no_operator_waits_for_the_gpu(name: str, no_waiting: NoWaiting) -> None:
    differences = Differences()
    for sample in [*samples(name), *large_samples(name)[:2]]:
        arguments = [*map(moved, sample.arguments)]

        def call() -> str:
            operator(name)(*arguments, **sample.keywords)  # noqa: B023
            return ""

        found = attempted(lambda: no_waiting(call))
        differences.add(*described_difference(name, sample, found))
    differences.report()


@pytest.mark.parametrize("name", WITH_OUT)
def test_no_out_overload_waits_for_the_gpu(name: str, no_waiting: NoWaiting) -> None:
    sample = samples(name)[0]
    arguments = [*map(moved, sample.arguments)]
    like = operator(name)(*arguments, **sample.keywords)
    with_gaps = torch.stack([like, like], -1)[..., 1]
    for out in (torch.empty_like(like), with_gaps):
        no_waiting(lambda: overload(f"{name}.out")(*arguments, **sample.keywords, out=out))  # noqa: B023


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_no_gradient_waits_for_the_gpu(granularity: str, no_waiting: NoWaiting) -> None:
    x, scale, *more = map(moved, samples(f"fake_quantize_{granularity}")[0].arguments)
    x.requires_grad_()
    scale.requires_grad_()
    grad = torch.ones_like(x)

    def call() -> None:
        y = operator(f"fake_quantize_{granularity}")(x, scale, *more)
        torch.autograd.grad(y, (x, scale), grad)

    no_waiting(call)


LAYERS: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "dynamic": lambda linear: DynamicLinear.from_float(linear, "relu"),
    "static": lambda linear: StaticLinear.from_float(
        linear, torch.tensor(0.04), torch.tensor(131, dtype=I32)
    ),
    "weight-only": WeightOnlyLinear.from_float,
}
EVERY_LAYER = pytest.mark.parametrize("from_float", LAYERS.values(), ids=LAYERS)


@EVERY_LAYER
def test_no_layer_waits_for_the_gpu(
    from_float: Callable[[nn.Linear], nn.Module], no_waiting: NoWaiting
) -> None:
    layer = from_float(nn.Linear(70, 35).to(DEVICE))
    x = floats(9, 70).to(DEVICE)
    no_waiting(lambda: layer(x))


# More elements than 32 bits count

SIZE = 2**31 + 4099
COLUMNS = 4096
ROWS = SIZE // COLUMNS
PIECE = 2**28  # in which the results are compared
PERIOD = 1_000_003  # no power of two: an index that lost its upper bits finds other values


@pytest.fixture
def room() -> Iterator[None]:
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0] / 1e9
    if free < 24:
        pytest.skip(f"{free:.1f} GB of the GPU are free, and 24 are needed")
    yield
    torch.cuda.empty_cache()


def many(of: Tensor) -> Tensor:
    return of.to(DEVICE).repeat(-(-SIZE // len(of)))[:SIZE]


def many_floats() -> Tensor:
    return many(floats(PERIOD, dtype=F16))


def check_pieces(call: Callable[[Tensor], Results], x: Tensor) -> None:
    """The result of all rows of x is that of some of them after the other."""
    whole = call(x)
    step = PIECE // (x.shape[1] if x.dim() > 1 else 1)
    for begin in range(0, len(x), step):
        end = min(len(x), begin + step)
        piece = call(x[begin:end])
        pairs = [(whole, piece)] if isinstance(whole, Tensor) else zip(whole, piece, strict=True)
        for i, (one, other) in enumerate(pairs):
            if torch.equal(one[begin:end], other):
                continue
            wrong = (one[begin:end] != other).reshape(end - begin, -1).any(1)
            first = begin + int(wrong.nonzero()[0])
            pytest.fail(f"result {i} differs first at {first} of {len(x)}")


ONE = (torch.tensor(0.037), torch.tensor(3, dtype=I32))


@pytest.mark.usefixtures("room")
def test_many_elements_quantized_and_dequantized() -> None:
    one = [*map(moved, ONE)]
    check_pieces(lambda x: operator("quantize_per_tensor")(x, *one, -128, 127, I8), many_floats())
    codes = many(bytes_(PERIOD))
    check_pieces(lambda q: operator("dequantize_per_tensor")(q, *one, out_dtype=F16), codes)


@pytest.mark.usefixtures("room")
def test_many_elements_by_channel_and_by_row() -> None:
    x = many_floats()[: ROWS * COLUMNS].view(ROWS, COLUMNS)
    columns = moved(scales(COLUMNS)), moved(zero_points(COLUMNS))
    check_pieces(lambda x: operator("quantize_per_channel")(x, *columns, 1, -128, 127, I8), x)
    check_pieces(lambda x: operator("quantize_dynamic_per_token")(x, 0, 255, False, U8), x)


@pytest.mark.usefixtures("room")
def test_the_range_of_many_elements() -> None:
    x = many_floats().clamp_(-50, 50)
    for low, high in ((2**31, SIZE - 1), (SIZE - 1, 2**30), (0, 2**31 - 1)):
        x[low], x[high] = -300, 700
        found = operator("choose_qparams_per_tensor")(x, 0, 255, False)
        ends = torch.tensor([-300.0, 700.0])
        expected = operator("choose_qparams_per_tensor")(ends, 0, 255, False)
        assert not results_difference("", found, expected), (low, high)
        x[low], x[high] = 0, 0


@pytest.mark.usefixtures("room")
def test_the_histogram_and_the_error_of_many_elements() -> None:
    x = many_floats()

    def observed(parts: Sequence[Tensor]) -> list[Tensor]:
        counts = torch.zeros(32768, dtype=torch.int64, device=DEVICE)
        range_ = torch.tensor([torch.inf, -torch.inf], device=DEVICE)
        for part in parts:
            operator("histogram_observe_")(counts, range_, part)
        return [counts.cpu(), range_.cpu()]

    whole, in_parts = observed([x]), observed(x.split(PIECE))
    assert whole[0].sum() == SIZE
    assert torch.equal(whole[0], in_parts[0])
    assert torch.equal(whole[1], in_parts[1])
    y = x.clone()
    for at, value in ((0, 1.0), (2**31, 2.0), (SIZE - 1, 4.0)):
        x[at], y[at] = 0, value
    errors = operator("quantization_error")(x, y).cpu()
    assert errors[:3].tolist() == [4.0, 7.0 / SIZE, 21.0 / SIZE]


# Graphs: last, for a capture that fails leaves the allocator waiting for its end


def captured(call: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of the call, and what it returned, when it has run before in the same stream."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        call()
        stream.synchronize()
        graph.capture_begin()
        try:
            returned = call()
        except BaseException:
            with suppress(RuntimeError):  # which says no more than that there was an error
                graph.capture_end()
            raise
        graph.capture_end()
    return graph, returned


def replayed(name: str, sample: Sample, others: Sample) -> Results:
    arguments, values = [*map(moved, sample.arguments)], [*map(moved, others.arguments)]
    graph, returned = captured(lambda: operator(name)(*arguments, **sample.keywords))
    for _ in range(2):  # the second time as the first
        fill(arguments, values)
        graph.replay()
    torch.cuda.synchronize()
    return results_of(name, arguments, returned)


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_a_graph_replays_with_other_values(name: str) -> None:
    check_with_other_values(name, samples(name), replayed)


@pytest.mark.parametrize(
    "name", ["choose_qparams_per_tensor", "quantization_error", "histogram_observe_",
             "fake_quantize_per_tensor_backward", "fake_quantize_per_channel_backward",
             "quantize_dynamic_per_tensor", "int8_matmul", "linear_dynamic"]
)  # fmt: skip
def test_a_graph_of_many_blocks_replays_with_other_values(name: str) -> None:
    check_with_other_values(name, large_samples(name), replayed)


def replayed_out(name: str, sample: Sample, others: Sample) -> Results:
    arguments, values = [*map(moved, sample.arguments)], [*map(moved, others.arguments)]
    out = torch.zeros_like(operator(name)(*arguments, **sample.keywords))
    call = overload(f"{name}.out")
    graph, _ = captured(lambda: call(*arguments, **sample.keywords, out=out))
    fill(arguments, values)
    out.zero_()
    graph.replay()
    torch.cuda.synchronize()
    return out.clone()


@pytest.mark.parametrize("name", WITH_OUT)
def test_a_graph_writes_into_the_same_result(name: str) -> None:
    check_with_other_values(name, samples(name), replayed_out)


@EVERY_LAYER
def test_a_graph_of_a_layer(from_float: Callable[[nn.Linear], nn.Module]) -> None:
    layer = from_float(nn.Linear(70, 35).to(DEVICE))
    x, other = floats(9, 70).to(DEVICE), floats(9, 70, seed=1).to(DEVICE)
    with torch.no_grad():
        graph, y = captured(lambda: layer(x))
        x.copy_(other)
        graph.replay()
        torch.testing.assert_close(y, layer(other))
