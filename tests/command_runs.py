"""What tests of commands share: a tiny network, and data that are trained on in a blink."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from pyg_schnet import SchNet

TINY = (
    *("--model", "default", "--hidden-channels", "8", "--num-filters", "8"),
    *("--num-interactions", "1", "--num-gaussians", "8", "--cutoff", "4", "--device", "cpu"),
)
ETHANOL = (
    *("--data", "md17-sample:ethanol", "--num-train", "24", "--num-val", "8", "--num-test", "10"),
    *("--batch-size", "8", "--lr", "5e-3"),
)


@dataclass
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


def history(directory: Path) -> list[dict]:
    with open(directory / "history.csv") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def read(directory: Path, name: str = "run.json") -> dict:
    return json.loads((directory / name).read_text())


def assert_same_run(one: Path, two: Path) -> None:
    assert history(one) == history(two)
    assert read(one, "test.json") == read(two, "test.json")
    states = [SchNet.load(path / "best.safetensors").state_dict() for path in (one, two)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def rows(text: str) -> list[dict]:
    """Those of a table that a command printed."""
    return list(csv.DictReader(io.StringIO(text)))
