r"""Settings as the code declares them: names, types, defaults and documentation.

Flags are made from these, so that a new field of a dataclass or a new argument of a model is a new
flag, and its documentation the help.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_type_hints

_SECTION = re.compile(r"^(\w+):$")
_ENTRY = re.compile(r"^ {4}(\w+): (.*)$")
_REFERENCE = re.compile(r" \(see :\w+:`[^`]*`\)|[,;] see :\w+:`[^`]*`")


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting.

    Attributes:
        name: Name of the field or argument.
        annotation: Its type.
        text: Its documentation, without markup.
        defaults: Value by name of the preset; the first is that of a run without flags.
    """

    name: str
    annotation: Any
    text: str
    defaults: Mapping[str, Any]


def fields_of(cls: type, presets: Mapping[str, Any] | None = None) -> list[Setting]:
    """Settings of a dataclass, documented in the section ``Attributes:`` of its docstring.

    Args:
        cls: The dataclass.
        presets: Instances of it by name of the preset, whose values are the defaults; those of the
            class if ``None``.

    Raises:
        ValueError: If a field is not documented.

    >>> from pyg_schnet.training import TrainConfig
    >>> print(fields_of(TrainConfig)[0].text)
    What to learn: the name of a field of the data ("energy"), ...
    """
    texts, types = documented(cls, "Attributes"), get_type_hints(cls)
    settings = []
    for field in dataclasses.fields(cls):
        if presets is None:
            missing = field.default is dataclasses.MISSING
            defaults = {"": None if missing else field.default}
        else:
            defaults = {name: getattr(preset, field.name) for name, preset in presets.items()}
        settings.append(Setting(field.name, types[field.name], texts[field.name], defaults))
    return settings


def arguments_of(
    function: Callable, cls: type, presets: Mapping[str, Mapping[str, Any]], skip: Collection[str]
) -> list[Setting]:
    """Settings that are arguments, documented in the section ``Args:`` of the class.

    Args:
        function: The function, such as ``__init__``.
        cls: The class with the docstring.
        presets: Values of the arguments by name of the preset; missing ones are the defaults.
        skip: Arguments that are no settings.

    Raises:
        ValueError: If an argument is not documented.
    """
    texts, types = documented(cls, "Args"), get_type_hints(function)
    return [
        Setting(
            name,
            types[name],
            texts[name],
            {preset: values.get(name, argument.default) for preset, values in presets.items()},
        )
        for name, argument in inspect.signature(function).parameters.items()
        if name != "self" and name not in skip
    ]


class _Texts(dict[str, str]):
    def __missing__(self, name: str) -> str:
        raise ValueError(f"'{name}' is not documented: there is no help for its flag")


def documented(cls: type, section: str) -> Mapping[str, str]:
    """Texts of a section of a docstring, by name, each in one line without markup."""
    raw, inside, name = _Texts(), False, ""
    for line in inspect.cleandoc(cls.__doc__ or "").splitlines():
        if heading := _SECTION.match(line):
            inside = heading[1] == section
        elif inside and (entry := _ENTRY.match(line)):
            name, raw[entry[1]] = entry[1], entry[2]
        elif inside and line.strip():
            raw[name] += f" {line.strip()}"
    return _Texts({name: without_markup(text, raw) for name, text in raw.items()})


def flag_of(name: str) -> str:
    """The flag of a setting.

    >>> flag_of("batch_size")
    '--batch-size'
    """
    return f"--{name.replace('_', '-')}"


def without_markup(text: str, names: Collection[str] = ()) -> str:
    r"""Plain text of reStructuredText, without references to code.

    Args:
        text: The text.
        names: Settings, whose flags are put in their place.

    >>> without_markup('``"mse"`` with ``lr``, see :class:`~pyg_schnet.nn.Offsets`', ["lr"])
    '"mse" with --lr'
    """
    text = _REFERENCE.sub("", text)
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", text)
    return re.sub(r"``(.*?)``", lambda it: flag_of(it[1]) if it[1] in names else it[1], text)
