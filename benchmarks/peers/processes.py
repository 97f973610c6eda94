"""Peers in processes of their own, maybe in other environments."""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from worker import CONTENDERS

HERE = Path(__file__).parents[1]
# What each contender of the race needs.
PACKAGES = {name: package for name, (_, _, package) in CONTENDERS.items()}


def add_python_option(parser: argparse.ArgumentParser) -> None:
    """The option that says where peers are installed."""
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PEER=PATH",
        help="Python in whose environment a peer is installed, e.g. schnetpack=peers/bin/python",
    )


def read_pythons(
    args: argparse.Namespace, packages: Mapping[str, str] = PACKAGES
) -> dict[str, str]:
    """The Python of each peer that has one of its own; ``packages`` are those of the peers."""
    if wrong := [pair for pair in args.python if "=" not in pair]:
        raise SystemExit(f"--python: give PEER=PATH (got '{wrong[0]}')")
    pythons = dict(pair.split("=", 1) for pair in args.python)
    if unknown := set(pythons) - set(packages):
        raise SystemExit(f"--python: unknown peers {sorted(unknown)}; they are {list(packages)}")
    return pythons


def without_paths(args: argparse.Namespace) -> list[str]:
    """The options ``--python`` as results may show them."""
    return [f"--python {pair.split('=')[0]}=..." for pair in args.python]


def installed(
    names: Iterable[str], pythons: dict[str, str], packages: Mapping[str, str] = PACKAGES
) -> list[str]:
    """Those of the peers whose packages can be imported; says which cannot."""
    found = []
    for name in names:
        package = packages[name]
        command = [pythons.get(name, sys.executable), "-c", f"import {package}"]
        try:
            done = subprocess.run(command, capture_output=True)
        except OSError as error:
            raise SystemExit(f"--python: '{command[0]}' does not run ({error})") from error
        if done.returncode == 0:
            found.append(name)
        else:
            print(f"{name} is skipped: {package} is not installed (--python {name}=PATH)")
    return found


def call_worker(
    script: str,
    name: str,
    arguments: list[str],
    pythons: dict[str, str],
    *,
    threads: int | None = None,
    show: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Runs a script of the benchmarks for a peer, with the Python that has it.

    Args:
        script: The script.
        name: The peer.
        arguments: Of the script.
        pythons: From :func:`read_pythons`.
        threads: How many the peer may use; what it takes by itself if ``None``.
        show: Show its standard error as it comes, in place of keeping it.
    """
    command = [pythons.get(name, sys.executable), str(HERE / script), *arguments]
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    limits = {} if threads is None else dict.fromkeys(names, str(threads))
    stderr = None if show else subprocess.PIPE
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=os.environ | limits
    )
