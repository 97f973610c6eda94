r"""The command ``pyg-schnet``, and ``python -m pyg_schnet``."""

import importlib
import sys
from collections.abc import Sequence

from . import __version__
from .commands.flags import UsageError, one_of
from .commands.shell import FAILED

_COMMANDS = {
    "train": "train a model, test it, keep everything in a directory",
    "evaluate": "errors of a model on molecules with labels",
    "predict": "energies and forces of molecules",
}
_PROG = "pyg-schnet"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one of the commands.

    Args:
        argv: Its name and arguments; those of the process if ``None``.

    Returns:
        The exit code.
    """
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        lines = [f"  {command:10} {text}" for command, text in _COMMANDS.items()]
        print(f"usage: {_PROG} COMMAND [flags]\n\nSchNet for PyTorch Geometric.\n\ncommands:")
        print("\n".join(lines) + f"\n\n{_PROG} COMMAND --help tells the flags of each.")
        return 0
    if name == "--version":
        print(f"{_PROG} {__version__}")
        return 0
    try:
        one_of(name, _COMMANDS, "command")
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    command = importlib.import_module(f".{name}", __package__)
    return command.main(arguments, f"{_PROG} {name}")


if __name__ == "__main__":
    sys.exit(main())
