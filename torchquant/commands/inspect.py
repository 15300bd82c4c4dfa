"""`torchquant inspect`: what is in a saved model, layer by layer, or in a saved calibration."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from torchquant import calibration_file, model_file, safetensors_file
from torchquant.calibration import Calibration
from torchquant.commands import Commands, add_command, print_json
from torchquant.model_file import ModelFile, key_of, split_key
from torchquant.tables import Value, for_json, table

Row = Mapping[str, Any]

WEIGHT_BITS = torch.iinfo(torch.int8).bits
FLOAT32_BYTES = torch.float32.itemsize

DESCRIPTION = """\
Reads a file that torchquant.save_quantized or torchquant quantize wrote, checks it whole, and
prints what each quantized layer is, what it takes and would take in float32, and how much of its
weight is left (SNR; empty: unknown); then the tensors that are kept as they were. A tensor that
layers share counts for the first of them. Of a calibration (Calibration.save) it prints ranges."""

EXAMPLES = """\
  torchquant inspect model.safetensors
  torchquant inspect model.safetensors --json | jq '.totals.file.compression'
  torchquant inspect calibration.safetensors
"""


def add_parser(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(
        commands, "inspect", "show what is in a saved model or calibration", DESCRIPTION, EXAMPLES
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="a saved model or calibration")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Prints what is in the file."""
    show(options.file, as_json=options.json)


def show(path: Path, *, as_json: bool) -> None:
    """Prints what is in a file, as tables or as JSON; OSError or ValueError where it is not ours.

    Raises as :func:`torchquant.model_file.opened` and :meth:`torchquant.Calibration.load` do.
    """
    if safetensors_file.format_of(path) == calibration_file.KIND.format:
        calibration = Calibration.load(path)
        if as_json:
            print_json(_describe_calibration(path, calibration))
        else:
            print(calibration.summary())
        return
    model = _describe_model(path)
    if as_json:
        print_json({**model, "layers": list(map(for_json, model["layers"]))})
    else:
        print("\n".join(_lines(model)))


def _describe_calibration(path: Path, calibration: Calibration) -> Row:
    return {
        "path": str(path),
        "file_bytes": path.stat().st_size,
        "format": calibration_file.KIND.format,
        "version": calibration_file.KIND.version,
        "method": calibration.method,
        "percentile": calibration.percentile,
        "batches": calibration.batches,
        "interrupted": calibration.interrupted,
        "never_called": calibration.never_called,
        "layers": calibration.rows(),
    }


def _describe_model(path: Path) -> Row:
    with model_file.opened(path) as file:
        layers = [_layer(file, name) for name in file.layers]
        kept = [_kept(file, key) for key in file.forms if _is_kept(file, key)]
    size = path.stat().st_size
    return {
        "path": str(path),
        "file_bytes": size,
        "format": model_file.KIND.format,
        "version": model_file.KIND.version,
        "torchquant": file.writer,
        "schemes": dict(Counter(entry.scheme for entry in file.layers.values())),
        "layers": layers,
        "kept": kept,
        "totals": {
            "quantized": _total(layers),
            "kept": _total(kept),
            "file": _total([*layers, *kept]) | _sizes(size, _sum(layers + kept, "float32_bytes")),
        },
    }


def _layer(file: ModelFile, name: str) -> Row:
    entry = file.layers[name]
    keys = file.layer_tensors(name)
    stands_for = {
        "packed_weight": entry.out_features * entry.in_features,
        "bias": entry.out_features,
    }
    float32_values = sum(
        count for tensor, count in stands_for.items() if _is_stored(file, key_of(name, tensor))
    )
    return {
        "layer": name,
        "scheme": entry.scheme,
        "shape": [entry.out_features, entry.in_features],
        "bits": WEIGHT_BITS,
        "activation": entry.activation,
        **_sizes(sum(map(file.stored_bytes, keys.values())), FLOAT32_BYTES * float32_values),
        "weight_snr_db": entry.weight_snr_db,
    }


def _is_stored(file: ModelFile, key: str) -> bool:
    return key in file.forms and key not in file.aliases


def _is_kept(file: ModelFile, key: str) -> bool:
    return _is_stored(file, key) and split_key(key)[0] not in file.layers


def _kept(file: ModelFile, key: str) -> Row:
    dtype, shape = file.forms[key]
    size = file.stored_bytes(key)
    in_float32 = FLOAT32_BYTES * math.prod(shape) if dtype.is_floating_point else size
    return {
        "key": key,
        "dtype": str(dtype).removeprefix("torch."),
        "shape": shape,
        "bytes": size,
        "float32_bytes": in_float32,
    }


def _total(rows: Sequence[Row]) -> dict[str, Any]:
    sizes = _sizes(_sum(rows, "bytes"), _sum(rows, "float32_bytes"))
    return {"count": len(rows), **sizes}


def _sum(rows: Sequence[Row], key: str) -> int:
    return sum(row[key] for row in rows)


def _sizes(size: int, float32_size: int) -> dict[str, Any]:
    ratio = float32_size / size if size else None
    return {"bytes": size, "float32_bytes": float32_size, "compression": ratio}


def _lines(model: Row) -> list[str]:
    schemes = ", ".join(f"{count:,} {scheme}" for scheme, count in model["schemes"].items())
    totals = [{"part": part, **total} for part, total in model["totals"].items()]
    lines = [
        f"{model['path']}: {model['file_bytes']:,} bytes, {model['format']} version "
        f"{model['version']}, written by torchquant {model['torchquant']}",
        f"Quantized layers: {schemes}",
    ]
    for rows in (model["layers"], model["kept"], totals):
        if rows:
            lines += ["", *table(list(map(_cells, rows)))]
    return lines


def _cells(row: Row) -> dict[str, Value]:
    cells = dict(row)
    if "shape" in row:
        cells["shape"] = " x ".join(map(str, row["shape"]))
    if "layer" in row:
        cells["layer"] = row["layer"] or "model"
    return cells
