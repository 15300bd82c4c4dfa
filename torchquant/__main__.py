"""The command line: `python -m torchquant demo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from torchquant import demo


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m torchquant", description="Quantized operators for PyTorch."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser(
        "demo",
        help="show what INT8 costs and saves, on tensors, on a real model and in C++",
        description=(
            "Runs three parts and prints what each measures: tutorial (quantization of tensors), "
            "model (all-MiniLM-L6-v2 in float32 and INT8) and cpp (the INT8 model in a C++ "
            "program). Progress goes to standard error."
        ),
        epilog="Exit status: 0 if all went well, 1 if a part failed, 2 for wrong arguments.",
    )
    command.add_argument("--json", action="store_true", help="print one JSON document, no tables")
    command.add_argument(
        "--parts",
        nargs="+",
        choices=demo.PARTS,
        default=demo.PARTS,
        metavar="PART",
        help=f"which parts to run, of {', '.join(demo.PARTS)}; all by default",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        exact = demo.run(json=options.json, parts=options.parts)
    except demo.DemoError as error:
        print(f"torchquant demo: {error}", file=sys.stderr)
        return 1
    if not exact:
        print("torchquant demo: results that must be equal differ, see above", file=sys.stderr)
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
