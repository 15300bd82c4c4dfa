"""What Python functions say of arguments that no operator sees, or sees too late to name them."""

from __future__ import annotations

from numbers import Integral, Real


def check_integer(value: object, name: str, mend: str) -> None:
    """Raises TypeError where this is no integer; True and 8.0 are none."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, but got {value!r}: {mend}")


def check_number(value: object, name: str, mend: str) -> None:
    """Raises TypeError where this is neither an integer nor a float."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, but got {value!r}: {mend}")
