"""`torchquant demo`: what INT8 costs and saves, on tensors, on a real model and in C++."""

from __future__ import annotations

import argparse

from torchquant import demo
from torchquant.commands import CommandError, Commands, add_command

DESCRIPTION = """\
Runs three parts and prints what each measures: tutorial (quantization of tensors), model
(all-MiniLM-L6-v2 in float32 and INT8) and cpp (the INT8 model in a C++ program). Progress goes to
standard error."""

EXAMPLES = """\
  torchquant demo
  torchquant demo --parts tutorial
  torchquant demo --json > demo.json
"""


def add_parser(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(
        commands,
        "demo",
        "show what INT8 costs and saves, on tensors, on a real model and in C++",
        DESCRIPTION,
        EXAMPLES,
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=demo.PARTS,
        default=demo.PARTS,
        metavar="PART",
        help=f"which parts to run, of {', '.join(demo.PARTS)}; all by default",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Runs the parts; CommandError where one fails, or results differ that must be equal."""
    try:
        exact = demo.run(json=options.json, parts=options.parts)
    except demo.DemoError as error:
        raise CommandError(str(error)) from error
    if not exact:
        raise CommandError("results that must be equal differ, see above")
