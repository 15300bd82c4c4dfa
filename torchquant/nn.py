"""Quantized layers. Their state is plain tensors: one state dict for every road and machine."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from torchquant import ops
from torchquant.arguments import check_integer
from torchquant.weights import (
    check_quantizable,
    check_replaceable,
    check_weight_method,
    quantize_weight,
    snr_db,
)

# TorchScript takes comments in a method for types, so the remark to mypy stands here.
is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]

Layer = TypeVar("Layer", bound="QuantizedLinear")

ACTIVATIONS = ("none", "relu")


class FixedDtypes(torch.nn.Module):
    """A module whose buffers keep their dtypes through ``.half()`` and ``.to(dtype)``."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FixedDtypes":
        """Moves the buffers, but casts none of them: their bits are the contract."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = getattr(self, name)
            if old is not None and new.dtype != old.dtype:
                setattr(self, name, old.to(new.device))
        return self


class QuantizedLinear(FixedDtypes):
    """What the quantized linear layers have in common: an int8 weight, its scales, a bias.

    Attributes:
        weight_snr_db: What quantizing left of the weight, as a signal-to-noise ratio in dB,
            infinite where nothing was lost. None: unknown, for the weight came as a state dict.
    """

    in_features: int
    out_features: int
    activation: str
    weight_snr_db: float | None

    def __init__(self, in_features: int, out_features: int, bias: bool, activation: str) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(
                f'activation must be "none" or "relu", but got {activation!r}: pass "none" and '
                "apply others to the output"
            )
        for name, features in (("in_features", in_features), ("out_features", out_features)):
            check_integer(features, name, "pass that of the float layer")
            if features < 0:
                raise ValueError(
                    f"{name} must not be negative, but got {features}: pass that of the float layer"
                )
        self.in_features = in_features
        self.out_features = out_features
        self.activation = activation
        self.weight_snr_db = None
        weight = torch.zeros(out_features, in_features, dtype=torch.int8)
        self.register_buffer("packed_weight", ops.pack_weight(weight))
        self.register_buffer("weight_scale", torch.ones(out_features, dtype=torch.float32))
        self.register_buffer("weight_sum", torch.zeros(out_features, dtype=torch.int32))
        self.register_buffer(
            "bias", torch.zeros(out_features, dtype=torch.float32) if bias else None
        )

    def take_weight(self, linear: torch.nn.Linear, weight_method: str = "minmax") -> None:
        """Quantizes the weight of a float layer of the same size, and copies its bias."""
        codes, self.weight_scale = quantize_weight(linear.weight.detach(), weight_method)
        self.packed_weight = ops.pack_weight(codes)
        self.weight_sum = codes.sum(dim=1, dtype=torch.int32)
        restored = codes.float() * self.weight_scale.unsqueeze(1)
        self.weight_snr_db = snr_db(linear.weight.detach().float(), restored)
        if linear.bias is not None:
            self.bias = linear.bias.detach().float().clone()
        self.train(linear.training)

    def share_weight(self, other: "QuantizedLinear") -> None:
        """Makes the weight of both one."""
        self.packed_weight = other.packed_weight
        self.weight_scale = other.weight_scale
        self.weight_sum = other.weight_sum
        self.weight_snr_db = other.weight_snr_db

    def check_width(self, input: Tensor) -> None:
        """Raises RuntimeError where the last dimension is not in_features."""
        # The packed weight is padded, so the operator cannot tell 10 inputs from 12. A trace fixes
        # what it sees, and was checked when it was made.
        if not is_tracing() and input.size(-1) != self.in_features:
            raise RuntimeError(
                f"input must have {self.in_features} features in its last dimension, but got shape "
                f"{list(input.shape)}: this layer was made for in_features={self.in_features}"
            )

    @property
    def weight(self) -> Tensor:
        """The weight that this layer stands for: float32 ``[N, K]``, computed at every access.

        For those who look at it, and for TorchScript, which compiles the fused path of
        nn.TransformerEncoderLayer although it is not taken.
        """
        quantized = torch.ops.torchquant.unpack_weight(
            self.packed_weight, self.out_features, self.in_features
        )
        return quantized.float() * self.weight_scale.unsqueeze(1)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The numbers that ``print(model)`` shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, activation={self.activation!r}"
        )


def unchecked(
    kind: type[Layer],
    linear: torch.nn.Linear,
    activation: str = "none",
    weight_method: str = "minmax",
) -> Layer:
    """A layer with the quantized weight and the bias of a float one that can be quantized."""
    layer = kind(linear.in_features, linear.out_features, linear.bias is not None, activation)
    layer.take_weight(linear, weight_method)
    return layer


def _layer_of(
    kind: type[Layer],
    linear: torch.nn.Linear,
    check: Callable[[torch.nn.Linear, str], None],
    activation: str,
    weight_method: str = "minmax",
) -> Layer:
    """As :func:`unchecked`, if the check lets it pass."""
    if not isinstance(linear, torch.nn.Linear):
        raise TypeError(
            f"linear must be a torch.nn.Linear, but got {type(linear).__name__}: pass the "
            "layer itself, or a whole model to torchquant.quantize_dynamic or quantize_static"
        )
    check(linear, "linear")
    check_weight_method(weight_method)
    return unchecked(kind, linear, activation, weight_method)


class DynamicLinear(QuantizedLinear):
    """A linear layer with int8 weights that quantizes its input on the fly, row by row.

    ``y = activation(x @ weight.t() + bias)`` by :func:`torchquant.ops.linear_dynamic`. Made from a
    float layer by :meth:`from_float`; scripts, traces, compiles and exports.

    Buffers: ``packed_weight`` int8 ``[ceil(N / 16), ceil(K / 4), 16, 4]``, ``weight_scale`` float32
    ``[N]``, ``weight_sum`` int32 ``[N]``, ``bias`` float32 ``[N]`` or None. The float32 ones keep
    their dtype through ``.half()`` and ``.to(dtype)``; the output has the dtype of the input.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, activation: str = "none"
    ) -> None:
        """An all-zero layer, to load a state dict into. Use :meth:`from_float` otherwise."""
        super().__init__(in_features, out_features, bias, activation)

    @classmethod
    def from_float(cls, linear: torch.nn.Linear, activation: str = "none") -> "DynamicLinear":
        """Quantizes the weight of ``linear``, symmetric, one scale for each output feature.

        Args:
            linear: The float layer; it is not changed.
            activation: "none" or "relu", applied to the output.

        Raises:
            TypeError: ``linear`` is not a torch.nn.Linear.
            ValueError: Its weight holds NaN or Inf, has no data or is not floating-point; it has
                hooks; it has more than 65,793 inputs; or activation is another one.
        """
        return _layer_of(cls, linear, check_quantizable, activation)

    def forward(self, input: Tensor) -> Tensor:
        """Input ``[..., in_features]``, float, to ``[..., out_features]`` of the same dtype."""
        self.check_width(input)
        return torch.ops.torchquant.linear_dynamic(  # type: ignore[no-any-return]
            input,
            self.packed_weight,
            self.weight_scale,
            self.weight_sum,
            self.bias,
            self.activation,
        )


