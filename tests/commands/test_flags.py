"""Flags are made from what the code declares, and say what is wrong with what was typed."""

import argparse
import re
from dataclasses import dataclass, fields
from typing import Literal

import pytest

from pyg_schnet import SchNet
from pyg_schnet.commands.flags import Parser, UsageError, add_settings, given
from pyg_schnet.commands.models import model_settings
from pyg_schnet.commands.settings import fields_of, without_markup
from pyg_schnet.commands.sources import DataSettings
from pyg_schnet.training import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Everything:
    r"""One of each kind.

    Attributes:
        whole: A whole number, times ``real_number``,
            on two lines: 50 % of it.
        real_number: See :func:`nothing`; a real number.
        word: Text such as ``"a"``.
        either: A number or a word.
        maybe: A number, or nothing.
        pair: Two numbers.
        choice: One of two.
        switch: Yes or no.
    """

    whole: int = 3
    real_number: float = 1e-3
    word: str = "a"
    either: str | int = "a"
    maybe: float | None = None
    pair: tuple[float, float] | None = None
    choice: Literal["left", "right"] = "left"
    switch: bool = False


def parse(*arguments: str) -> dict:
    parser = Parser(prog="program")
    add_settings(parser, fields_of(Everything), "all")
    return given(parser.parse(arguments), "all")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), {}),
        (("--whole", "110_462"), {"whole": 110_462}),
        (("--real-number=1e-4",), {"real_number": 1e-4}),
        (("--real-number", "-2"), {"real_number": -2.0}),
        (("--word", "7"), {"word": "7"}),
        (("--either", "7"), {"either": 7}),
        (("--either", "U0"), {"either": "U0"}),
        (("--maybe", "none"), {"maybe": None}),
        (("--maybe", "2"), {"maybe": 2.0}),
        (("--pair", "0", "5.5"), {"pair": [0.0, 5.5]}),
        (("--choice", "right"), {"choice": "right"}),
        (("--switch",), {"switch": True}),
        (("--no-switch",), {"switch": False}),
    ],
)
def test_values(arguments, expected):
    found = parse(*arguments)
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--whole", "1.5"), r"--whole: expected a whole number \(got '1.5'\)"),
        (("--whole", "none"), r"--whole: expected a whole number \(got 'none'\)"),
        (("--real-number", "fast"), r"--real-number: expected a number \(got 'fast'\)"),
        (("--choice", "up"), r"--choice: invalid choice: 'up'"),
        (("--pair", "1"), r"--pair: expected 2 arguments"),
        (("--whol", "1"), r"unknown flag '--whol': did you mean '--whole'\?"),
        (("--hole=1",), r"unknown flag '--hole': did you mean '--whole'\?"),
        (("--xyz", "1"), r"unknown flag '--xyz': see program --help"),
        (("word",), r"unknown argument 'word'"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(UsageError, match=message):
        parse(*arguments)


def test_help_is_the_documentation():
    parser = Parser(prog="program")
    add_settings(parser, fields_of(Everything), "all")
    text = " ".join(parser.format_help().split())
    assert (
        "--whole N a whole number, times --real-number, on two lines: 50 % of it (default: 3)"
    ) in text
    assert '--word WORD text such as "a" (default: a)' in text
    assert "--choice {left,right} one of two (default: left)" in text
    assert "--switch, --no-switch yes or no (default: no)" in text
    assert "--maybe X a number, or nothing --pair X X two numbers" in text


def test_defaults_of_presets_are_told_apart():
    presets = {"slow": Everything(), "quick": Everything(whole=9)}
    parser = Parser(prog="program")
    add_settings(parser, fields_of(Everything, presets), "all")
    text = " ".join(parser.format_help().split())
    assert "(default: 3; quick: 9)" in text
    assert "(default: 0.001)" in text


def test_what_is_not_documented_is_not_accepted():
    @dataclass
    class Silent:
        """Nothing.

        Attributes:
            spoken: A word.
        """

        spoken: int = 0
        silent: int = 0

    with pytest.raises(ValueError, match="'silent' is not documented"):
        fields_of(Silent)


def test_markup():
    text = r"as :class:`~pyg_schnet.nn.Offsets` has (see :mod:`a.b`), ``'x'``, see :meth:`c`."
    assert without_markup(text) == "as Offsets has, 'x'."


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"--[a-z0-9-]+", text))


def test_every_setting_is_a_flag_with_help(call):
    outcome = call("train", "--help")
    assert outcome.code == 0
    shown = re.split(r"\n(data|model|training|run):\n", outcome.out)
    groups = dict(zip(shown[1::2], shown[2::2]))
    assert list(groups) == ["data", "model", "training", "run"]
    for cls, group in ((TrainConfig, "training"), (DataSettings, "data")):
        for field in fields(cls):
            flag = "--" + field.name.replace("_", "-")
            # Help follows behind at least two spaces, or on the next line.
            pattern = rf"\n  {flag}\b[^\n]*?(  +|\n +)" + r'([\w"][^\n]+)'
            entry = re.search(pattern, "\n" + groups[group])
            assert entry, flag
            assert len(entry[2]) > 10, flag
    assert "``" not in outcome.out
    assert ":`" not in outcome.out
    # Whoever adds an argument to the model gets a flag too, or says why not.
    arguments = {setting.name for setting in model_settings()}
    assert arguments == set(SchNet().config) - {"units", "max_num_neighbors"} | {"mode"}
    wanted = {"--" + name.replace("_", "-") for name in arguments}
    assert wanted <= flags_in(groups["model"])
    assert max(map(len, outcome.out.splitlines())) <= 100


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_help_of_the_other_commands(call, command):
    outcome = call(command, "--help")
    assert outcome.code == 0
    assert f"usage: pyg-schnet {command} MODEL" in outcome.out
    assert "--traceback" in outcome.out


def test_the_command_without_a_command(call):
    for arguments in ((), ("--help",)):
        outcome = call(*arguments)
        assert outcome.code == 0
        for command in ("train", "evaluate", "predict"):
            assert f"\n  {command} " in outcome.out
    assert re.fullmatch(r"pyg-schnet \d+\.\d+\.\S+\n", call("--version").out)
    outcome = call("trian")
    assert outcome.code == 2
    assert "unknown command 'trian': did you mean 'train'?" in outcome.err


def test_namespaces_of_settings_are_apart():
    arguments = argparse.Namespace(**{"data.units": "eV", "model.units": "meV", "units": "kJ/mol"})
    assert given(arguments, "data") == {"units": "eV"}
