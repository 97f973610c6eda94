r"""Energies and forces of molecules: ``python -m pyg_schnet.predict MODEL in.xyz -o out.csv``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from .commands import models, predictions
from .commands.flags import Parser, UsageError
from .commands.predictions import ARRAYS, FRAMES, TABLE, Prediction
from .commands.shell import DONE, SKIPPED, add_machine_flags, add_model_argument, execute, positive
from .commands.structures import Coordinates, Failures, check_suffix, read_structures
from .nn.contacts import Contacts
from .training.saved import load_model

_CONFORMERS = 10
_EXAMPLES = """\
examples:
  {prog} md17-ethanol molecules.smi --conformers 20
      a table on the terminal, with the lowest energy of twenty conformers of each SMILES
  {prog} runs/first molecules.xyz -o predicted.extxyz
      energies and forces for ASE, in eV and angstrom
  {prog} best.safetensors frames.npz -o predicted.npz --strict
      as arrays, in the unit of the model
"""


def main(argv: Sequence[str] | None = None, prog: str = "python -m pyg_schnet.predict") -> int:
    """Runs the command.

    Args:
        argv: Its arguments; those of the process if ``None``.
        prog: Its name, for messages.

    Returns:
        The exit code: 0, 1 if molecules were skipped, 2 on errors, 130 when interrupted.
    """
    return execute(_predict, _parser(prog), argv)


def _parser(prog: str) -> Parser:
    parser = Parser(
        prog=prog,
        usage=f"{prog} MODEL INPUT [-o OUT] [flags]",
        description="Predicts molecules. Those that fail are named and skipped, and the exit code "
        "is 1 then; 0 if all were predicted, 2 if none could be.",
        epilog=_EXAMPLES.format(prog=prog),
    )
    add_model_argument(parser)
    parser.add_argument(
        "input",
        metavar="INPUT",
        help=".xyz, .extxyz, .db or others that ASE reads, in angstrom; .npz arrays; .sdf with "
        "hydrogens and 3D coordinates; .smi, a SMILES and maybe a name on each line, with "
        "conformers from RDKit, of which that with the lowest energy is kept",
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="OUT",
        help=".csv, a table of energies; .npz, arrays in the unit of the model; .xyz or .extxyz, "
        "for ASE, in eV and angstrom (usual: a table on the terminal)",
    )
    group = parser.add_argument_group("run")
    group.add_argument(
        "--forces",
        action=argparse.BooleanOptionalAction,
        help="predict forces (usual: if OUT can hold them)",
    )
    group.add_argument(
        "--strict", action="store_true", help="stop at the first molecule that fails"
    )
    group.add_argument(
        "--conformers",
        type=positive,
        metavar="K",
        help=f"of each SMILES (usual: {_CONFORMERS} for energies, else 1)",
    )
    group.add_argument(
        "--optimize",
        choices=("mmff", "uff", "none"),
        default="mmff",
        help="force field that relaxes them before the model sees them (default: mmff)",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of their coordinates (default: 0)"
    )
    group.add_argument(
        "--batch-size",
        type=positive,
        default=128,
        metavar="N",
        help="molecules per step (default: 128)",
    )
    add_machine_flags(group)
    return parser


def _predict(args: argparse.Namespace) -> int:
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    suffix = TABLE if args.out is None else check_suffix(args.out, (TABLE, ARRAYS, *FRAMES))
    if args.forces and suffix == TABLE:
        raise UsageError("a table has no place for forces: write .npz or .extxyz by -o")
    _check_apart(args.input, args.out)
    model = load_model(args.path, models.device_of(args.device)).freeze()
    if args.forces and model.target != "energy":
        raise UsageError(f"--forces: the model predicts '{model.target}', which has none")
    coordinates = _coordinates(args, model.target)
    forces = suffix != TABLE if args.forces is None else args.forces

    failures, contacts = Failures(args.strict), Contacts([model], keep=False)
    structures = read_structures(args.input, failures, coordinates)
    done: list[Prediction] = []
    with tqdm(
        total=len(structures), desc="predict", unit="geometry", disable=not sys.stderr.isatty()
    ) as bar:
        for start in range(0, len(structures), args.batch_size):
            part = structures[start : start + args.batch_size]
            done += predictions.predict(model, part, forces, failures, contacts)
            bar.update(len(part))
    done = predictions.lowest(done, failures)
    if not done:
        raise UsageError(f"no molecule of '{args.input}' could be predicted: nothing is written")
    if args.out is None:
        print(predictions.as_csv(done, model), end="")
    else:
        predictions.write(args.out, done, model)
        print(f"{len(done):,} molecules in {args.out}")
    if failures.reasons:
        print(f"{len(failures.reasons):,} molecules were skipped", file=sys.stderr)
        return SKIPPED
    return DONE


def _check_apart(source: str, out: str | None) -> None:
    """Refuses to write over what is read, whatever names and links lead there."""
    if out is None or not (Path(source).exists() and Path(out).exists()):
        return
    if Path(source).samefile(out):
        raise UsageError(
            f"'{out}' is INPUT itself, which would be overwritten: name another file by -o"
        )


def _coordinates(args: argparse.Namespace, target: str) -> Coordinates:
    conformers = args.conformers
    if conformers is None:
        conformers = _CONFORMERS if target == "energy" else 1
    elif conformers > 1 and target != "energy":
        raise UsageError(
            f"--conformers {conformers}: the lowest is chosen by its energy, but the model "
            f"predicts '{target}'; leave it at 1"
        )
    return Coordinates(conformers, args.seed, None if args.optimize == "none" else args.optimize)


if __name__ == "__main__":
    sys.exit(main())
