"""What calibration found: a histogram for each layer, from which any method reads its range."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from torchquant import calibration_file
from torchquant.codes import code_range
from torchquant.histogram import METHODS, Histogram, check_method
from torchquant.strict_json import printable
from torchquant.tables import Value, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Calibration:
    """Histograms of the inputs of a model's layers, made by :func:`torchquant.calibrate`.

    256 KB for each, whatever was observed. The same activations give the same state to the bit, in
    batches of any size and order, in any number of threads, merged from parts and reduced over
    processes; and any method can be read from it afterwards. docs/calibration.md has the equations.

    Attributes:
        method: The default of :meth:`qparams`: "minmax", "percentile", "mse" or "entropy".
        percentile: What "percentile" means, in (50, 100].
        batches: How many batches are in it.
        interrupted: Whether Ctrl-C ended the calibration before its data did.
        histograms: A :class:`torchquant.histogram.Histogram` by the name of each layer, that of its
            input; where asked for, ``NAME:output`` for its output.
        calls: How often each of them was observed.
        owners: How often each module was called that holds several of the layers.
        in_features: The width of each layer's input, where it is known: a file does not hold it.
    """

    def __init__(
        self, names: Iterable[str], method: str = "mse", percentile: float = 99.99
    ) -> None:
        """An empty one for tensors of these names."""
        check_method(method, percentile)
        self.method = method
        self.percentile = float(percentile)
        self.batches = 0
        self.interrupted = False
        self.histograms = {name: Histogram() for name in names}
        self.calls = dict.fromkeys(self.histograms, 0)
        self.owners: dict[str, int] = {}
        self.in_features: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        """What was to be observed, in the model's order."""
        return list(self.histograms)

    @property
    def never_called(self) -> list[str]:
        """The layers that no batch reached."""
        return [name for name, calls in self.calls.items() if calls == 0]

    def observe(self, name: str, tensor: Tensor) -> None:
        """Adds a float tensor to the histogram of that name."""
        histogram = self._histogram(name)
        self.calls[name] += 1
        histogram.observe(tensor)

    def qparams(
        self,
        name: str,
        *,
        method: str | None = None,
        num_bits: int = 8,
        symmetric: bool = False,
        percentile: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Scale and zero point for what the layer ``name`` took.

        Args:
            name: One of :attr:`names`.
            method: That of the calibration by default; any other is read from the same state.
            num_bits: Of the codes, 2 to 16.
            symmetric: Codes [-2^(b-1), 2^(b-1) - 1] and zero point 0; otherwise [0, 2^b - 1].
            percentile: For that method; that of the calibration by default.

        Returns:
            scale, float32 ``[]``, and zero_point, int32 ``[]``.

        Raises:
            KeyError: no layer of that name was observed.
            ValueError: an argument is not as above, or no batch reached the layer.
        """
        histogram = self._histogram(name)
        method = self.method if method is None else method
        percentile = self.percentile if percentile is None else percentile
        check_method(method, percentile)
        if self.calls[name] == 0:
            raise ValueError(
                f"{name or 'model'} was never called in {self.batches} batches, so its range is "
                "not known: calibrate with data that reaches it, or leave it in float by filter_fn"
            )
        quant_min, quant_max = code_range(num_bits, symmetric)
        return histogram.qparams(quant_min, quant_max, symmetric, method, percentile)

    def _histogram(self, name: str) -> Histogram:
        if name not in self.histograms:
            raise KeyError(
                f"{name!r} was not calibrated: the names are {', '.join(self.histograms)}"
            )
        return self.histograms[name]

    def merge(self, other: Calibration) -> Calibration:
        """Adds what another calibration of the same model observed; returns itself.

        Raises:
            ValueError: it has other layers; nothing was added.
        """
        if set(other.histograms) != set(self.histograms):
            differing = sorted(set(other.histograms) ^ set(self.histograms))
            raise ValueError(
                "other must be a calibration of the same layers, but only one of the two has "
                f"{', '.join(differing)}: calibrate the same model with the same filter_fn"
            )
        for name, width in other.in_features.items():
            if self.in_features.get(name, width) != width:
                raise ValueError(
                    f"other must be a calibration of the same layers, but {name or 'model'} has "
                    f"{width} inputs there and {self.in_features[name]} here: calibrate the same "
                    "model"
                )
        self.in_features |= other.in_features
        for name, histogram in other.histograms.items():
            self.histograms[name].merge(histogram)
            self.calls[name] += other.calls[name]
        for name, calls in other.owners.items():
            self.owners[name] = self.owners.get(name, 0) + calls
        self.batches += other.batches
        self.interrupted |= other.interrupted
        return self

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> Calibration:
        """Adds up the calibrations of all processes, in each of them; returns itself.

        Every rank then holds what one process would have found with all the data, to the bit. To
        be called once, by every rank, after :func:`torchquant.calibrate`: a second call would add
        up the sums.

        Args:
            group: The processes; all by default. With the NCCL backend the state travels over the
                current CUDA device.

        Raises:
            RuntimeError: torch.distributed is not initialised.
            ValueError: ranks have calibrated different layers, or none had a batch: told to all of
                them; nothing was added.
        """
        if not dist.is_initialized():
            raise RuntimeError(
                "torch.distributed must be initialised, but is not: call "
                'torch.distributed.init_process_group("gloo") first, under torchrun'
            )
        self._check_ranks_agree(group)
        device = torch.device("cpu")
        if dist.get_backend(group) == "nccl":
            device = torch.device("cuda", torch.cuda.current_device())
        self._reduce(device, group)
        return self

    def _reduce(self, device: torch.device, group: dist.ProcessGroup | None) -> None:
        histograms = list(self.histograms.values())
        counts = torch.stack([histogram.counts for histogram in histograms]).to(device)
        ends = torch.stack([histogram.range for histogram in histograms]).to(device)
        ends[:, 0].neg_()  # so that one maximum serves both
        numbers = torch.tensor(
            [*self.calls.values(), *self.owners.values(), self.batches, int(self.interrupted)],
            device=device,
        )
        dist.all_reduce(counts, dist.ReduceOp.SUM, group)
        dist.all_reduce(ends, dist.ReduceOp.MAX, group)
        dist.all_reduce(numbers, dist.ReduceOp.SUM, group)
        ends[:, 0].neg_()
        ends += 0.0  # no -0
        for histogram, count, end in zip(histograms, counts.cpu(), ends.cpu(), strict=True):
            histogram.counts.copy_(count)
            histogram.range.copy_(end)
        *calls, self.batches, interrupted = numbers.tolist()
        of_owners = calls[len(self.calls) :]
        self.calls = dict(zip(self.calls, calls[: len(self.calls)], strict=True))
        self.owners = dict(zip(self.owners, of_owners, strict=True))
        self.interrupted = interrupted > 0

    def _check_ranks_agree(self, group: dist.ProcessGroup | None) -> None:
        everyones: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(everyones, (self.names, list(self.owners), self.batches), group)
        if not any(batches for _, _, batches in everyones):
            raise ValueError(
                "one rank at least must have calibrated with a batch, but none has: give each its "
                "share of the data"
            )
        for rank, others in enumerate(everyones):
            if others[:2] != everyones[0][:2]:
                raise ValueError(
                    "all ranks must have calibrated the same layers, but ranks 0 and "
                    f"{rank} differ: {everyones[0][0]} and {others[0]}"
                )

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the state to a safetensors file, beside it first, so that none is left half done.

        Raises:
            ValueError: :meth:`load` would refuse it (NaN or Inf was observed, say); the message
                says why, and nothing was written.
            OSError: the file cannot be written; an old one is as it was.
        """
        numbers = {
            "method": self.method,
            "percentile": self.percentile,
            "batches": self.batches,
            "interrupted": self.interrupted,
            "calls": self.calls,
            "owners": self.owners,
        }
        calibration_file.write(path, self.histograms, numbers)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Calibration:
        """What :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: it cannot be read.
            ValueError: it is no calibration, damaged, or of a newer version; the message says what
                is wrong with which key.
        """
        histograms, numbers = calibration_file.read(path)
        calibration = cls((), numbers["method"], numbers["percentile"])
        calibration.histograms = histograms
        calibration.calls = numbers["calls"]
        calibration.owners = numbers["owners"]
        calibration.batches = numbers["batches"]
        calibration.interrupted = numbers["interrupted"]
        return calibration

    def rows(self, *, num_bits: int = 8, symmetric: bool = False) -> list[dict[str, Value]]:
        """The table of :meth:`summary` as plain values, for programs."""
        return [self._row(name, num_bits, symmetric) for name in self.histograms]

    def _row(self, name: str, num_bits: int, symmetric: bool) -> dict[str, Value]:
        histogram = self.histograms[name]
        row: dict[str, Value] = {
            "layer": name,
            "calls": self.calls[name],
            "values": histogram.count,
        }
        if histogram.count == 0:
            return row
        row["zeros"] = histogram.zeros / histogram.count
        row["min"], row["max"] = histogram.range.tolist()
        for method in METHODS[1:]:
            low, high = self.clip(name, method, num_bits, symmetric)
            row[f"{method}_low"], row[f"{method}_high"] = low, high
        return row

    def clip(
        self, name: str, method: str, num_bits: int = 8, symmetric: bool = False
    ) -> tuple[float, float]:
        """The least and the greatest value that codes of this method stand for."""
        scale, zero_point = self.qparams(
            name, method=method, num_bits=num_bits, symmetric=symmetric
        )
        quant_min, quant_max = code_range(num_bits, symmetric)
        step, zero = scale.item(), int(zero_point)
        return step * (quant_min - zero), step * (quant_max - zero)

    def summary(self, *, num_bits: int = 8, symmetric: bool = False) -> str:
        """A table: what each layer took, its exact range, and where each method would clip it."""
        lines = [f"{len(self.histograms)} tensors, {self.batches} batches, method {self.method}"]
        if self.interrupted:
            lines.append("interrupted: the last batch is only partly in it")
        if self.never_called:
            lines.append(f"never called: {', '.join(map(printable, self.never_called))}")
        rows = sorted(
            self.rows(num_bits=num_bits, symmetric=symmetric), key=lambda row: row["values"] == 0
        )
        return "\n".join(lines + (table(rows) if rows else []))

    def plot(
        self,
        name: str,
        *,
        num_bits: int = 8,
        symmetric: bool = False,
        ax: Axes | None = None,
    ) -> Axes:
        """Draws the histogram of a layer with the range that each method would keep.

        Args:
            name: One of :attr:`names`.
            num_bits: Of the codes.
            symmetric: As for :meth:`qparams`.
            ax: Where to draw; a new figure by default.

        Returns:
            The axes, of matplotlib: ``calibration.plot(name).figure.savefig("layer.png")``.

        Raises:
            ImportError: matplotlib is not installed.
            KeyError, ValueError: as for :meth:`qparams`; or the layer took empty tensors only.
        """
        from torchquant import calibration_plot

        clips: Mapping[str, tuple[float, float]] = {
            method: self.clip(name, method, num_bits, symmetric) for method in METHODS
        }
        if self._histogram(name).count == 0:
            raise ValueError(
                f"{name or 'model'} took empty tensors only, so there is nothing to draw: "
                "calibrate with data that reaches it"
            )
        return calibration_plot.draw(self._histogram(name), clips, name, ax)

    def __repr__(self) -> str:
        return (
            f"Calibration({len(self.histograms)} tensors, {self.batches} batches, "
            f"method={self.method!r}, never called: {len(self.never_called)})"
        )
