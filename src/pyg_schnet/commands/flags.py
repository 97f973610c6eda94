r"""Settings as flags of the command line."""

import argparse
import difflib
import shutil
import types
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from .settings import Setting, flag_of

_NONE = "none"


class UsageError(Exception):
    """What the user asked for cannot be done, and the message says what can."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are exceptions, and know what was meant.

    Flags may not be shortened: a new one would change what the short one means.
    """

    def __init__(self, **options: Any):
        width = min(shutil.get_terminal_size().columns, 100)
        super().__init__(
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
                prog, max_help_position=28, width=width
            ),
            **options,
        )

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parses arguments; settings that are not given are absent.

        Raises:
            UsageError: If one is unknown, missing or makes no sense.
        """
        parsed, unknown = self.parse_known_args(arguments)
        if unknown:
            known = [flag for action in self._actions for flag in action.option_strings]
            flag = unknown[0].partition("=")[0]
            kind = "flag" if flag.startswith("-") else "argument"
            hint = meant(flag, known) or f"see {self.prog} --help"
            raise UsageError(f"unknown {kind} '{flag}': {hint}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Raises ``UsageError``."""
        raise UsageError(f"{message}; see {self.prog} --help")


def meant(word: str, known: Iterable[str], quote: str = "'") -> str:
    """A question after a word that is nearly right, or nothing.

    >>> meant("ethanl", ["ethanol", "toluene"])
    "did you mean 'ethanol'?"
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {quote}{close[0]}{quote}?" if close else ""


def one_of(word: str, known: Collection[str], what: str, where: str = "") -> str:
    """The word, if it is known.

    Raises:
        UsageError: Listing what is, and what may have been meant.
    """
    if word in known:
        return word
    hint = meant(word, known)
    raise UsageError(
        f"unknown {what} '{word}'{where}: {hint + ' ' if hint else ''}There are {', '.join(known)}"
    )


def add_settings(group: Any, settings: Iterable[Setting], prefix: str) -> None:
    """Adds a flag for each setting, that is absent from the arguments unless it is given.

    Args:
        group: Parser or group to add to.
        settings: The settings.
        prefix: Of their names in the parsed arguments, which :func:`given` takes off again.
    """
    for setting in settings:
        options: dict[str, Any] = {
            "dest": f"{prefix}.{setting.name}",
            "default": argparse.SUPPRESS,
            "help": _help(setting),
        }
        if setting.annotation is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= _conversion(setting)
        group.add_argument(flag_of(setting.name), **options)


def given(arguments: argparse.Namespace, prefix: str) -> dict[str, Any]:
    """The settings that were given, of those with a prefix."""
    return {
        name.removeprefix(f"{prefix}."): value
        for name, value in vars(arguments).items()
        if name.startswith(f"{prefix}.")
    }


def _conversion(setting: Setting) -> dict[str, Any]:
    """Arguments of ``add_argument`` for the type of a setting."""
    members = _members(setting.annotation)
    optional = type(None) in members
    members = [member for member in members if member is not type(None)]
    if len(members) == 1 and get_origin(members[0]) is tuple:
        numbers = get_args(members[0])
        return {"nargs": len(numbers), "type": _parser(numbers[:1], False), "metavar": "X"}
    if len(members) == 1 and get_origin(members[0]) is Literal:
        choices = get_args(members[0])
        return {"choices": choices, "metavar": f"{{{','.join(choices)}}}"}
    metavar = {int: "N", float: "X"}.get(members[0] if len(members) == 1 else str)
    metavar = metavar or setting.name.rpartition("_")[2].upper()
    return {"type": _parser(members, optional), "metavar": metavar}


def _members(annotation: Any) -> list[Any]:
    is_union = get_origin(annotation) in (Union, types.UnionType)
    return list(get_args(annotation)) if is_union else [annotation]


def _parser(members: Sequence[Any], optional: bool) -> Callable[[str], Any]:
    """A function from the word on the command line to the first of these types it can be."""
    order = [member for member in (int, float, str) if member in members]
    expected = " or ".join({int: "a whole number", float: "a number"}.get(m, "") for m in order)

    def parse(word: str) -> Any:
        if optional and word.lower() == _NONE:
            return None
        for member in order:
            try:
                return member(word)
            except ValueError:
                continue
        raise argparse.ArgumentTypeError(f"expected {expected} (got '{word}')")

    return parse


def _help(setting: Setting) -> str:
    """The documentation and the defaults, of the presets that have others too."""
    (_, usual), *others = setting.defaults.items()
    parts = [] if usual is None else [f"default: {_shown(usual)}"]
    seen = [usual]
    for name, value in others:
        if value not in seen:
            parts.append(f"{name}: {_shown(value)}")
            seen.append(value)
    text = setting.text.removesuffix(".") + (f" ({'; '.join(parts)})" if parts else "")
    return (text[0].lower() + text[1:]).replace("%", "%%")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return _NONE
    if isinstance(value, list | tuple):
        return " ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
