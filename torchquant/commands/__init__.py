"""The commands of `torchquant`, one a file, with its arguments and its run; and what they share."""

from __future__ import annotations

import argparse
import json
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # a class but for mypy

EXIT_STATUS = (
    "exit status: 0 if all went well, 1 if the command failed, 2 for wrong arguments, 130 after\n"
    "Ctrl-C"
)


class CommandError(Exception):
    """A command failed in a way that was foreseen; the message says what to do."""


def add_command(
    commands: Commands, name: str, help: str, description: str, examples: str
) -> argparse.ArgumentParser:
    """A parser with the option that all commands have, and help that ends in examples."""
    parser = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog=f"examples:\n{examples}\n{EXIT_STATUS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document instead of tables"
    )
    parser.set_defaults(refuse=parser.error)
    return parser


def print_json(document: object) -> None:
    """Prints plain containers; a number that JSON does not have is an error."""
    print(json.dumps(document, indent=2, allow_nan=False))


def one_line(error: BaseException) -> str:
    """The message of an error that may have several lines."""
    return " ".join(str(error).split())
