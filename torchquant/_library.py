"""Finds libtorchquant.so inside the package, checks that it fits this torch, and loads it."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGE = Path(__file__).parent
LIBRARY = PACKAGE / "lib" / "libtorchquant.so"
BUILT_WITH = PACKAGE / "lib" / "built_with_torch"
REINSTALL = "pip install --no-build-isolation --force-reinstall --no-deps ."


def installed_version() -> str:
    """torchquant's own, as it was installed."""
    try:
        return version("torchquant")
    except PackageNotFoundError:  # a source tree that was built but not installed
        return "0+unknown"


def release_of(version: str) -> str:
    """The release without the build: 2.13.0 of 2.13.0+cpu. The C++ interface is the release's."""
    return version.split("+")[0]


def check_torch_version() -> None:
    """Raises ImportError where the library was built against another release of torch."""
    built_with = release_of(BUILT_WITH.read_text().strip())
    running = release_of(torch.__version__)
    if built_with != running:
        raise ImportError(
            f"torchquant was built with torch {built_with}, but torch {running} is installed: "
            f"build it again for this torch, in the torchquant source folder: {REINSTALL}"
        )


def load() -> None:
    """Loads the operators into torch.ops.torchquant."""
    if not LIBRARY.exists():
        raise ImportError(
            f"torchquant's library is not built: {LIBRARY} does not exist. In the source folder "
            "run: pip install --no-build-isolation -e . (or make build), or, where torchquant is "
            "installed already, import it from another folder"
        )
    check_torch_version()
    torch.ops.load_library(LIBRARY)  # type: ignore[no-untyped-call]
