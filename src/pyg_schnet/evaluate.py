r"""Errors of a trained model: ``python -m pyg_schnet.evaluate runs/mine``."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import InMemoryDataset

from .commands import models, sources
from .commands.flags import Parser, UsageError, add_settings, given, one_of
from .commands.parts import split
from .commands.record import NAME, Record, make
from .commands.report import errors_on
from .commands.settings import fields_of
from .commands.shell import DONE, add_machine_flags, add_model_argument, execute, positive
from .commands.sources import DataSettings
from .data.units import convert
from .nn import SchNet
from .storage import write_atomically
from .training import Labelled, TrainConfig
from .training.saved import load_model

# Settings that split data, which only the run that did so needs.
_OF_A_RUN = ("num_train", "num_val", "num_test", "split_seed")


def main(argv: Sequence[str] | None = None, prog: str = "python -m pyg_schnet.evaluate") -> int:
    """Runs the command.

    Args:
        argv: Its arguments; those of the process if ``None``.
        prog: Its name, for messages.

    Returns:
        The exit code: 0, 2 on errors, 130 when interrupted.
    """
    return execute(_evaluate, _parser(prog), argv)


def _parser(prog: str) -> Parser:
    parser = Parser(
        prog=prog,
        usage=f"{prog} MODEL [--data DATA] [flags]",
        description="Compares the predictions of a model with labels: of the test set of its run, "
        "or of other molecules.",
    )
    add_model_argument(parser)
    group = parser.add_argument_group("data")
    settings = [setting for setting in fields_of(DataSettings) if setting.name not in _OF_A_RUN]
    settings = [
        replace(setting, text="Unit of energy to give the errors in (usual: that of the model).")
        if setting.name == "units"
        else setting
        for setting in settings
    ]
    add_settings(group, settings, "data")
    group.add_argument(
        "--part",
        help="which molecules of the run: train, validation, test, or all (default: test)",
    )
    group.add_argument("--label", help="what to compare with (usual: as in training)")
    group = parser.add_argument_group("run")
    group.add_argument(
        "--forces",
        action=argparse.BooleanOptionalAction,
        help="compare forces too (usual: if the data have some)",
    )
    group.add_argument(
        "--batch-size",
        type=positive,
        default=128,
        metavar="N",
        help="molecules per step (default: 128)",
    )
    group.add_argument("--json", metavar="FILE", help="write the errors there too")
    add_machine_flags(group)
    return parser


@dataclass(frozen=True)
class _Question:
    """What to evaluate a model on.

    Attributes:
        sets: Molecules by name, in the unit of the model.
        label: What to compare with.
        train: Training set of the model, if it is known.
    """

    sets: dict[str, InMemoryDataset]
    label: str | int
    train: InMemoryDataset | None = None


def _evaluate(args: argparse.Namespace) -> int:
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    model = load_model(args.path, models.device_of(args.device))
    flags = given(args, "data")
    units = flags.pop("units", None)
    if units is not None:
        convert(1.0, units, model.units or units)
    in_run = set(flags) <= {"root"}
    question = _of_run(args, flags) if in_run else _of_others(args, flags, model)
    result: dict[str, Any] = {}
    for name, molecules in question.sets.items():
        forces = args.forces
        if forces is None:
            forces = model.target == "energy" and molecules[0].get("force") is not None
        elif forces and model.target != "energy":
            raise UsageError(f"--forces: the model predicts '{model.target}', which has none")
        errors = errors_on(
            *(model, molecules, question.label, args.batch_size),
            train=question.train,
            forces=forces,
            units=units,
            progress=True,
        )
        print(f"{'' if not result else chr(10)}Errors on {errors.molecules:,} molecules ({name})")
        print(errors.table())
        if errors.remark:
            print(errors.remark)
        result[name] = errors.to_dict()
    if args.json is not None:
        content = {"model": str(args.path), "label": question.label, "sets": result}
        write_atomically(args.json, json.dumps(content, indent=2).encode())
    return DONE


def _of_run(args: argparse.Namespace, places: dict[str, Any]) -> _Question:
    """The molecules of the run that made the model."""
    directory = Path(args.path)
    if not directory.is_dir():
        raise UsageError(
            f"'{args.path}' does not say what to evaluate it on: add --data, or name the directory "
            f"of a run for its own molecules"
        )
    if not (directory / NAME).exists():
        raise UsageError(f"'{directory}' has no '{NAME}' to say what to evaluate on: add --data")
    run = Record.load(directory)
    data: DataSettings = replace(run.data, **places)
    config: TrainConfig = run.train
    source = sources.load(data, config.label)
    parts = split(source, data, config.seed, directory, saved=True)
    known = Labelled.read(parts.train, config.label, "training", required=config.energy_weight > 0)
    if known.fingerprint != run.fingerprint:
        raise UsageError(
            f"'{data.data}' has changed since the run in '{directory}', so nobody knows which of "
            "its molecules the model was trained on: name molecules to test with by --data"
        )
    sets = {"train": parts.train, "validation": parts.val, **parts.tests}
    part = one_of(args.part or "test", ["test", "all", *sets], "part")
    if part == "test":
        sets = dict(parts.tests)
        if not sets:
            raise UsageError("the run left no molecules to test with: name others by --data")
    elif part != "all":
        sets = {part: sets[part]}
    label = config.label if args.label is None else args.label
    print(source.described_units(label))
    return _Question(sets, label, parts.train)


def _of_others(args: argparse.Namespace, flags: dict[str, Any], model: SchNet) -> _Question:
    """Other molecules, in the unit of the model."""
    if "data" not in flags:
        raise UsageError("--data is missing: the other flags are of that")
    if args.part is not None:
        raise UsageError(f"--part {args.part} is of the run, not of --data: leave one of them out")
    unit = {} if model.units is None else {"units": model.units}
    try:
        convert(1.0, model.units or "eV", "eV")
    except ValueError:  # no energy: labels are compared as they are
        unit = {}
    source = sources.load(make(DataSettings, {**flags, **unit}, "flags"), args.label)
    label = source.label if args.label is None else args.label
    source.check_label(label)
    print(source.described_units(label))
    if source.tests:
        return _Question(dict(source.tests), label)
    if flags["data"].partition(":")[0] in ("qm9", "qm9-sample", "md17", "rmd17"):
        print(
            f"All of '{flags['data']}' is taken: errors are too good if the model was trained on "
            "some of it. The directory of a run remembers which molecules are new to its model.",
            file=sys.stderr,
        )
    return _Question({source.name: source.pool}, label)


if __name__ == "__main__":
    sys.exit(main())
