"""Files that a stranger could send: what is wrong with each, and what every reader says of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import safetensors.torch
import torch
from samples import floats
from torch import Tensor, nn

import torchquant

State = dict[str, Tensor]
About = dict[str, Any]
Change = Callable[[bytes], bytes]

AGAIN = ": quantize the float model again"
NOT_WHOLE = "FILE is no whole safetensors file ("  # each reader goes on in its own words
NO_JSON = "FILE: its metadata is no JSON: "  # and so here
REFUSED = "FILE"
IN_OTHER_WORDS = (NOT_WHOLE, NO_JSON, REFUSED)


def build() -> nn.Module:
    """Of the architecture of :func:`model`."""
    return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3), nn.LayerNorm(3))


def model() -> nn.Module:
    """A static one with linked layers, so that every tensor that a layer can have is there."""
    model = build().eval()
    calibration = torchquant.calibrate(model, [floats(64, 5)], progress=False)
    return torchquant.quantize_static(model, calibration)


def split(file: bytes) -> tuple[str, bytes]:
    """The header's text, and the bytes of the tensors."""
    end = 8 + int.from_bytes(file[:8], "little")
    return file[8:end].decode(), file[end:]


def joined(header: str | bytes, data: bytes) -> bytes:
    """The inverse."""
    header = header if isinstance(header, bytes) else header.encode()
    return len(header).to_bytes(8, "little") + header + data


def about_of(file: bytes) -> str:
    """Our text in the header."""
    return str(json.loads(split(file)[0])["__metadata__"]["torchquant"])


def of_parts(change: Callable[[About, State], object]) -> Change:
    """A change to our entries and to the tensors."""

    def make(file: bytes) -> bytes:
        about, state = json.loads(about_of(file)), safetensors.torch.load(file)
        change(about, state)
        return safetensors.torch.save(state, {"torchquant": json.dumps(about)})

    return make


def of_metadata(metadata: object) -> Change:
    """Other metadata, as it is in the header."""

    def make(file: bytes) -> bytes:
        text, data = split(file)
        return joined(json.dumps(json.loads(text) | {"__metadata__": metadata}), data)

    return make


def of_about(change: Callable[[str], str]) -> Change:
    """A change to our JSON text."""
    return lambda file: of_metadata({"torchquant": change(about_of(file))})(file)


def of_header(change: Callable[[str], str | bytes]) -> Change:
    """A change to safetensors' JSON text."""
    return lambda file: joined(change(split(file)[0]), split(file)[1])


def with_entry(name: str, dtype: str, shape: str, offsets: str | None = None) -> Change:
    """One tensor more, of the bytes at the end, or of none."""

    def make(file: bytes) -> bytes:
        text, data = split(file)
        place = offsets or f"[{len(data)},{len(data)}]"
        entry = f'{json.dumps(name)}:{{"dtype":"{dtype}","shape":{shape},"data_offsets":{place}}}'
        return joined("{" + entry + "," + text.lstrip()[1:], data)

    return make


def replaced(old: str, new: str) -> Callable[[str], str]:
    """A text with its first ``old`` replaced, which must be there."""

    def change(text: str) -> str:
        assert old in text, text
        return text.replace(old, new, 1)

    return change


def set_entry(layer: str, key: str, value: object) -> Callable[[About, State], object]:
    return lambda about, state: about["layers"][layer].__setitem__(key, value)


def set_tensor(key: str, value: Tensor) -> Callable[[About, State], object]:
    return lambda about, state: state.__setitem__(key, value)


def add_to(key: str, index: tuple[int, ...], amount: float) -> Callable[[About, State], object]:
    def change(about: About, state: State) -> None:
        state[key][index] += amount

    return change


