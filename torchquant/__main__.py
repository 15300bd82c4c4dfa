"""The command line: `torchquant COMMAND`, which is `python -m torchquant COMMAND`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torchquant import ops
from torchquant.commands import EXIT_STATUS, CommandError, bench, demo, inspect, quantize

INTERRUPTED = 130  # as shells have it: 128 and the number of SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torchquant",
        description="INT8 quantization for PyTorch.",
        epilog=f"torchquant COMMAND --help explains one, with examples\n\n{EXIT_STATUS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (demo, quantize, inspect, bench):
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:  # of the command, whose usage says what there is
        options.refuse(
            f"unrecognized arguments: {' '.join(unknown)}: torchquant {options.command} --help "
            "lists what there is"
        )
    try:
        _check_kernels()
        with _all_written():
            options.run(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    # The last two are the library's own, for files and models that it cannot take.
    except (CommandError, OSError, ValueError) as error:
        print(f"torchquant {options.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _check_kernels() -> None:
    """CommandError where TORCHQUANT_KERNELS is wrong: the first operator to run would say so."""
    try:
        ops.active_kernels()
    except RuntimeError as error:
        raise CommandError(str(error)) from error


@contextmanager
def _all_written() -> Iterator[None]:
    """OSError where standard output takes no more: Python itself would speak up as it ends."""
    try:
        yield
    finally:
        try:
            print(end="", flush=True)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes what is left
            raise


if __name__ == "__main__":
    sys.exit(main())
