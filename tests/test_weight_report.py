"""weight_report: sizes and SNR of weights in fewer bits, against a reference in numpy alone."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from models import Nested, Shared, Tied, make
from samples import BF16, F16, floats
from torch import Tensor, nn

import torchquant
from torchquant.nn import DynamicLinear

pytestmark = pytest.mark.any_kernels

WAYS = [(bits, kind) for bits in (8, 4, 2) for kind in ("tensor", "channel", "group")]


def blocks_of(weight: np.ndarray, granularity: str, group_size: int) -> list[np.ndarray]:
    """The parts of a weight that have a scale each."""
    if granularity == "tensor":
        return [weight]
    if granularity == "channel":
        return list(weight)
    return [
        row[start : start + group_size]
        for row in weight
        for start in range(0, len(row), group_size)
    ]


def squared_error(block: np.ndarray, num_bits: int) -> float:
    """Of symmetric codes: scales are float32, the rest follows in float64."""
    most = 2 ** (num_bits - 1) - 1
    scale = np.float32(np.abs(block).max(initial=0) / most) or np.float32(1)
    codes = np.clip(np.rint(block / np.float64(scale)), -most - 1, most)
    return float(((block - codes * np.float64(scale)) ** 2).sum())


def expected_row(
    weight: Tensor, num_bits: int, granularity: str, group_size: int
) -> dict[str, float]:
    w = weight.detach().double().numpy()
    blocks = blocks_of(w, granularity, group_size)
    error = sum(squared_error(block, num_bits) for block in blocks)
    bits_of_row = w.shape[1] * (num_bits if num_bits <= 8 else 16)
    return {
        "bytes": w.shape[0] * math.ceil(bits_of_row / 8) + 4 * len(blocks),
        "snr_db": 10 * math.log10((w**2).sum() / error) if error else math.inf,
        "signal": (w**2).sum(),
        "error": error,
    }


def linear(in_features: int, out_features: int, **options: Any) -> nn.Linear:
    layer = nn.Linear(in_features, out_features, **options)
    with torch.no_grad():
        layer.weight.copy_(floats(out_features, in_features))
    return layer


def report(model: nn.Module, *arguments: Any, **options: Any) -> torchquant.WeightReport:
    return torchquant.weight_report(model, *arguments, progress=False, **options)


# Codes are chosen by float32 products, the reference's by float64 quotients: at ties they differ,
# at a cost that the error hardly shows.
CLOSE = {"rel": 1e-5}


@pytest.mark.parametrize("group_size", [16, 32, 70, 128])
@pytest.mark.parametrize("num_bits", range(2, 17))
def test_rows_equal_the_reference(num_bits: int, group_size: int) -> None:
    layer = linear(70, 35)
    rows = report(layer, (num_bits,), group_size=group_size).rows()
    assert [row["granularity"] for row in rows] == ["tensor", "channel", "group"]
    for row in rows:
        expected = expected_row(layer.weight, num_bits, row["granularity"], group_size)
        assert row["bytes"] == expected["bytes"]
        assert row["compression"] == 4 * 70 * 35 / row["bytes"]
        assert row["snr_db"] == pytest.approx(expected["snr_db"], **CLOSE)


def test_a_group_of_one_loses_only_the_rounding_of_its_scale() -> None:
    (row,) = report(linear(70, 35), (8,), ("group",), group_size=1).rows()
    assert row["snr_db"] > 140


@pytest.mark.parametrize("width", [1, 7, 8, 9, 70, 129])
@pytest.mark.parametrize("num_bits", range(2, 9))
def test_bytes_are_those_of_pack_bits(num_bits: int, width: int) -> None:
    layer = linear(width, 5)
    codes, scales = torchquant.per_channel_quantize(layer.weight.detach(), num_bits)
    packed = torchquant.ops.pack_bits(codes, num_bits)
    for row in report(layer, (num_bits,), group_size=8).rows():
        count = {"tensor": 1, "channel": scales.numel(), "group": 5 * math.ceil(width / 8)}
        assert row["bytes"] == packed.numel() + 4 * count[row["granularity"]]


def test_rows_come_in_order_of_layers_then_bits_then_granularity() -> None:
    model, _, _ = make("nested")
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    rows = report(model).rows()
    keys = [(row["layer"], row["num_bits"], row["granularity"]) for row in rows]
    assert keys == [(name, *way) for name in names for way in WAYS]
    for row in rows:
        weight = model.get_submodule(row["layer"]).weight
        assert row["shape"] == list(weight.shape)
        expected = expected_row(weight, row["num_bits"], row["granularity"], 128)
        assert row["snr_db"] == pytest.approx(expected["snr_db"], **CLOSE)


def test_totals_are_over_all_weights() -> None:
    model, _, _ = make("nested")
    weights = [module.weight for module in model.modules() if type(module) is nn.Linear]
    whole = 4 * sum(parameter.numel() for parameter in model.parameters())
    floats_ = 4 * sum(weight.numel() for weight in weights)
    totals = report(model, group_size=16).totals()
    assert [(row["num_bits"], row["granularity"]) for row in totals] == WAYS
    for row in totals:
        parts = [
            expected_row(weight, row["num_bits"], row["granularity"], 16) for weight in weights
        ]
        assert row["bytes"] == sum(part["bytes"] for part in parts)
        assert row["compression"] == floats_ / row["bytes"]
        assert row["model_bytes"] == whole - floats_ + row["bytes"]
        signal, error = (sum(part[key] for part in parts) for key in ("signal", "error"))
        assert row["snr_db"] == pytest.approx(10 * math.log10(signal / error), **CLOSE)


def test_8_bits_a_channel_are_what_the_layers_have() -> None:
    layer = linear(70, 35)
    (row,) = report(layer, (8,), ("channel",)).rows()
    # The mean of squares that the operator gives is multiplied by their number again.
    assert row["snr_db"] == pytest.approx(DynamicLinear.from_float(layer).weight_snr_db, rel=1e-14)


def test_a_lone_linear_has_no_name() -> None:
    found = report(nn.Linear(8, 4), (8,))
    assert {row["layer"] for row in found.rows()} == {""}
    assert str(found).splitlines()[4].startswith("model")


def test_each_weight_counts_once() -> None:
    assert {row["layer"] for row in report(Shared()).rows()} == {"first"}
    tied = Tied()
    found = report(tied)
    assert {row["layer"] for row in found.rows()} == {"left"}
    whole = sum(parameter.nbytes for parameter in tied.parameters())
    for row in found.totals():  # the embedding keeps the float weight
        assert row["model_bytes"] == whole + row["bytes"]
    tied.embedding = nn.Identity()
    for row in report(tied).totals():
        assert row["model_bytes"] == 2 * 4 * 30 + row["bytes"]


def test_buffers_count_in_the_size_of_the_model() -> None:
    model = nn.Sequential(nn.Linear(8, 4, bias=False), nn.BatchNorm1d(4))
    (total,) = report(model, (8,), ("tensor",)).totals()
    assert total["bytes"] == 8 * 4 + 4
    assert total["model_bytes"] == total["bytes"] + 4 * 4 * 4 + 8  # and a counter of batches


@pytest.mark.parametrize("dtype", [F16, BF16, torch.float64])
def test_other_dtypes_are_measured_in_float32_against_their_own_size(dtype: torch.dtype) -> None:
    layer = linear(70, 35).to(dtype)
    same = copy.deepcopy(layer).float()
    for row, wanted in zip(report(layer).rows(), report(same).rows(), strict=True):
        assert row["snr_db"] == wanted["snr_db"]
        assert row["bytes"] == wanted["bytes"]
        assert row["compression"] == dtype.itemsize * 70 * 35 / row["bytes"]


@pytest.mark.parametrize(("in_features", "out_features"), [(0, 3), (3, 0), (0, 0)])
def test_a_layer_of_size_zero_loses_nothing(in_features: int, out_features: int) -> None:
    with pytest.warns(UserWarning, match="zero-element"):  # of nn.Linear
        layer = nn.Linear(in_features, out_features)
    scales = {"tensor": 1, "channel": out_features, "group": 0}
    found = report(layer)
    for row in (*found.rows(), *found.totals()):
        assert row["snr_db"] == math.inf
        assert row["bytes"] == 4 * scales[row["granularity"]]
        assert row["compression"] == (0.0 if row["bytes"] else 1.0)
    beside = report(nn.Sequential(layer, linear(70, 35)), (4,), ("channel",))
    assert (
        beside.totals()[0]["snr_db"]
        == report(linear(70, 35), (4,), ("channel",)).rows()[0]["snr_db"]
    )


def test_a_weight_of_zeros_loses_nothing() -> None:
    layer = nn.Linear(8, 4)
    nn.init.zeros_(layer.weight)
    found = report(layer)
    assert all(row["snr_db"] == math.inf for row in (*found.rows(), *found.totals()))
    assert "inf" in str(found)


def test_json_has_all_of_it_and_no_infinity() -> None:
    model = nn.Sequential(linear(70, 35), nn.Linear(35, 2))
    nn.init.zeros_(model[1].weight)
    found = report(model, (8, 3), ("channel",))

    def refuse(name: str) -> None:
        pytest.fail(f"{name} is no JSON")

    parsed = json.loads(found.to_json(), parse_constant=refuse)
    assert parsed.keys() == {"group_size", "model_bytes", "rows", "totals"}
    assert parsed["group_size"] == 128
    assert parsed["model_bytes"] == 4 * (70 * 35 + 35 + 35 * 2 + 2)
    assert [row["snr_db"] for row in parsed["rows"][2:]] == ["inf", "inf"]
    assert parsed["rows"][:2] == found.rows()[:2]
    assert parsed["totals"] == found.totals()


def test_text_is_a_line_for_each_layer_and_the_totals() -> None:
    model = nn.Sequential(linear(70, 35), linear(35, 2))
    found = report(model, (8, 4), ("channel", "group"), group_size=16)
    lines = str(found).splitlines()
    assert lines[0] == "SNR in dB of each weight, by bits and granularity (groups of 16)"
    assert lines[2] == "layer  shape    8 channel  8 group  4 channel  4 group"
    for line, rows in ((lines[4], found.rows()[:4]), (lines[5], found.rows()[4:])):
        assert line.split()[-4:] == [f"{row['snr_db']:#.4g}" for row in rows]
    assert lines[4].startswith("0      35 x 70")
    assert lines[7] == "All of them, in a model of 10,228 bytes"
    assert [line.split()[:2] for line in lines[-4:]] == [
        ["8", "channel"], ["8", "group"], ["4", "channel"], ["4", "group"],
    ]  # fmt: skip
    assert f"{found.totals()[0]['model_bytes']:,}" in lines[-4]


def test_filter_fn_chooses_and_the_rest_stays_in_the_size() -> None:
    model = Nested()
    found = report(model, filter_fn=lambda module, name: name == "stem")
    assert {row["layer"] for row in found.rows()} == {"stem"}
    whole = 4 * sum(parameter.numel() for parameter in model.parameters())
    for row in found.totals():
        assert row["model_bytes"] == whole - 4 * 12 * 20 + row["bytes"]


def test_the_model_is_left_as_it_was() -> None:
    model = Nested()
    before = copy.deepcopy(model.state_dict())
    report(model)
    assert model.state_dict().keys() == before.keys()
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_progress_goes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    torchquant.weight_report(nn.Linear(8, 4))
    shown = capfd.readouterr()
    assert "weights: 100%" in shown.err
    assert not shown.out
    report(nn.Linear(8, 4))
    assert capfd.readouterr() == ("", "")


def test_sequences_of_any_type_will_do() -> None:
    found = report(nn.Linear(8, 4), range(2, 5), ["channel"])
    assert [row["num_bits"] for row in found.rows()] == [2, 3, 4]


@pytest.mark.parametrize(
    "num_bits", [4, (), (1,), (17,), (8, 8), (8.0,), (True,), "8", None, ([8],), {8}]
)
def test_wrong_num_bits_are_refused(num_bits: Any) -> None:
    with pytest.raises(ValueError, match="num_bits") as error:
        report(nn.Linear(8, 4), num_bits)
    assert str(error.value) == (
        f"num_bits must be different integers from 2 to 16, but got {num_bits!r}: pass (8, 4) for "
        "example"
    )


@pytest.mark.parametrize("granularity", ["channel", (), ("row",), ("group", "group"), None, (1,)])
def test_wrong_granularities_are_refused(granularity: Any) -> None:
    with pytest.raises(ValueError, match="granularity") as error:
        report(nn.Linear(8, 4), (8,), granularity)
    assert str(error.value) == (
        "granularity must be different ones of ('tensor', 'channel', 'group'), but got "
        f'{granularity!r}: pass ("channel",) for example'
    )


@pytest.mark.parametrize("group_size", [0, -1, 1.5, None, True])
def test_a_wrong_group_size_is_refused(group_size: Any) -> None:
    with pytest.raises(ValueError, match="group_size") as error:
        report(nn.Linear(8, 4), group_size=group_size)
    assert str(error.value) == (
        f"group_size must be a positive integer, but got {group_size!r}: 128 is usual"
    )


def test_models_and_weights_that_cannot_be_measured_are_named() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight[1, 1] = torch.nan
    with pytest.raises(ValueError, match=r"^1 must have a finite weight, but \[2, 4\] holds NaN"):
        report(model)
    with pytest.raises(ValueError, match=r"^model must have a floating-point weight with data"):
        report(nn.Linear(8, 4, device="meta"))
    with pytest.raises(ValueError, match=r"^model has nothing to quantize"):
        report(nn.ReLU())
    with pytest.raises(TypeError, match=r"^model must be a torch\.nn\.Module, but got dict"):
        report({})
    with pytest.raises(TypeError, match=r"^filter_fn must be a function"):
        report(model, filter_fn="1")


def test_a_layer_with_hooks_is_measured() -> None:
    """Its weight is there, whatever else runs."""
    layer = linear(70, 35)
    expected = report(layer).rows()
    layer.register_forward_hook(lambda module, arguments, output: 2 * output)
    assert report(layer).rows() == expected
