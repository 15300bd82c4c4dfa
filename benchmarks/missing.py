"""What does not run here, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Missing:
    """The first line of why something does not run."""

    reason: str

    @classmethod
    def because(cls, error: Exception) -> Missing:
        """Read the reason from what was raised."""
        lines = str(error).strip().splitlines()
        return cls(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
