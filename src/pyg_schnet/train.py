r"""Trains a SchNet: ``python -m pyg_schnet.train --data md17-sample:ethanol``.

Everything that a run needs to be resumed, tested and repeated is in its directory.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from .commands import models, plan
from .commands.flags import Parser, UsageError, add_settings
from .commands.record import Record, withdrawn_unless_begun
from .commands.report import errors_on
from .commands.settings import Setting, fields_of
from .commands.shell import DONE, add_machine_flags, execute
from .commands.sources import DataSettings
from .nn.files import BEST
from .storage import write_atomically
from .training import TrainConfig, fit
from .training.distributed import World
from .training.lock import locked

_EXAMPLES = """\
examples:
  {prog} --data qm9-sample --epochs 20
      trains on the molecules that come with the package
  {prog} --data md17:ethanol
      downloads the trajectory, trains on energies and forces by the protocol of the paper
  {prog} --data mine.xyz --model default --cutoff 5 --max-time 2h
      trains on your own molecules, split 80/10/10
  {prog} --data new.db --init runs/first --lr 1e-4
      tunes a model to other data
  {prog} --resume --directory runs/first
      goes on, to the same numbers as a run that was never interrupted
"""


def main(argv: Sequence[str] | None = None, prog: str = "python -m pyg_schnet.train") -> int:
    """Runs the command.

    Args:
        argv: Its arguments; those of the process if ``None``.
        prog: Its name, for messages.

    Returns:
        The exit code: 0, 2 on errors, 130 when interrupted.
    """
    return execute(_train, _parser(prog), argv)


def _parser(prog: str) -> Parser:
    parser = Parser(
        prog=prog,
        usage=f"{prog} --data DATA [flags]\n       {prog} --resume [--directory DIR] [flags]",
        description="Trains a SchNet, tests it, and keeps everything in a directory.",
        epilog=_EXAMPLES.format(prog=prog),
    )
    group = parser.add_argument_group("data")
    add_settings(group, fields_of(DataSettings), "data")
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        choices=list(models.PRESETS),
        help="settings to begin with: those of the NeurIPS 2017 paper, or the defaults of PyG "
        "(usual: paper)",
    )
    group.add_argument(
        "--init",
        metavar="MODEL",
        help="tune this model: the directory of a run, or a file (best.safetensors, "
        "last.safetensors). Architecture and unit are those of the model, and so are its atom "
        "references, mean and scale without --offsets fit",
    )
    add_settings(group, models.model_settings(), "model")
    group = parser.add_argument_group("training")
    group.add_argument(
        "--preset", choices=plan.PRESETS, help="settings to begin with (usual: paper)"
    )
    group.add_argument(
        "--forces",
        action=argparse.BooleanOptionalAction,
        help="train on forces too, with the weights of the preset (usual: if the data have some)",
    )
    add_settings(group, _training_settings(), "train")
    group = parser.add_argument_group("run")
    group.add_argument("--directory", metavar="DIR", help="where to keep it (usual: runs/...)")
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --directory, or with the last one; needs nothing else, but "
        "budgets such as --epochs may change",
    )
    group.add_argument(
        "--config",
        metavar="FILE",
        help="begin with the settings of another run, from its run.json or config.json",
    )
    add_machine_flags(group)
    return parser


def _training_settings() -> list[Setting]:
    """The fields of :class:`TrainConfig`, with what the command makes of them."""
    presets = {
        f"{name}{' with forces' if forces else ''}": getattr(TrainConfig, name)(forces=forces)
        for name in plan.PRESETS
        for forces in (False, True)
    }
    settings = {setting.name: setting for setting in fields_of(TrainConfig, presets)}
    settings["label"] = replace(settings["label"], defaults={"": "energy", "qm9": "U0"})
    seed = "Seed of the weights, of the order of molecules and of the split."
    settings["seed"] = replace(settings["seed"], text=seed)
    return list(settings.values())


def _train(args: argparse.Namespace) -> int:
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    with World.current(args.threads) as world:
        device = models.device_of(args.device)
        run = _planned(args, world)
        fresh = world.is_main and not args.resume
        try:
            with withdrawn_unless_begun(run.directory) if fresh else nullcontext():
                _fit(run, device, world, with_split=fresh)
        except KeyboardInterrupt as stop:
            directory = shlex.quote(str(run.directory))
            raise KeyboardInterrupt(
                f"stopped; to go on:\n  python -m pyg_schnet.train --resume --directory {directory}"
            ) from stop
        tested = _test(run, world)
        if world.is_main:
            print(f"{tested}\n\nThe model is {run.directory / BEST}")
    return DONE


def _planned(args: argparse.Namespace, world: World) -> plan.Plan:
    """The run, read by one process, and repeated by the others."""
    run: plan.Plan | None = None
    try:
        with world.main_first():
            if world.is_main:
                run = plan.resumed(args) if args.resume else plan.new(args)
    except RuntimeError as error:
        if world.is_main:
            raise
        raise UsageError(str(error)) from error  # the first process says what is wrong

    def what() -> tuple[Record, Path]:
        assert run is not None  # for mypy: only the first process is asked
        return run.record, run.directory

    record, directory = world.from_main(what)
    with world.main_first():
        return run or plan.planned(record, directory, saved=False)


def _fit(run: plan.Plan, device: torch.device, world: World, *, with_split: bool) -> None:
    """Trains, and before writes down and says on what."""
    model, parts = run.model.to(device), run.parts

    def save() -> bool:
        with locked(run.directory):
            run.save(with_split=with_split)
        return run.begun

    resume = world.from_main(save)
    if world.is_main:
        print(f"{model} with {sum(p.numel() for p in model.parameters()):,} parameters")
        print(run.source.described_units(run.record.train.label))
        print(f"{parts}\nEverything is kept in {run.directory}", flush=True)
    fit(model, parts.train, parts.val, run.record.train, run.directory, resume=resume)


def _test(run: plan.Plan, world: World) -> str:
    """Keeps the errors on the test sets, seen here for the first time, and gives their tables."""
    model, config = run.model, run.record.train
    sets, tables = {}, []
    for name, test in run.parts.tests.items():
        errors = errors_on(
            *(model, test, config.label, config.eval_batch_size),
            train=run.parts.train,
            forces=run.source.has_forces and model.target == "energy",
            stress=config.with_stress,
            world=world,
            progress=True,
        )
        tables.append(f"\nErrors on {errors.molecules:,} molecules ({name})\n{errors.table()}")
        sets[name] = errors.to_dict()
    if world.is_main:
        content = json.dumps({"label": config.label, "sets": sets}, indent=2)
        write_atomically(run.directory / "test.json", content.encode())
    return "\n".join(tables) or "No molecules are left to test with"


if __name__ == "__main__":
    sys.exit(main())
