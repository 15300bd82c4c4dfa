"""Observers: modules that record the range of what passes through them.

The ecosystem's protocol: ``forward`` records its input and returns it, ``calculate_qparams`` gives
scale and zero point. They script, and their state is plain buffers, which keep their dtypes.
"""

import torch
from torch import Tensor

from torchquant.arguments import check_integer
from torchquant.histogram import NUM_BINS, check_method, merge_state
from torchquant.nn import FixedDtypes


def _check_codes(quant_min: int, quant_max: int, symmetric: bool) -> None:
    check_integer(quant_min, "quant_min", "int8 is -128 and 127, uint8 is 0 and 255")
    check_integer(quant_max, "quant_max", "int8 is -128 and 127, uint8 is 0 and 255")
    if not -65536 <= quant_min < quant_max <= 65535:
        raise ValueError(
            "quant_min and quant_max must satisfy -65536 <= quant_min < quant_max <= 65535, but "
            f"got {quant_min} and {quant_max}: int8 is -128 and 127, uint8 is 0 and 255"
        )
    if symmetric and not quant_min < 0 < quant_max:
        raise ValueError(
            "quant_min and quant_max must lie on both sides of 0 when symmetric is true, but got "
            f"{quant_min} and {quant_max}: pass -128 and 127, or symmetric=False"
        )


class HistogramObserver(FixedDtypes):
    """Counts float tensors of any shape in a histogram, from which a method reads the range.

    Buffers: ``counts`` int64 ``[32768]`` and ``range`` float32 ``[2]``, the state of
    :func:`torchquant.ops.histogram_observe_`. The one of two observers is added to the other by
    ``a.merge(b)``.
    """

    counts: Tensor
    range: Tensor
    quant_min: int
    quant_max: int
    symmetric: bool
    method: str
    percentile: float

    def __init__(
        self,
        method: str,
        quant_min: int = 0,
        quant_max: int = 255,
        symmetric: bool = False,
        percentile: float = 99.99,
    ) -> None:
        """``quant_min`` and ``quant_max``: the codes; symmetric ones have zero point 0."""
        super().__init__()
        _check_codes(quant_min, quant_max, symmetric)
        check_method(method, percentile)
        self.quant_min = quant_min
        self.quant_max = quant_max
        self.symmetric = symmetric
        self.method = method
        self.percentile = float(percentile)
        self.register_buffer("counts", torch.zeros(NUM_BINS, dtype=torch.int64))
        self.register_buffer("range", torch.tensor([torch.inf, -torch.inf], dtype=torch.float32))

    def forward(self, input: Tensor) -> Tensor:
        """Records ``input``, float of any shape, and returns it."""
        torch.ops.torchquant.histogram_observe_(self.counts, self.range, input.detach())
        return input

    @torch.jit.export
    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """scale, float32 ``[]``, and zero_point, int32 ``[]``.

        Raises:
            RuntimeError: NaN or Inf was observed.
        """
        return torch.ops.torchquant.histogram_qparams(  # type: ignore[no-any-return]
            self.counts,
            self.range,
            self.quant_min,
            self.quant_max,
            self.symmetric,
            self.method,
            self.percentile,
        )

    @torch.jit.export
    def reset(self) -> None:
        """Forgets what was observed."""
        self.counts.zero_()
        self.range[0] = float("inf")
        self.range[1] = -float("inf")

    def merge(self, other: "HistogramObserver") -> "HistogramObserver":
        """Adds what another one observed, of any method; returns itself."""
        merge_state(self.counts, self.range, other.counts, other.range)
        return self

    def extra_repr(self) -> str:
        """The numbers that ``print(model)`` shows."""
        return f"quant_min={self.quant_min}, quant_max={self.quant_max}, symmetric={self.symmetric}"


class MinMaxObserver(HistogramObserver):
    """The exact minimum and maximum."""

    def __init__(self, quant_min: int = 0, quant_max: int = 255, symmetric: bool = False) -> None:
        super().__init__("minmax", quant_min, quant_max, symmetric)


class PercentileObserver(HistogramObserver):
    """Without the outermost values: ``percentile`` percent of them lie in the range."""

    def __init__(
        self,
        percentile: float = 99.99,
        quant_min: int = 0,
        quant_max: int = 255,
        symmetric: bool = False,
    ) -> None:
        super().__init__("percentile", quant_min, quant_max, symmetric, percentile)