class StaticLinear(QuantizedLinear):
    """A linear layer with int8 weights and a range of its input that calibration found.

    ``y = activation(x @ weight.t() + bias)`` by :func:`torchquant.ops.linear_static`, x quantized
    to uint8 with ``input_scale`` and ``input_zero_point``. Where it has an output scale, that of
    the layer which reads its output, it gives uint8, which that one takes as it is.

    Buffers: those of :class:`DynamicLinear`; ``input_scale`` float32 ``[]``, ``input_zero_point``
    int32 ``[]``; ``output_scale`` and ``output_zero_point``, the same or None.

    Attributes:
        output_dtype: The dtype of a float output. None: that of the input. Set for layers that take
            uint8, and changed by ``.half()`` and ``.to(dtype)``.
    """

    input_scale: Tensor
    input_zero_point: Tensor
    output_dtype: torch.dtype | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "none",
        requantize: bool = False,
    ) -> None:
        """An all-zero layer, to load a state dict into. Use :meth:`from_float` otherwise.

        ``requantize``: whether it gives uint8, and so has an output scale.
        """
        super().__init__(in_features, out_features, bias, activation)
        one, zero = torch.ones((), dtype=torch.float32), torch.zeros((), dtype=torch.int32)
        self.register_buffer("input_scale", one)
        self.register_buffer("input_zero_point", zero)
        self.register_buffer("output_scale", one.clone() if requantize else None)
        self.register_buffer("output_zero_point", zero.clone() if requantize else None)
        self.output_dtype = None

    @classmethod
    def from_float(
        cls,
        linear: torch.nn.Linear,
        input_scale: Tensor,
        input_zero_point: Tensor,
        activation: str = "none",
        weight_method: str = "minmax",
    ) -> "StaticLinear":
        """Quantizes the weight of ``linear``, symmetric, one scale for each output feature.

        Args:
            linear: The float layer; it is not changed.
            input_scale: float32, one element, for codes [0, 255], as
                :meth:`torchquant.Calibration.qparams` gives them.
            input_zero_point: int32, one element.
            activation: "none" or "relu", applied to the output.
            weight_method: "minmax", or "mse": scales of least squared error on the weights.

        Raises:
            TypeError: ``linear`` is not a torch.nn.Linear, or the scale or zero point no tensor.
            ValueError: As for :meth:`DynamicLinear.from_float`, or the scale or zero point is not
                one finite element.
        """
        layer = _layer_of(cls, linear, check_quantizable, activation, weight_method)
        layer.take_input_range(input_scale, input_zero_point)
        return layer

    def take_input_range(self, input_scale: Tensor, input_zero_point: Tensor) -> None:
        """Quantizes the input by these from now on."""
        self.input_scale, self.input_zero_point = _one_pair(
            input_scale, input_zero_point, self.weight_scale.device
        )

    def requantize_for(self, reader: "StaticLinear") -> None:
        """Gives uint8 from now on, as ``reader`` quantizes its input."""
        self.output_scale = reader.input_scale.clone()
        self.output_zero_point = reader.input_zero_point.clone()

    def forward(self, input: Tensor) -> Tensor:
        """Input ``[..., in_features]``, float or quantized, to ``[..., out_features]``."""
        self.check_width(input)
        return torch.ops.torchquant.linear_static(  # type: ignore[no-any-return]
            input,
            self.input_scale,
            self.input_zero_point,
            self.packed_weight,
            self.weight_scale,
            self.weight_sum,
            self.bias,
            self.activation,
            self.output_scale,
            self.output_zero_point,
            self.output_dtype,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "StaticLinear":
        super()._apply(fn, recurse)
        if self.output_dtype is not None:
            self.output_dtype = fn(torch.empty(0, dtype=self.output_dtype)).dtype
        return self

    def extra_repr(self) -> str:
        """The numbers that ``print(model)`` shows."""
        return f"{super().extra_repr()}, requantize={self.output_scale is not None}"


class WeightOnlyLinear(QuantizedLinear):
    """A linear layer with int8 weights that computes in float, for inputs that must stay float.

    ``y = activation(x @ weight.t() + bias)`` by torch.nn.functional.linear, the weight dequantized
    to the dtype of x at every call: a quarter of the memory of float32, but no less time. The
    gradient flows to the input. Scripts, traces, compiles and exports; none of these stores the
    float weight.

    Buffers: those of :class:`DynamicLinear`.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, activation: str = "none"
    ) -> None:
        """An all-zero layer, to load a state dict into. Use :meth:`from_float` otherwise."""
        super().__init__(in_features, out_features, bias, activation)

    @classmethod
    def from_float(
        cls, linear: torch.nn.Linear, activation: str = "none", weight_method: str = "minmax"
    ) -> "WeightOnlyLinear":
        """Quantizes the weight of ``linear``, symmetric, one scale for each output feature.

        Args:
            linear: The float layer; it is not changed.
            activation: "none" or "relu", applied to the output.
            weight_method: "minmax", or "mse": scales of least squared error on the weights.

        Raises:
            TypeError: ``linear`` is not a torch.nn.Linear.
            ValueError: Its weight holds NaN or Inf, has no data or is not floating-point; it has
                hooks; or activation or weight_method is another one.
        """
        return _layer_of(cls, linear, check_replaceable, activation, weight_method)

    def forward(self, input: Tensor) -> Tensor:
        """Input ``[..., in_features]``, float, to ``[..., out_features]`` of the same dtype."""
        self.check_width(input)
        self.check_dtype(input)
        codes = torch.ops.torchquant.unpack_weight(
            self.packed_weight, self.out_features, self.in_features
        )
        # Made of the input, for torch.jit.freeze stores in float what it can compute beforehand.
        zero_point = input.new_zeros([self.out_features], dtype=torch.int32)
        weight = torch.ops.torchquant.dequantize_per_channel(
            codes, self.weight_scale, zero_point, 0, out_dtype=input.dtype
        )
        bias = None if self.bias is None else self.bias.to(input.dtype)
        output = torch.nn.functional.linear(input, weight, bias)
        return torch.relu(output) if self.activation == "relu" else output

    def check_dtype(self, input: Tensor) -> None:
        """Raises RuntimeError where the weight cannot be had in the dtype of the input."""
        if input.dtype not in [torch.float32, torch.float16, torch.bfloat16]:
            raise RuntimeError(
                f"input must be float32, float16 or bfloat16, but got {input.dtype}: convert it "
                "with .float()"
            )


def _one_pair(scale: Tensor, zero_point: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Checked, 0-dim and on the device."""
    for name, tensor in (("input_scale", scale), ("input_zero_point", zero_point)):
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{name} must be a tensor, but got {tensor!r}: pass what Calibration.qparams "
                "returned"
            )
    if scale.dtype != torch.float32 or scale.numel() != 1 or not 0 < scale.item() < torch.inf:
        raise ValueError(
            "input_scale must be one positive finite float32, but got "
            f"{scale.dtype} {scale.tolist()}: pass what Calibration.qparams returned"
        )
    is_one = zero_point.dtype == torch.int32 and zero_point.numel() == 1
    if not is_one or not 0 <= zero_point.item() <= 255:
        raise ValueError(
            "input_zero_point must be one int32 from 0 to 255, but got "
            f"{zero_point.dtype} {zero_point.tolist()}: pass what Calibration.qparams returned"
        )
    return (
        scale.detach().reshape(()).clone().to(device),
        zero_point.reshape(()).clone().to(device),
    )
