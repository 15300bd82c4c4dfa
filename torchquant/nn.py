"""Quantized layers. Their state is plain tensors: one state dict for every road and machine."""

from collections.abc import Callable

import torch
from torch import Tensor

from torchquant import ops

# TorchScript takes comments in a method for types, so the remark to mypy stands here.
is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]

QUANT_MIN, QUANT_MAX = -128, 127
ACTIVATIONS = ("none", "relu")
MAX_IN_FEATURES = 65_793  # above it the sums of uint8 x int8 products may not fit int32


def check_quantizable(linear: torch.nn.Linear, name: str) -> None:
    """Raises ValueError, naming the layer, where no DynamicLinear can stand for it."""
    weight = linear.weight.detach()
    if linear._forward_hooks or linear._forward_pre_hooks:
        raise ValueError(
            f"{name} must have no hooks, which a quantized layer would not run, but has some: "
            "remove them first (torch.nn.utils.remove_weight_norm, torch.nn.utils.prune.remove, "
            "handle.remove()), or leave the layer in float by filter_fn"
        )
    if linear.in_features > MAX_IN_FEATURES:
        raise ValueError(
            f"{name} must have at most {MAX_IN_FEATURES} inputs, or the int32 sums may overflow, "
            f"but has {linear.in_features}: leave it in float by filter_fn"
        )
    if weight.is_meta or not weight.is_floating_point():
        raise ValueError(
            f"{name} must have a floating-point weight with data, but got {weight.dtype} on "
            f"{weight.device}: load the model's weights first"
        )
    if not torch.isfinite(weight.float()).all():
        raise ValueError(
            f"{name} must have a finite weight, but {list(weight.shape)} holds NaN or Inf (as "
            "float32): quantize a model whose weights are sound"
        )


class DynamicLinear(torch.nn.Module):
    """A linear layer with int8 weights that quantizes its input on the fly, row by row.

    ``y = activation(x @ weight.t() + bias)`` by :func:`torchquant.ops.linear_dynamic`. Made from a
    float layer by :meth:`from_float`; scripts, traces, compiles and exports.

    Buffers: ``packed_weight`` int8 ``[ceil(N / 16), ceil(K / 4), 16, 4]``, ``weight_scale`` float32
    ``[N]``, ``weight_sum`` int32 ``[N]``, ``bias`` float32 ``[N]`` or None. The float32 ones keep
    their dtype through ``.half()`` and ``.to(dtype)``; the output has the dtype of the input.
    """

    in_features: int
    out_features: int
    activation: str

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, activation: str = "none"
    ) -> None:
        """An all-zero layer, to load a state dict into. Use :meth:`from_float` otherwise."""
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(
                f'activation must be "none" or "relu", but got {activation!r}: pass "none" and '
                "apply others to the output"
            )
        self.in_features = in_features
        self.out_features = out_features
        self.activation = activation
        weight = torch.zeros(out_features, in_features, dtype=torch.int8)
        self.register_buffer("packed_weight", ops.pack_weight(weight))
        self.register_buffer("weight_scale", torch.ones(out_features, dtype=torch.float32))
        self.register_buffer("weight_sum", torch.zeros(out_features, dtype=torch.int32))
        self.register_buffer(
            "bias", torch.zeros(out_features, dtype=torch.float32) if bias else None
        )

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
        if not isinstance(linear, torch.nn.Linear):
            raise TypeError(
                f"linear must be a torch.nn.Linear, but got {type(linear).__name__}: pass the "
                "layer itself, or a whole model to torchquant.quantize_dynamic"
            )
        check_quantizable(linear, "linear")
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, activation)
        layer.train(linear.training)
        layer._quantize(linear.weight.detach())
        if linear.bias is not None:
            layer.bias = linear.bias.detach().float().clone()
        return layer

    def _quantize(self, weight: Tensor) -> None:
        weight = weight.float()
        scale, zero_point = ops.choose_qparams_per_channel(weight, 0, QUANT_MIN, QUANT_MAX, True)
        quantized = ops.quantize_per_channel(
            weight, scale, zero_point, 0, QUANT_MIN, QUANT_MAX, torch.int8
        )
        self.packed_weight = ops.pack_weight(quantized)
        self.weight_scale = scale
        self.weight_sum = quantized.sum(dim=1, dtype=torch.int32)

    def forward(self, input: Tensor) -> Tensor:
        """Input ``[..., in_features]``, float, to ``[..., out_features]`` of the same dtype."""
        # The packed weight is padded, so the operator cannot tell 10 inputs from 12. A trace fixes
        # what it sees, and was checked when it was made.
        if not is_tracing():
            self._check_width(input)
        return torch.ops.torchquant.linear_dynamic(  # type: ignore[no-any-return]
            input,
            self.packed_weight,
            self.weight_scale,
            self.weight_sum,
            self.bias,
            self.activation,
        )

    def _check_width(self, input: Tensor) -> None:
        if input.size(-1) != self.in_features:
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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DynamicLinear":
        """Moves the buffers, but casts none of them: their bits are the contract."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = getattr(self, name)
            if old is not None and new.dtype != old.dtype:
                setattr(self, name, old.to(new.device))
        return self
