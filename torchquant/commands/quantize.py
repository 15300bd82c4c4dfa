"""`torchquant quantize`: from a function that makes a model to a file of the quantized one."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from fnmatch import fnmatchcase
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from tqdm import tqdm

import torchquant
from torchquant.commands import CommandError, Commands, add_command, inspect, one_line
from torchquant.histogram import METHODS
from torchquant.layer_entry import SCHEMES
from torchquant.selection import LINEAR, Filter

DESCRIPTION = """\
Makes a float model, loads its weights, replaces its linear layers by quantized ones, writes the
result with torchquant.save_quantized, and prints what torchquant inspect says of it. To load it:

  model = torchquant.load_quantized(make_model, "model.safetensors")

Schemes: dynamic (weights and activations in INT8, ranges taken row by row; needs no data), static
(ranges from a calibration) and weight_only (weights in INT8, all computed in float). MODEL is
imported, and so runs: name only code that you trust."""

EXAMPLES = """\
  torchquant quantize mypackage.models:make_encoder encoder.safetensors --weights encoder.pt
  torchquant quantize model.py:Model model.safetensors --keep head 'blocks.*.gate'
  torchquant quantize model.py:Model model.safetensors --scheme static \\
      --calibration calibration.safetensors --method percentile
"""


class Source(NamedTuple):
    """Where a model comes from."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