class MSEObserver(HistogramObserver):
    """The range of least expected squared error."""

    def __init__(self, quant_min: int = 0, quant_max: int = 255, symmetric: bool = False) -> None:
        super().__init__("mse", quant_min, quant_max, symmetric)


class EntropyObserver(HistogramObserver):
    """The range of least information lost, in the Kullback-Leibler sense."""

    def __init__(self, quant_min: int = 0, quant_max: int = 255, symmetric: bool = False) -> None:
        super().__init__("entropy", quant_min, quant_max, symmetric)


class PerChannelMinMaxObserver(FixedDtypes):
    """The exact minimum and maximum of each slice along ``ch_axis``.

    Buffers: ``min_val`` and ``max_val``, float32 ``[C]``; ``[0]`` before the first input.
    """

    min_val: Tensor
    max_val: Tensor
    ch_axis: int
    quant_min: int
    quant_max: int
    symmetric: bool

    def __init__(
        self,
        ch_axis: int = 0,
        quant_min: int = -128,
        quant_max: int = 127,
        symmetric: bool = True,
    ) -> None:
        """``ch_axis``: the dimension of the channels, counted from the end where negative."""
        super().__init__()
        _check_codes(quant_min, quant_max, symmetric)
        check_integer(ch_axis, "ch_axis", "it counts dimensions, negative ones from the last")
        self.ch_axis = ch_axis
        self.quant_min = quant_min
        self.quant_max = quant_max
        self.symmetric = symmetric
        self.register_buffer("min_val", torch.empty(0, dtype=torch.float32))
        self.register_buffer("max_val", torch.empty(0, dtype=torch.float32))

    def forward(self, input: Tensor) -> Tensor:
        """Records ``input``, float with a dimension ``ch_axis``, and returns it."""
        self.check_input(input)
        if input.numel() == 0:
            return input
        channels = input.detach().movedim(self.ch_axis, 0)
        channels = channels.reshape(channels.size(0), -1)
        least, greatest = channels.amin(dim=1).float(), channels.amax(dim=1).float()
        if self.min_val.numel() == 0:
            self.min_val, self.max_val = least, greatest
        elif self.min_val.numel() != least.numel():
            raise ValueError(
                f"input must have {self.min_val.numel()} channels, as before, but got "
                f"{least.numel()} in dimension {self.ch_axis}: one observer for each tensor"
            )
        else:
            self.min_val = torch.minimum(self.min_val, least)
            self.max_val = torch.maximum(self.max_val, greatest)
        return input

    @torch.jit.export
    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """scale, float32 ``[C]``, and zero_point, int32 ``[C]``.

        Raises:
            ValueError: NaN or Inf was observed, or nothing.
        """
        if self.min_val.numel() == 0:
            raise ValueError("nothing was observed: pass tensors through the observer first")
        scale, zero_point = torch.ops.torchquant.choose_qparams_per_channel(
            torch.stack([self.min_val, self.max_val], dim=1),
            0,
            self.quant_min,
            self.quant_max,
            self.symmetric,
        )
        if bool(scale.isnan().any()):
            raise ValueError(
                "NaN or Inf was observed: find out where the observed tensor took them from"
            )
        return scale, zero_point

    @torch.jit.export
    def reset(self) -> None:
        """Forgets what was observed."""
        self.min_val = self.min_val[:0]
        self.max_val = self.max_val[:0]

    def check_input(self, input: Tensor) -> None:
        """Raises RuntimeError where it is not float, or has no such dimension."""
        if input.dtype not in [torch.float32, torch.float16, torch.bfloat16]:
            raise RuntimeError(
                f"input must be float32, float16 or bfloat16, but got {input.dtype}: convert it "
                "with .float()"
            )
        if not -input.dim() <= self.ch_axis < input.dim():
            raise RuntimeError(
                f"input must have a dimension ch_axis={self.ch_axis}, but got shape "
                f"{list(input.shape)}: make an observer with the dimension of its channels"
            )

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN002
        """Takes the number of channels from the state, but not its device."""
        for name in ("min_val", "max_val"):
            if prefix + name in state_dict:
                state, device = state_dict[prefix + name], getattr(self, name).device
                setattr(self, name, torch.empty_like(state, device=device))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """The numbers that ``print(model)`` shows."""
        return (
            f"ch_axis={self.ch_axis}, quant_min={self.quant_min}, quant_max={self.quant_max}, "
            f"symmetric={self.symmetric}"
        )
