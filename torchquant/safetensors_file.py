"""Files of ours: safetensors with a versioned header, written beside and then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from torchquant._library import installed_version

_KEY = "torchquant"  # one, because safetensors writes several in no order


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
        content: What a file holds, for messages.
        writer: The function that writes it, for messages.
        remedy: What to do about a newer version, beside installing a newer torchquant.
    """

    format: str
    version: int
    content: str
    writer: str
    remedy: str

    def about(self, path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
        """The header, or ValueError where it is of another kind or version."""
        about = _header(path, metadata)
        if about.get("format") != self.format:
            raise ValueError(
                f"{path} must hold {self.content}, but its metadata is {metadata!r}: pass what "
                f"{self.writer} wrote"
            )
        version = about.get("version")
        if type(version) is not int or version != self.version:
            raise ValueError(
                f"{path} must have version {self.version}, but has {version!r} (written by "
                f"torchquant {about.get('torchquant')}): install a newer torchquant, or "
                f"{self.remedy}"
            )
        return about


def _header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What is said under our key, nothing where it is absent; ValueError where it is no JSON."""
    try:
        about = json.loads(metadata.get(_KEY, "{}"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: its metadata is no JSON ({error})") from error
    return about if isinstance(about, dict) else {}


def write(
    path: str | PathLike[str],
    kind: Kind,
    about: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """Writes a file beside ``path``, then puts it in its place. Equal contents give equal bytes.

    Raises:
        OSError: the file cannot be written; an old one is as it was.
    """
    header = {
        "format": kind.format,
        "version": kind.version,
        "torchquant": installed_version(),
        **about,
    }
    with _replacing(Path(path)) as beside:
        try:
            save_file(dict(tensors), beside, {_KEY: json.dumps(header, allow_nan=False)})
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file to write to, beside ``path``, which takes its place if all goes well."""
    path = path.resolve()  # a link stays one
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(f"{path} must be a file, but is a device or a pipe: name a new file")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.touch()
        mode = beside.stat().st_mode
        yield beside
        beside.chmod(mode)  # safetensors would leave it to its owner alone
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def format_of(path: str | PathLike[str]) -> object:
    """What kind of file the header says this is: None where it is of no kind of ours.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no whole safetensors file, or its header no JSON.
    """
    with _opened(Path(path), "torchquant") as file:
        return _header(Path(path), file.metadata() or {}).get("format")


@contextmanager
def opened(path: str | PathLike[str], kind: Kind) -> Iterator[tuple[Opened, dict[str, Any]]]:
    """An open file and its header.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no whole safetensors file, or one of another kind or version.
    """
    with _opened(Path(path), kind.writer) as file:
        yield file, kind.about(Path(path), file.metadata() or {})


@contextmanager
def _opened(path: Path, writer: str) -> Iterator[Opened]:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: pass what {writer} wrote")
    try:
        opening = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is no whole safetensors file ({error}): pass what {writer} wrote"
        ) from error
    with opening as file:
        yield cast(Opened, file)
