"""Files of ours: safetensors with a versioned header, written beside and then renamed."""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from torchquant import strict_json
from torchquant._library import installed_version
from torchquant.strict_json import printable, shown, shown_entry

_KEY = "torchquant"  # one, because safetensors writes several in no order
_METADATA = "__metadata__"  # what safetensors keeps texts under
_LEFTOVER = ".torchquant-"  # how folders begin that a killed process leaves
_MOST_DIMENSIONS = 64  # PyTorch's limit


class Slice(Protocol):
    """What is known of a tensor without reading it."""

    def get_dtype(self) -> str: ...
    def get_shape(self) -> list[int]: ...


class Opened(Protocol):
    """An open file, as safetensors gives it."""

    def keys(self) -> list[str]: ...
    def metadata(self) -> dict[str, str] | None: ...
    def get_slice(self, key: str) -> Slice: ...
    def get_tensor(self, key: str) -> Tensor: ...


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        format: Its name in the header.
        version: The newest that this torchquant reads, and the one it writes.
        entries: What the header has beside these two and the version of torchquant.
        content: What a file holds, for messages.
        writer: The function that writes it, for messages.
        remedy: What to do about a newer version, beside installing a newer torchquant.
    """

    format: str
    version: int
    entries: frozenset[str]
    content: str
    writer: str
    remedy: str

    def about(self, path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
        """The header, or ValueError where it is of another kind or version, or has too much."""
        about = _header(path, metadata)
        if about.get("format") != self.format:
            raise ValueError(
                f"{path} must hold {self.content}, but its format is "
                f"{shown_entry(about, 'format')}: pass what {self.writer} wrote"
            )
        version = about.get("version")
        if type(version) is not int or version != self.version:
            raise ValueError(
                f"{path} must have version {self.version}, but its version is "
                f"{shown_entry(about, 'version')} (written by torchquant "
                f"{shown_entry(about, 'torchquant')}): install a newer torchquant, or "
                f"{self.remedy}"
            )
        with refusing(path, self.remedy):
            self._check_entries(about)
        return about

    def _check_entries(self, about: Mapping[str, Any]) -> None:
        if not isinstance(about.get("torchquant"), str):
            raise ValueError(
                f"torchquant must be a text, but is {shown_entry(about, 'torchquant')}"
            )
        known = self.entries | {"format", "version", "torchquant"}
        if unknown := sorted(about.keys() - known):
            raise ValueError(f"its header has the unknown entry {printable(unknown[0])}")


@contextmanager
def refusing(path: str | PathLike[str], repair: str) -> Iterator[None]:
    """Completes the message of a ValueError: the path before it, and what to do behind it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}: {repair}") from error


def _header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What is said under our key, nothing where it is absent; ValueError where it is no JSON."""
    try:
        about = strict_json.parse(metadata.get(_KEY, "{}"))
    except ValueError as error:
        raise ValueError(
            f"{path}: its metadata is {error}: pass a file that torchquant wrote"
        ) from error
    return about if isinstance(about, dict) else {}


def write(
    path: str | PathLike[str],
    kind: Kind,
    about: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    check: Callable[[Opened, Mapping[str, Any]], object],
) -> None:
    """Writes a file beside ``path``, then puts it in its place. Equal contents give equal bytes.

    Args:
        path: Where to.
        kind: Of what kind.
        about: The header's entries.
        tensors: What the file holds.
        check: The reader's, of an open file and its header: what cannot be loaded is not written.

    Raises:
        ValueError: it could not be loaded; nothing was written.
        OSError: the file cannot be written; an old one is as it was.
    """
    path = Path(path)
    header = {
        "format": kind.format,
        "version": kind.version,
        "torchquant": installed_version(),
        **about,
    }
    with refusing(path, "nothing was written"):
        if _METADATA in tensors:
            raise ValueError(f"{_METADATA} must be another name, for safetensors needs it")
        text = json.dumps(header, allow_nan=False)
    with _replacing(path) as beside:
        try:
            save_file(dict(tensors), beside, {_KEY: text})
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error
        with (
            refusing(path, "nothing was written"),
            _opened(beside, kind.writer) as file,
        ):
            check(file, kind.about(path, file.metadata() or {}))


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file to write to, which takes the place of ``path`` if all goes well.

    In a folder of its own beside it: no other thread or process has the name, and safetensors
    writes to files of its own names first.
    """
    place = path.resolve()  # a link stays one
    mode = _mode_of(place)
    try:
        folder = Path(tempfile.mkdtemp(prefix=_LEFTOVER, dir=place.parent))
    except OSError as error:  # which names the folder
        raise OSError(error.errno, error.strerror, str(path)) from error
    beside = folder / "file"
    try:
        beside.touch()
        mode = beside.stat().st_mode if mode is None else mode
        yield beside
        beside.chmod(stat.S_IMODE(mode))  # safetensors would leave it to its owner alone
        _to_disk(beside)  # or a crash of the machine could leave the new name with no contents
        os.replace(beside, place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # not every file system can, and the file is in its place by now
        _to_disk(place.parent)  # or such a crash could bring back the old file


def _mode_of(path: Path) -> int | None:
    """The mode of what is to be replaced, if there is something, and it can be."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} must be a file, but is a folder: name a file in it")
    if not stat.S_ISREG(mode):
        raise OSError(f"{path} must be a file, but is a device or a pipe: name a new file")
    return mode


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def format_of(path: str | PathLike[str]) -> object:
    """What kind of file the header says this is: None where it is of no kind of ours.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is no whole safetensors file, or its header no JSON.
    """
    with _opened(Path(path), "torchquant") as file:
        return _header(Path(path), file.metadata() or {}).get("format")


@contextmanager
def opened(path: str | PathLike[str], kind: Kind) -> Iterator[tuple[Opened, dict[str, Any]]]:
    """An open file and its header.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is no whole safetensors file, or one of another kind or version.
    """
    with _opened(Path(path), kind.writer) as file:
        yield file, kind.about(Path(path), file.metadata() or {})


@contextmanager
def _opened(path: Path, writer: str) -> Iterator[Opened]:
    try:
        _check_is_file(path)
        opening = safe_open(path, framework="pt")
        _check_header(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path} does not exist: pass what {writer} wrote") from error
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{path} cannot be read ({reason}): pass what {writer} wrote") from error
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} is no whole safetensors file ({error}): pass what {writer} wrote"
        ) from error
    with opening as file:
        yield cast(Opened, file)


def _check_is_file(path: Path) -> None:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
        raise ValueError("it is a folder, a device or a pipe")


def _check_header(path: Path) -> None:
    """ValueError where safetensors has let something pass that the format does not have."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length).decode()
    try:
        header = strict_json.parse(text)
    except ValueError as error:
        raise ValueError(f"its header is {error}") from error
    assert isinstance(header, dict)  # safetensors takes nothing else
    for name, entry in header.items():
        if name != _METADATA:
            _check_entry(printable(name), entry)
        elif not isinstance(entry, dict):
            raise ValueError("its metadata is no JSON object")


def _check_entry(name: str, entry: object) -> None:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the entry of {name} must have dtype, shape and data_offsets alone")
    if not isinstance(entry["dtype"], str):
        raise ValueError(f"the dtype of {name} is no text")
    shape = entry["shape"]
    if not all(type(size) is int for size in shape):
        raise ValueError(f"the entry of {name} has a size that is none")
    # The strides of an empty tensor are products of its sizes too.
    extent = math.prod(max(size, 1) for size in shape)
    if len(shape) > _MOST_DIMENSIONS or extent > 2**60:
        raise ValueError(f"{name} has a shape that no tensor has: {shown(shape)}")
