"""`make simulate`: print the tables of docs/scale.md; with --check, hold the model against a measured run.

python -m benchmarks.simulation [--check]
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.simulation.check import check_lines
from benchmarks.simulation.scale import TABLES


def main() -> None:
    """Print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation")
    parser.add_argument("--check", action="store_true", help="run against the emulator too, and compare")
    for name, table in TABLES.items():
        sys.stdout.write(f"{name}\n\n{table()}\n\n")
    if parser.parse_args().check:
        for line in check_lines():
            sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
