"""Running data through a model and observing what its layers take."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from torchquant.calibration import Calibration
from torchquant.chains import owners
from torchquant.selection import LINEAR, Filter, check_selection, linear, select

Batch = Tensor | Sequence[Any] | Mapping[str, Any]


def calibrate(
    model: torch.nn.Module,
    batches: Iterable[Batch],
    *,
    method: str = "mse",
    percentile: float = 99.99,
    filter_fn: Filter | None = None,
    outputs: bool = False,
    progress: bool = True,
) -> Calibration:
    """Runs batches through a model and counts what its linear layers take, in one pass.

    The model runs in evaluation mode and without gradients; its mode is put back and the hooks are
    removed whatever happens. 256 KB are kept for each layer, and no activation.

    Args:
        model: Any module. Its layers of the exact type nn.Linear are observed.
        batches: An iterable, such as a DataLoader. A tensor is passed as ``model(batch)``, a tuple
            or list as ``model(*batch)``, a dict as ``model(**batch)``. Labels must be left out:
            ``((x,) for x, _ in loader)``. On the device of the model.
        method: How ranges are read unless said otherwise: "minmax", "percentile", "mse" or
            "entropy". Any of them can be asked of the result.
        percentile: What "percentile" means, in (50, 100].
        filter_fn: Called with (module, qualified name); False leaves that layer out.
        outputs: Whether to observe the layers' outputs too, as ``NAME:output``.
        progress: Whether to show a progress bar, on standard error.

    Returns:
        The calibration. A layer that no batch reached is in its ``never_called``. Ctrl-C ends the
        run and returns what was seen up to then, with a warning.

    Raises:
        TypeError: an argument or a batch is of the wrong type.
        ValueError: there is no layer to observe, the model is wrapped by torch.compile, no batch, a
            batch that forward does not take, or NaN or Inf in what a layer took; the message names
            the layer and the batch. In a process of torch.distributed no batch is a warning: other
            ranks may have some.
    """
    check_selection(model, LINEAR, filter_fn)
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise TypeError(
            f"batches must be an iterable of batches, but got {type(batches).__name__}: pass a "
            "list of one batch, [batch], or a DataLoader"
        )
    names = select(model, LINEAR, filter_fn)
    observed = [*names, *(f"{name}:output" for name in names if outputs)]
    calibration = Calibration(observed, method, percentile)
    calibration.in_features = {name: linear(model, name).in_features for name in names}
    with _uncompiled(), _evaluating(model), _observing(model, names, calibration, outputs):
        try:
            _run(model, batches, calibration, progress)
        except KeyboardInterrupt:
            calibration.interrupted = True
            warnings.warn(
                f"calibration was interrupted: it has {calibration.batches} whole batches, and "
                "what the layers saw of the next",
                stacklevel=2,
            )
    return calibration


def _run(
    model: torch.nn.Module, batches: Iterable[Batch], calibration: Calibration, progress: bool
) -> None:
    for batch in tqdm(batches, desc="calibrating", unit="batch", disable=not progress):
        arguments, keywords = _arguments(batch, calibration.batches)
        _check_forward_takes(model, arguments, keywords, calibration.batches)
        with torch.no_grad():
            model(*arguments, **keywords)
        calibration.batches += 1
    if calibration.batches > 0:
        return
    message = (
        "batches gave none: pass a list or a DataLoader, for an iterator that was used up gives "
        "nothing more"
    )
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        raise ValueError(message)
    # Others wait for this rank in all_reduce, which raises where none of them has a batch.
    warnings.warn(f"{message}; this rank adds nothing in all_reduce", stacklevel=3)


def _arguments(batch: Batch, index: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(batch, Tensor):
        return (batch,), {}
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return tuple(batch), {}
    raise TypeError(
        f"batch {index} must be a tensor, a tuple, a list or a dict, but is a "
        f"{type(batch).__name__}: convert it to what the model's forward takes"
    )


def _check_forward_takes(
    model: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], index: int
) -> None:
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        given = [type(argument).__name__ for argument in arguments] or list(keywords)
        raise ValueError(
            f"batch {index} gives {', '.join(given)}, but forward takes {signature} ({error}): "
            "leave labels out, as in ((x,) for x, _ in loader)"
        ) from error


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Compiled code does not look for hooks that came after it."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and it takes seconds to import
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    # They would turn padded input into nested tensors, for a fast path that hooks switch off.
    encoders = [module for module in training if isinstance(module, torch.nn.TransformerEncoder)]
    nested = [encoder.use_nested_tensor for encoder in encoders]
    try:
        model.eval()
        for encoder in encoders:
            encoder.use_nested_tensor = False
        yield
    finally:
        for module, was_training in training.items():
            module.training = was_training
        for encoder, used in zip(encoders, nested, strict=True):
            encoder.use_nested_tensor = used


@contextmanager
def _observing(
    model: torch.nn.Module, names: Iterable[str], calibration: Calibration, outputs: bool
) -> Iterator[None]:
    def before(
        name: str, _: torch.nn.Module, arguments: tuple[Tensor, ...], keywords: dict[str, Tensor]
    ) -> None:
        _observe(calibration, name, arguments[0] if arguments else keywords["input"])

    def after(name: str, _: torch.nn.Module, arguments: object, output: Tensor) -> None:
        _observe(calibration, f"{name}:output", output)

    def count(name: str, _: torch.nn.Module, __: object) -> None:
        calibration.owners[name] += 1

    handles = []
    calibration.owners = dict.fromkeys(owners(model, {linear(model, n) for n in names}), 0)
    try:
        for name in calibration.owners:
            owner = model.get_submodule(name)
            handles.append(owner.register_forward_pre_hook(partial(count, name)))
        for name in names:
            layer = linear(model, name)
            handles.append(layer.register_forward_pre_hook(partial(before, name), with_kwargs=True))
            if outputs:
                handles.append(layer.register_forward_hook(partial(after, name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _observe(calibration: Calibration, name: str, tensor: Tensor) -> None:
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(
            f"{name or 'model'} must take float32, float16 or bfloat16, but took {tensor.dtype} in "
            f"batch {calibration.batches}: convert model and batches with .float()"
        )
    calibration.observe(name, tensor)
    if calibration.histograms[name].has_nan_or_inf():
        raise ValueError(
            f"{name or 'model'} saw NaN or Inf in batch {calibration.batches}: look at what this "
            "batch holds, compute in float32, or leave the layer out by filter_fn"
        )
