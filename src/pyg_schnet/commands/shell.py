r"""What all commands do alike: common flags, errors in one line, exit codes."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..datasets.download import DownloadError
from ..training.distributed import LostProcessError
from .flags import Parser, UsageError

#: Everything was done; all but some molecules; nothing, for a reason that is said; interrupted.
DONE, SKIPPED, FAILED, INTERRUPTED = 0, 1, 2, 130
# What goes wrong without being a mistake in this package.
_USER_ERRORS = (
    UsageError,
    DownloadError,
    LostProcessError,
    ValueError,
    OSError,
    ImportError,
    ArithmeticError,
    torch.OutOfMemoryError,
)


def execute(
    command: Callable[[argparse.Namespace], int], parser: Parser, arguments: Sequence[str] | None
) -> int:
    """Runs a command.

    Args:
        command: What to do with the parsed arguments; returns the exit code.
        parser: Parser of the arguments.
        arguments: Those of the process if ``None``.

    Returns:
        The exit code: that of the command, 2 on errors of the user, 130 when interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return command(parser.parse(arguments))
        except KeyboardInterrupt as stop:
            if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
                print(f"\n{stop}" if str(stop) else "\ninterrupted", file=sys.stderr)
            return INTERRUPTED
        except _USER_ERRORS as error:
            if "--traceback" in arguments:
                raise
            print(f"error: {error}", file=sys.stderr)
            return FAILED


def add_model_argument(parser: Parser) -> None:
    """Adds the argument that names a trained model."""
    parser.add_argument(
        "path",
        metavar="MODEL",
        help="directory of a run, whose best model is taken, or a file (best.safetensors, "
        "last.safetensors), or the name of a trained model of the package (md17-ethanol, qm9-u0)",
    )


def add_machine_flags(group: Any) -> None:
    """Adds the flags that say where a command runs, and how it fails."""
    group.add_argument(
        "--device",
        metavar="DEVICE",
        default="auto",
        help="cpu, cuda, cuda:1, ... (default: auto, a GPU if there is one)",
    )
    group.add_argument(
        "--threads", type=positive, metavar="N", help="threads of PyTorch (usual: all cores)"
    )
    group.add_argument(
        "--traceback", action="store_true", help="show where in the code an error comes from"
    )


def positive(word: str) -> int:
    """A whole number above zero."""
    try:
        number = int(word)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above zero (got '{word}')")
    return number


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)