_PARTS: dict[str, tuple[Callable[[About, State], object], str]] = {
    "newer": (
        lambda about, state: about.update(version=2, torchquant="9.8"),
        'FILE must have version 1, but its version is 2 (written by torchquant "9.8"): install a '
        "newer torchquant, or quantize the float model again",
    ),
    "no-version": (
        lambda about, state: about.pop("version"),
        "FILE must have version 1, but its version is missing (written by torchquant "
        f'"{torchquant.__version__}"): install a newer torchquant, or quantize the float model '
        "again",
    ),
    "layers-no-object": (
        lambda about, state: about.update(layers=["0"]),
        'FILE: layers must be a JSON object, but is ["0"]',
    ),
    "no-aliases": (
        lambda about, state: about.pop("aliases"),
        "FILE: aliases must be a JSON object, but is missing",
    ),
    "layer-no-object": (
        lambda about, state: about["layers"].update({"0": 3}),
        "FILE: layer '0' must be a JSON object, but is 3",
    ),
    "scheme": (
        set_entry("0", "scheme", "int4"),
        'FILE: layer \'0\': scheme must be "dynamic", "static" or "weight_only", but is "int4"',
    ),
    "scheme-missing": (
        lambda about, state: about["layers"]["0"].pop("scheme"),
        'FILE: layer \'0\': scheme must be "dynamic", "static" or "weight_only", but is missing',
    ),
    "features-negative": (
        set_entry("0", "in_features", -1),
        "FILE: layer '0': in_features must be a number of features, but is -1",
    ),
    "features-bool": (
        set_entry("0", "out_features", True),
        "FILE: layer '0': out_features must be a number of features, but is true",
    ),
    "features-too-many": (
        set_entry("0", "in_features", 2**31),
        "FILE: layer '0': in_features must be a number of features, but is 2147483648",
    ),
    "features-huge": (
        set_entry("0", "in_features", 2**30),
        "FILE: layer '0': in_features must be at most 65793 in a layer that multiplies in int8, or "
        f"its sums may overflow, but is {2**30}",
    ),
    "bias-number": (
        set_entry("0", "bias", 1),
        "FILE: layer '0': bias must be true or false, but is 1",
    ),
    "bias-denied": (
        set_entry("0", "bias", False),
        "FILE: layer '0' does not have the tensor 0.bias, but the file has",
    ),
    "activation": (
        set_entry("0", "activation", "gelu"),
        'FILE: layer \'0\': activation must be "none" or "relu", but is "gelu"',
    ),
    "snr": (
        set_entry("0", "weight_snr_db", "much"),
        'FILE: layer \'0\': weight_snr_db must be a number of dB, "inf" or null, but is "much"',
    ),
    "output-dtype": (
        set_entry("0", "output_dtype", "complex64"),
        "FILE: layer '0': output_dtype must be null or one of float32, float16, bfloat16, uint8, "
        'int8, but is "complex64"',
    ),
    "output-dtype-with-scale": (
        set_entry("0", "output_dtype", "float32"),
        "FILE: layer '0': output_dtype must be float without requantize and uint8 or int8 with it, "
        "but is float32",
    ),
    "output-dtype-without-scale": (
        set_entry("1", "output_dtype", "uint8"),
        "FILE: layer '1': output_dtype must be float without requantize and uint8 or int8 with it, "
        "but is uint8",
    ),
    "unknown-entry": (
        set_entry("0", "group_size", 32),
        "FILE: layer '0' has the unknown entry group_size",
    ),
    "static-entry-of-dynamic": (
        set_entry("0", "scheme", "dynamic"),
        "FILE: layer '0' has the unknown entry output_dtype",
    ),
    "alias-of-nothing": (
        lambda about, state: about["aliases"].update({"x": "none"}),
        "FILE: the alias 'x' must be of a stored tensor, and none itself, but stands for \"none\"",
    ),
    "alias-of-no-key": (
        lambda about, state: about["aliases"].update({"x": 3}),
        "FILE: the alias 'x' must be of a stored tensor, and none itself, but stands for 3",
    ),
    "alias-over-tensor": (
        lambda about, state: about["aliases"].update({"0.bias": "1.bias"}),
        "FILE: the alias '0.bias' must be of a stored tensor, and none itself, but stands for "
        '"1.bias"',
    ),
    "lacks-tensor": (
        lambda about, state: state.pop("0.weight_sum"),
        "FILE: 0.weight_sum is missing, but must be int32 [7]",
    ),
    "dtype": (
        set_tensor("0.weight_scale", torch.ones(7, dtype=torch.float16)),
        "FILE: 0.weight_scale must be float32 [7], but is float16 [7]",
    ),
    "shape": (
        set_tensor("1.input_scale", torch.ones(1)),
        "FILE: 1.input_scale must be float32 [], but is float32 [1]",
    ),
    "dtype-unknown": (
        set_tensor("more", torch.ones(3, dtype=torch.uint64)),
        "FILE: more has the dtype U64, which no model of torchquant has",
    ),
    "scale-zero": (
        add_to("0.weight_scale", (2,), -math.inf),
        "FILE: 0.weight_scale must be positive and finite, but has -inf",
    ),
    "scale-nan": (
        set_tensor("0.input_scale", torch.tensor(math.nan)),
        "FILE: 0.input_scale must be positive and finite, but has nan",
    ),
    "output-scale-inf": (
        set_tensor("0.output_scale", torch.tensor(math.inf)),
        "FILE: 0.output_scale must be positive and finite, but has inf",
    ),
    "zero-point": (
        set_tensor("0.input_zero_point", torch.tensor(256, dtype=torch.int32)),
        "FILE: 0.input_zero_point must lie in [0, 255], but is 256",
    ),
    "output-zero-point": (
        set_tensor("0.output_zero_point", torch.tensor(-1, dtype=torch.int32)),
        "FILE: 0.output_zero_point must lie in [0, 255], but is -1",
    ),
    "weight": (
        lambda about, state: state["0.packed_weight"].view(torch.uint8)[0, 0, 3, 1].bitwise_xor_(4),
        "FILE: 0.weight_sum must be the row sums of the weight, so one of the two was damaged",
    ),
    "sum": (
        add_to("1.weight_sum", (0,), 1),
        "FILE: 1.weight_sum must be the row sums of the weight, so one of the two was damaged",
    ),
    "padding-of-rows": (
        add_to("0.packed_weight", (0, 0, 7, 0), 1),
        "FILE: 0.packed_weight must be zero in its padding",
    ),
    "padding-of-columns": (
        add_to("0.packed_weight", (0, 1, 0, 1), 1),
        "FILE: 0.packed_weight must be zero in its padding",
    ),
    "scale-negative": (
        set_tensor("1.input_scale", torch.tensor(-1.5)),
        "FILE: 1.input_scale must be positive and finite, but has -1.5",
    ),
    "scale-is-0": (
        set_tensor("1.weight_scale", torch.zeros(3)),
        "FILE: 1.weight_scale must be positive and finite, but has 0",
    ),
    "inputs-of-int8": (
        set_entry("0", "in_features", 65_794),
        "FILE: layer '0': in_features must be at most 65793 in a layer that multiplies in int8, or "
        "its sums may overflow, but is 65794",
    ),
    "features-beyond-int64": (
        set_entry("0", "in_features", 10**30),
        "FILE: layer '0': in_features must be a number of features, but is 1e+30",
    ),
    "features-float": (
        set_entry("0", "in_features", 5.5),
        "FILE: layer '0': in_features must be a number of features, but is 5.5",
    ),
    "torchquant-no-text": (
        lambda about, state: about.update(torchquant=[1]),
        "FILE: torchquant must be a text, but is [1]",
    ),
    "unknown-header-entry": (
        lambda about, state: about.update(more=1),
        "FILE: its header has the unknown entry more",
    ),
    "terminal-escapes": (
        lambda about, state: about["layers"].update({"\x1b[2J\x9b\u202e": 3}),
        "FILE: layer '\\u001b[2J\\u009b\\u202e' must be a JSON object, but is 3",
    ),
    "endless-name": (
        lambda about, state: about["layers"].update({"é" * 1000: 3}),
        f"FILE: layer '{'é' * 200}...' must be a JSON object, but is 3",
    ),
}
_NEWEST = ("newer", "no-version")  # whose repair is another


