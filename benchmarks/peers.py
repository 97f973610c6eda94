"""Contenders in processes of their own, maybe in other environments."""

import argparse
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from worker import CONTENDERS

HERE = Path(__file__).parent


def add_python_option(parser: argparse.ArgumentParser) -> None:
    """The option that says where peers are installed."""
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PEER=PATH",
        help="Python in whose environment a peer is installed, e.g. schnetpack=peers/bin/python",
    )


def read_pythons(args: argparse.Namespace) -> dict[str, str]:
    """The Python of each peer that has one of its own."""
    pythons = dict(pair.split("=", 1) for pair in args.python)
    if unknown := set(pythons) - set(CONTENDERS):
        raise SystemExit(f"--python: unknown peers {sorted(unknown)}; they are {list(CONTENDERS)}")
    return pythons


def without_paths(args: argparse.Namespace) -> list[str]:
    """The options ``--python`` as results may show them."""
    return [f"--python {pair.split('=')[0]}=..." for pair in args.python]


def installed(names: Iterable[str], pythons: dict[str, str]) -> list[str]:
    """Those of the contenders that can be imported; says which cannot."""
    found = []
    for name in names:
        package = CONTENDERS[name][2]
        command = [pythons.get(name, sys.executable), "-c", f"import {package}"]
        if subprocess.run(command, capture_output=True).returncode == 0:
            found.append(name)
        else:
            print(f"{name} is skipped: {package} is not installed (--python {name}=PATH)")
    return found


def call_worker(
    script: str, name: str, arguments: list[str], pythons: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Runs a script of this folder on a contender, with the Python that has it."""
    command = [pythons.get(name, sys.executable), str(HERE / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True)