def add_parser(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(
        commands, "quantize", "quantize a model and save it", DESCRIPTION, EXAMPLES
    )
    parser.usage = "%(prog)s MODEL OUT [options]"  # --keep would take what follows as patterns
    parser.add_argument(
        "model",
        metavar="MODEL",
        type=_source,
        help="package.module:name or file.py:name, of a function or class that gives a "
        "torch.nn.Module, or of a module; the current folder is searched too",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="the safetensors file to write")
    parser.add_argument(
        "--weights",
        metavar="FILE",
        type=Path,
        help="the float state dict, by safetensors or torch.save; by default the weights that the "
        "model has when it is made",
    )
    parser.add_argument(
        "--scheme", choices=SCHEMES, default="dynamic", help="default: %(default)s; see above"
    )
    parser.add_argument(
        "--calibration", metavar="FILE", type=Path, help="for static: what Calibration.save wrote"
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        help="for static: how ranges are read; that of the calibration by default",
    )
    parser.add_argument(
        "--keep",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATTERN",
        help="names of linear layers that stay in float, what messages call filter_fn; * stands "
        "for anything",
    )
    parser.set_defaults(run=run)


def _source(text: str) -> Source:
    module, colon, name = text.rpartition(":")
    if not (module and colon and all(map(str.isidentifier, name.split(".")))):
        raise argparse.ArgumentTypeError(
            f"must be package.module:name or file.py:name, but got {text!r}: model.py:Model for "
            "example"
        )
    return Source(module, name)


def run(options: argparse.Namespace) -> None:
    """Quantizes the model, writes it, and prints what was written."""
    _check_options(options)
    with tqdm(total=4, desc="making the model", unit="step", leave=False, disable=None) as bar:
        model = _make(options.model)
        bar.update()
        bar.set_description("loading weights")
        if options.weights is not None:
            _load_weights(model, options.weights)
        bar.update()
        bar.set_description("quantizing")
        quantized = _quantize(model.eval(), options)
        bar.update()
        bar.set_description("saving")
        torchquant.save_quantized(quantized, options.out)
        bar.update()
    inspect.show(options.out, as_json=options.json)


def _check_options(options: argparse.Namespace) -> None:
    """Ends the program where options do not go together, before any work is done."""
    if options.scheme == "static" and options.calibration is None:
        options.refuse(
            "--scheme static needs --calibration FILE: write one with "
            "torchquant.calibrate(model, batches).save(FILE)"
        )
    for option in ("calibration", "method"):
        if options.scheme != "static" and getattr(options, option) is not None:
            options.refuse(
                f"--{option} is for --scheme static, but the scheme is {options.scheme}: leave it "
                "out, or add --scheme static"
            )
    _check_out(options)


def _check_out(options: argparse.Namespace) -> None:
    """OUT is put in the place of what was there, which must be a file, and none that is read."""
    out: Path = options.out
    if not out.parent.is_dir() or (out.exists() and not out.is_file()):
        raise CommandError(f"OUT must be a file in a folder that is there, but got {out}")
    inputs = (Path(options.model.module), options.weights, options.calibration)
    if any(path is not None and path.resolve() == out.resolve() for path in inputs):
        raise CommandError(
            f"OUT must be none of MODEL, --weights and --calibration, which it would replace, but "
            f"got {out}: name another file"
        )


def _make(source: Source) -> torch.nn.Module:
    with _code_of_the_user(source):
        found = attrgetter(source.name)(_import(source.module))
        made = found() if callable(found) and not isinstance(found, torch.nn.Module) else found
    if not isinstance(made, torch.nn.Module):
        raise CommandError(
            f"{source} must be a torch.nn.Module or give one without arguments, but gives "
            f"{type(made).__name__}: name a function that returns the float model"
        )
    return made


@contextmanager
def _code_of_the_user(source: Source) -> Iterator[None]:
    """What it prints goes to standard error; what it raises becomes a line that says where."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:
        raise CommandError(
            f"{source} cannot be made: {type(error).__name__}: {one_line(error)}{_place(error)}"
        ) from error


def _place(error: BaseException) -> str:
    """Where it was raised, unless here or by the import itself."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f" ({frame.filename}, line {frame.lineno})" for frame in frames if _is_theirs(frame)]
    return places[-1] if places else ""


def _is_theirs(frame: traceback.FrameSummary) -> bool:
    return not frame.filename.startswith("<frozen") and frame.filename not in (
        __file__,
        importlib.__file__,
    )


def _import(module: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if not module.endswith(".py"):
        return importlib.import_module(module)
    # Under a name of its own: a file may well be called as a module that others import.
    name = f"torchquant_model_{Path(module).stem}"
    spec = importlib.util.spec_from_file_location(name, module)
    if spec is None or spec.loader is None:
        raise ImportError(f"{module} is no file of Python")
    imported = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(imported)
    return imported


def _load_weights(model: torch.nn.Module, path: Path) -> None:
    is_safetensors = _is_safetensors(path)
    state = {} if is_safetensors else _load_state_dict(path)
    try:
        if is_safetensors:
            load_model(model, path)  # knows that a tensor which several share is there but once
        else:
            model.load_state_dict(state)
    except (RuntimeError, SafetensorError) as error:
        raise CommandError(
            f"{path} must hold the float state dict of this {type(model).__name__}: "
            f"{one_line(error)}"
        ) from error


def _is_safetensors(path: Path) -> bool:
    """By its ninth byte, where the JSON of its header begins."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _load_state_dict(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a stranger's bytes raise anything
        raise CommandError(
            f"{path} must hold a state dict, by safetensors or torch.save(model.state_dict(), "
            f"FILE), but cannot be read as tensors alone ({type(error).__name__})"
        ) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        keys = f" of {', '.join(map(str, state))}" if isinstance(state, Mapping) else ""
        raise CommandError(
            f"{path} must hold a state dict, but holds a {type(state).__name__}{keys}: save "
            "model.state_dict() itself"
        )
    return state


def _quantize(model: torch.nn.Module, options: argparse.Namespace) -> torch.nn.Module:
    keep = _filter(model, options.keep) if options.keep else None
    if options.scheme == "static":
        calibration = torchquant.Calibration.load(options.calibration)
        return torchquant.quantize_static(
            model, calibration, inplace=True, filter_fn=keep, method=options.method
        )
    if options.scheme == "weight_only":
        return torchquant.quantize_weights(model, inplace=True, filter_fn=keep)
    return torchquant.quantize_dynamic(model, inplace=True, filter_fn=keep)


def _filter(model: torch.nn.Module, patterns: Sequence[str]) -> Filter:
    """False for what is kept; CommandError where a pattern fits no linear layer, or all fit."""
    names = [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if type(module) in LINEAR
    ]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise CommandError(
                f"--keep {pattern!r} fits no linear layer: the model has {', '.join(names)}"
            )

    def is_quantized(module: torch.nn.Module, name: str) -> bool:
        return not any(fnmatchcase(name, pattern) for pattern in patterns)

    if names and not any(is_quantized(model, name) for name in names):
        raise CommandError(
            f"--keep leaves nothing to quantize: every linear layer fits, {', '.join(names)}"
        )
    return is_quantized