def _foreign(format: str) -> str:
    return (
        f"FILE must hold a quantized model, but its format is {format}: pass what "
        "torchquant.save_quantized wrote"
    )


def _snr(number: str) -> Change:
    """Another number in the first layer, of any spelling."""

    def change(text: str) -> str:
        before, _, after = text.partition('"weight_snr_db": ')
        return (
            f'{before}"weight_snr_db": {number}{after[after.index(min(",}", key=after.index)) :]}'
        )

    return of_about(change)


#: What is wrong, and the message; None where nothing is.
HOSTILE: dict[str, tuple[Change, str | None]] = {
    "unchanged": (of_parts(lambda about, state: None), None),
    **{
        name: (of_parts(change), message + ("" if name in _NEWEST else AGAIN))
        for name, (change, message) in _PARTS.items()
    },
    "no-metadata": (
        of_header(lambda text: "{" + text.partition('"},')[2]),
        _foreign("missing"),
    ),
    "metadata-empty": (of_metadata({}), _foreign("missing")),
    "metadata-null": (of_metadata(None), NOT_WHOLE),
    "metadata-of-others": (of_metadata({"format": "pt"}), _foreign("missing")),
    "metadata-no-text": (of_metadata({"torchquant": 3}), NOT_WHOLE),
    "about-no-object": (of_about(lambda text: "[1]"), _foreign("missing")),
    "about-of-a-calibration": (
        of_about(replaced("torchquant.model", "torchquant.calibration")),
        _foreign('"torchquant.calibration"'),
    ),
    "about-cut": (of_about(lambda text: text[:-1]), NO_JSON),
    "about-deep": (of_about(lambda text: "[" * 100_000), NO_JSON),
    "about-key-twice": (of_about(replaced('"version"', '"version": 1, "version"')), NO_JSON),
    "about-layer-twice": (of_about(replaced('"layers": {', '"layers": {"0": 1, ')), NO_JSON),
    "about-surrogate": (of_about(replaced('"version"', '"\\ud800": 1, "version"')), NO_JSON),
    "about-text-surrogate": (
        of_about(replaced('"scheme": "static"', '"scheme": "\\udc00"')),
        NO_JSON,
    ),
    "about-control": (of_about(replaced('"version"', '"\n": 1, "version"')), NO_JSON),
    **{
        f"entry-of-depth-{depth}": (
            of_about(replaced('"in_features": 5', f'"in_features": {"[" * depth}{"]" * depth}')),
            REFUSED,
        )
        for depth in (60, 61, 62, 70, 500, 900, 950, 970, 990)
    },
    "about-beyond": (of_about(lambda text: text + "1"), NO_JSON),
    "about-mark": (of_about(lambda text: "\ufeff" + text), NO_JSON),
    "about-comma": (of_about(lambda text: text[:-1] + ",}"), NO_JSON),
    "about-too-much": (of_about(lambda text: "[" + "0," * 2**23 + "0]"), NOT_WHOLE),
    "about-too-much-escaped": (
        of_header(replaced('\\"version\\": 1', '\\"version\\": [' + "1\\u002c" * 2**23 + "1]")),
        "FILE: its metadata is no JSON of ours: it has more than 8388608 values: pass a file that "
        "torchquant wrote",
    ),
    "about-spaces": (of_about(lambda text: "\t\n\r " + text + " "), None),
    **{f"snr {text}": (_snr(text), None) for text in ("1e-300", "-0", "0e5", "-1E+2", "0.0e-999")},
    **{
        f"snr {text[:10]}": (_snr(text), NO_JSON)
        for text in (
            "NaN",
            "Infinity",
            "-Infinity",
            "1e400",
            "1e-400",
            "0.1e-330",
            "01",
            "1.",
            ".5",
            "+1",
            "1" * 5000,
            "0x1",
            "inf",
        )
    },
    **{
        f"snr is {value}": (
            _snr(value),
            "FILE: layer '0': weight_snr_db must be a number of dB, \"inf\" or null, but is "
            f"{value}{AGAIN}",
        )
        for value in ("true", '"nan"', "[]", "{}")
    },
    "empty": (lambda file: b"", NOT_WHOLE),
    "seven-bytes": (lambda file: file[:7], NOT_WHOLE),
    "length-huge": (lambda file: b"\xff" * 8 + file[8:], NOT_WHOLE),
    "bytes-beyond": (lambda file: file + b"\0", NOT_WHOLE),
    "bytes-lacking": (lambda file: file[:-1], NOT_WHOLE),
    "header-cut": (of_header(lambda text: text.rstrip()[:-1]), NOT_WHOLE),
    "header-no-object": (of_header(lambda text: "[]"), NOT_WHOLE),
    "header-no-utf8": (of_header(lambda text: text.encode().replace(b"as", b"\xff", 1)), NOT_WHOLE),
    "header-deep": (of_header(lambda text: "[" * 100_000), NOT_WHOLE),
    "tensor-twice": (
        of_header(lambda text: text.rstrip()[:-1] + "," + text[text.index('"0.bias"') :].lstrip()),
        NOT_WHOLE,
    ),
    "shape-huge": (with_entry("more", "I8", "[4611686018427387904,0]"), NOT_WHOLE),
    "shape-huge-behind": (with_entry("more", "I8", "[0,4611686018427387904]"), NOT_WHOLE),
    "shape-overflows": (with_entry("more", "I8", "[0,4294967296,4294967296,4]"), NOT_WHOLE),
    "shape-beyond-int64": (with_entry("more", "I8", "[0,9223372036854775808]"), NOT_WHOLE),
    "shape-of-65": (with_entry("more", "I8", "[0" + ",1" * 64 + "]"), NOT_WHOLE),
    "shape-negative": (with_entry("more", "I8", "[-1]"), NOT_WHOLE),
    "shape-minus-0": (with_entry("more", "I8", "[-0]"), NOT_WHOLE),
    "shape-float": (with_entry("more", "I8", "[0.0]"), NOT_WHOLE),
    "shape-5000-digits": (with_entry("more", "I8", "[" + "1" * 5000 + "]"), NOT_WHOLE),
    "shape-no-list": (with_entry("more", "I8", "0"), NOT_WHOLE),
    "shape-of-more": (with_entry("more", "I8", "[2]"), NOT_WHOLE),
    "offsets-overlap": (with_entry("more", "I8", "[1]", "[0,1]"), NOT_WHOLE),
    "offsets-back": (with_entry("more", "I8", "[0]", "[4,0]"), NOT_WHOLE),
    "offsets-three": (with_entry("more", "I8", "[0]", "[0,0,0]"), NOT_WHOLE),
    "dtype-none": (with_entry("more", "i8", "[0]"), REFUSED),
    "entry-of-more": (of_header(replaced('"dtype"', '"more":[],"dtype"')), NOT_WHOLE),
    "entry-a-list": (
        of_header(lambda text: '{"more":["I8",[0],[0,0]],' + text.lstrip()[1:]),
        NOT_WHOLE,
    ),
    "dtype-an-object": (of_header(replaced('"I8"', '{"I8":null}')), NOT_WHOLE),
}
