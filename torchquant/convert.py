"""Quantizing a whole model: its layers replaced by quantized ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

from torchquant.calibration import Calibration
from torchquant.chains import Link, find_links
from torchquant.histogram import check_method
from torchquant.nn import (
    DynamicLinear,
    QuantizedLinear,
    StaticLinear,
    WeightOnlyLinear,
    unchecked,
)
from torchquant.replacement import replace_all
from torchquant.selection import LINEAR, Filter, Types, check_selection, linear, select
from torchquant.weights import check_quantizable, check_replaceable, check_weight_method

DYNAMIC_DTYPES = (torch.qint8, torch.int8)

Layer = TypeVar("Layer", bound=QuantizedLinear)


def quantize_dynamic(
    model: torch.nn.Module,
    modules: Types | None = LINEAR,
    dtype: torch.dtype = torch.qint8,
    *,
    inplace: bool = False,
    filter_fn: Filter | None = None,
) -> torch.nn.Module:
    """Replaces the linear layers of a model by :class:`torchquant.nn.DynamicLinear`.

    Takes the calls of torch.ao.quantization.quantize_dynamic: see docs/migration.md.

    Only modules of the exact type are replaced: subclasses (such as the ``out_proj`` of
    nn.MultiheadAttention, whose weight is read directly) stay as they are. A module used in several
    places stays one module, and layers that share a weight share the quantized one. The fused fast
    path of nn.TransformerEncoderLayer, which would compute in float, is turned off.

    Args:
        model: Any module; a lone nn.Linear is replaced itself.
        modules: The types to replace: {nn.Linear}, which None means too.
        dtype: Of the weights: torch.qint8, as torch.ao calls it, or torch.int8, which is the same.
        inplace: Whether to change ``model`` rather than a deep copy of it: all of its layers at
            once, when each is quantized, so that an error or Ctrl-C leaves it as it was. The float
            weights are freed then; up to then there are both, a quarter more than the floats.
        filter_fn: Called with (module, qualified name), once for every name of a module; False
            leaves that module in float.

    Returns:
        The model with its layers replaced.

    Raises:
        TypeError: ``model`` is not a module, ``modules`` no set of types or ``filter_fn`` no
            function.
        ValueError: ``modules`` has a type that cannot be quantized, ``dtype`` is another, the model
            has no layer to quantize or is wrapped by torch.compile, or a layer cannot be quantized
            (see :meth:`DynamicLinear.from_float`); the message names it, and the model is as it
            was.
    """
    check_selection(model, modules, filter_fn)
    _check_dtype(dtype)
    names = select(model, modules, filter_fn)
    model, layers = _quantize_layers(
        model,
        names,
        inplace,
        check_quantizable,
        lambda layer, name: unchecked(DynamicLinear, layer),
    )
    return _put_in_place(model, names, layers)


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype in DYNAMIC_DTYPES:
        return
    if dtype in (torch.float16, torch.bfloat16):
        repair = f"weights of 16 bits are model.to({dtype})"
    else:
        repair = "leave it out, for weights have 8 signed bits"
    raise ValueError(f"dtype must be torch.qint8 or torch.int8, but got {dtype!r}: {repair}")


def quantize_weights(
    model: torch.nn.Module,
    modules: Types | None = LINEAR,
    *,
    inplace: bool = False,
    filter_fn: Filter | None = None,
    weight_method: str = "minmax",
) -> torch.nn.Module:
    """Replaces the linear layers of a model by :class:`torchquant.nn.WeightOnlyLinear`.

    Their weights have 8 bits, and all is computed in float, for models whose activations must stay
    float: it saves memory, not time. Which layers are replaced, what is kept of the model, the
    arguments and the errors are those of :func:`quantize_dynamic`.

    Args:
        model: Any module; a lone nn.Linear is replaced itself.
        modules: The types to replace: {nn.Linear}, which None means too.
        inplace: Whether to change ``model`` rather than a deep copy of it.
        filter_fn: Called with (module, qualified name), once for every name of a module; False
            leaves that module in float.
        weight_method: "minmax" or "mse", the latter searching each weight row's least error.

    Returns:
        The model with its layers replaced.

    Raises:
        TypeError: as for :func:`quantize_dynamic`.
        ValueError: as for :func:`quantize_dynamic`, but that any number of inputs will do; or
            ``weight_method`` is another one.
    """
    check_selection(model, modules, filter_fn)
    check_weight_method(weight_method)
    names = select(model, modules, filter_fn)
    model, layers = _quantize_layers(
        model,
        names,
        inplace,
        check_replaceable,
        lambda layer, name: unchecked(WeightOnlyLinear, layer, weight_method=weight_method),
    )
    return _put_in_place(model, names, layers)


def quantize_static(
    model: torch.nn.Module,
    calibration: Calibration,
    modules: Types | None = LINEAR,
    *,
    inplace: bool = False,
    filter_fn: Filter | None = None,
    method: str | None = None,
    weight_method: str = "minmax",
    chain: bool = True,
) -> torch.nn.Module:
    """Replaces the linear layers of a model by :class:`torchquant.nn.StaticLinear`.

    As :func:`quantize_dynamic`, but the ranges of the activations are those of a calibration,
    rather than taken anew from each row: one less pass over the activations, and less accurate
    where rows differ. Layers that :func:`torchquant.calibrate` did not observe stay in float.

    Where one float32 layer reads another's output through at most a relu (and nn.Identity,
    nn.Flatten, nn.Dropout in evaluation), the activations between them stay in 8 bits: the first
    layer computes the relu and gives the codes of the second, the very ones it would have computed
    itself from float32. This is done among the own layers of an nn.Sequential, and of modules whose
    forward takes one tensor and can be traced by torch.fx, where calibration saw them called as a
    whole only. A layer that is linked gives uint8 to whoever calls it: pass ``chain=False`` where
    parts of such modules are called by themselves, or forward depends on more than its input.

    Args:
        model: The model that was calibrated; a lone nn.Linear is replaced itself.
        calibration: What :func:`torchquant.calibrate` returned for it.
        modules: The types to replace: {nn.Linear}, which None means too.
        inplace: Whether to change ``model`` rather than a deep copy of it.
        filter_fn: Called with (module, qualified name); False leaves that module in float.
        method: How ranges are read: "minmax", "percentile", "mse" or "entropy"; by default that of
            the calibration.
        weight_method: "minmax" or "mse", the latter searching each weight row's least error.
        chain: Whether activations stay in 8 bits between layers where they can.

    Returns:
        The model with its layers replaced.

    Raises:
        TypeError: as for :func:`quantize_dynamic`, or ``calibration`` is none.
        ValueError: as for :func:`quantize_dynamic`; ``calibration`` is of another model; or no
            batch reached a layer. The message names it, and the model is as it was.
    """
    check_selection(model, modules, filter_fn)
    _check_calibration(model, calibration, method)
    check_weight_method(weight_method)
    names = [name for name in select(model, modules, filter_fn) if name in calibration.histograms]
    if not names:
        raise ValueError(
            "model has no calibrated layer left to quantize: filter_fn refused each of "
            f"{', '.join(calibration.names)}"
        )
    qparams = {name: calibration.qparams(name, method=method) for name in names}

    def static(layer: torch.nn.Linear, name: str) -> StaticLinear:
        made = unchecked(StaticLinear, layer, weight_method=weight_method)
        made.take_input_range(*qparams[name])
        return made

    model, layers = _quantize_layers(model, names, inplace, check_quantizable, static)
    links = _calibrated_links(model, names, calibration, layers) if chain else []
    for link in links:
        _connect(link, layers)
    return _put_in_place(model, names, layers)


def _check_calibration(
    model: torch.nn.Module, calibration: Calibration, method: str | None
) -> None:
    if not isinstance(calibration, Calibration):
        raise TypeError(
            f"calibration must be a Calibration, but got {type(calibration).__name__}: pass what "
            "torchquant.calibrate(model, batches) returned"
        )
    if method is not None:
        check_method(method, calibration.percentile)
    found = {
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if type(module) in LINEAR
    }
    strange = [
        name for name in calibration.names if not name.endswith(":output") and name not in found
    ]
    if strange:
        raise ValueError(
            "calibration must be of this model, but it has no nn.Linear of the name "
            f"{', '.join(strange)}: calibrate the model that is quantized"
        )
    for name in calibration.names:
        if not name.endswith(":output"):
            _check_width(linear(model, name), name, calibration)


def _check_width(layer: torch.nn.Linear, name: str, calibration: Calibration) -> None:
    """One that was loaded knows the number of values only, which must make up whole rows."""
    known = calibration.in_features.get(name)
    values = calibration.histograms[name].count
    if known is not None and known != layer.in_features:
        found = f"calibrated with {known} inputs"
    elif values % max(1, layer.in_features) != 0:
        found = f"calibrated with {values} values"
    else:
        return
    raise ValueError(
        f"calibration must be of this model, but {name or 'model'}, with {layer.in_features} "
        f"inputs here, was {found}: calibrate the model that is quantized"
    )


def _quantize_layers(
    model: torch.nn.Module,
    names: list[str],
    inplace: bool,
    check: Callable[[torch.nn.Linear, str], None],
    quantize: Callable[[torch.nn.Linear, str], Layer],
) -> tuple[torch.nn.Module, dict[torch.nn.Module, Layer]]:
    """The model or its copy, and the quantized layer of each float one in it, once all are checked.

    Layers with one weight get one packed weight.
    """
    for name in names:
        check(linear(model, name), name or "model")
    model = model if inplace else copy.deepcopy(model)
    layers: dict[torch.nn.Module, Layer] = {}
    first_with: dict[torch.Tensor, Layer] = {}
    for name in names:
        float_layer = linear(model, name)
        layer = quantize(float_layer, name)
        layer.share_weight(first_with.setdefault(float_layer.weight, layer))
        layers[float_layer] = layer
    return model, layers


def _put_in_place(
    model: torch.nn.Module, names: list[str], layers: Mapping[torch.nn.Module, QuantizedLinear]
) -> torch.nn.Module:
    """All of them or, where that is interrupted, none."""
    return replace_all(model, {name: layers[linear(model, name)] for name in names})


def _calibrated_links(
    model: torch.nn.Module,
    names: list[str],
    calibration: Calibration,
    layers: Mapping[torch.nn.Module, StaticLinear],
) -> list[Link]:
    """Those whose layers were called as often as their owner: so nobody else calls them."""
    calls = {model.get_submodule(name): calibration.calls[name] for name in names}
    modules = dict(model.named_modules())
    calls |= {modules[name]: count for name, count in calibration.owners.items() if name in modules}
    in_float32 = {layer for layer in layers if layer.weight.dtype == torch.float32}
    return [
        link
        for link in find_links(model, in_float32)
        if calls[link.writer] == calls[link.reader] == calls.get(link.owner)
    ]


def _connect(link: Link, layers: Mapping[torch.nn.Module, StaticLinear]) -> None:
    writer, reader = layers[link.writer], layers[link.reader]
    writer.requantize_for(reader)
    reader.output_dtype = torch.float32 if reader.output_scale is None else None
    writer.output_dtype = None
    if link.has_relu:  # what computes it now stays where it is: it leaves codes as they are
        writer.activation = "relu"
