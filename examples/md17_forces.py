r"""SchNet learns the forces of a molecule in motion.

    python examples/md17_forces.py

trains on 1,000 frames of ethanol that come with the package (950 for the weights, 50 to choose the
best epoch), in about three minutes on two cores, and compares the errors on 300 other frames with
those of a predictor that knows the means only. The directory of the run then holds the model,
``history.csv``, ``learning_curve.png``, ``parity_energy.png`` and ``parity_forces.png``.
``--molecule aspirin`` takes the other molecule of the package; on a whole trajectory of MD17:

    python examples/md17_forces.py --root data/MD17 --molecule "salicylic acid" --paper

which downloads it and trains by the protocol of the paper. Ctrl-C stops a run, ``--resume`` with
its ``--directory`` goes on.
"""

import argparse
import json
from pathlib import Path

import torch

from pyg_schnet import SchNet
from pyg_schnet.data import load_split, random_split
from pyg_schnet.datasets import MD17, MD17Sample
from pyg_schnet.plot import learning_curve, parity
from pyg_schnet.training import Evaluation, TrainConfig, evaluate, fit


def main() -> None:
    """Trains, tests, compares, draws."""
    args = parse_arguments()
    torch.manual_seed(args.seed)
    directory = args.directory

    # 1. Frames with their radius-graph edges. Frames next to each other in time are alike, so those
    #    of the test are neighbours of those in training: as in the paper, and its tables.
    cutoff = 30.0 if args.paper else 5.0
    if args.root:
        frames = MD17(args.root, args.molecule, cutoff=cutoff)
        sizes = [1_000, 1_000, -1]
    else:
        frames = MD17Sample(args.molecule, train=True, cutoff=cutoff)
        sizes = [len(frames) - 50, 50]
    if args.resume:
        parts = load_split(frames, directory / "split.json")
    else:
        parts = random_split(frames, sizes, args.seed, directory / "split.json")
    train, val = parts[:2]
    test = parts[2] if args.root else MD17Sample(args.molecule, train=False, cutoff=cutoff)
    units = frames.units["energy"]

    # 2. The network; forces are the derivative of its energy.
    model = SchNet.paper() if args.paper else SchNet(64, 64, 3, num_gaussians=25, cutoff=cutoff)
    print(f"{model} with {sum(p.numel() for p in model.parameters()):,} parameters")
    print(f"{len(train)} frames to train on, {len(val)} to validate, {len(test)} to test")

    # 3. Training on both.
    config = training_config(args, directory)
    history = fit(model, train, val, config, directory, resume=args.resume)

    # 4. The test set, seen here for the first time.
    result = evaluate(model, test, forces=True)
    assert result.forces is not None
    baseline = mean_predictor(train, test)
    report(result, baseline, units)

    # 5. Pictures and numbers to keep.
    learning_curve(history, units).savefig(directory / "learning_curve.png")
    parity(result, "energy", baseline.predicted).savefig(directory / "parity_energy.png")
    parity(result.forces, "force component").savefig(directory / "parity_forces.png")
    summary = {"schnet": errors(result), "mean_predictor": errors(baseline), "units": units}
    (directory / "test.json").write_text(json.dumps(summary, indent=2))
    print(f"Everything is in {directory}")


def parse_arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--molecule", default="ethanol", help="name of the trajectory")
    parser.add_argument("--root", help="folder of the whole MD17, downloaded there if missing")
    parser.add_argument("--paper", action="store_true", help="network and settings of the paper")
    parser.add_argument("--epochs", type=int, help="passes over the training set")
    parser.add_argument("--seed", type=int, default=0, help="of split, weights and order")
    parser.add_argument("--directory", type=Path, help="where to keep the run (default: runs/...)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --directory")
    args = parser.parse_args()
    if args.epochs is not None and args.epochs < 1:
        parser.error(f"--epochs must be at least 1 (got {args.epochs})")
    if args.directory is None:
        args.directory = Path("runs") / f"md17_{args.molecule.replace(' ', '_')}"
    started = (args.directory / "last.safetensors").exists()
    if started != args.resume:
        parser.error(
            f"'{args.directory}' holds a run: add --resume, or name another --directory"
            if started
            else f"--resume: there is no run in '{args.directory}' to go on with"
        )
    return args


def training_config(args: argparse.Namespace, directory: Path) -> TrainConfig:
    """The settings of the paper, or the fast ones, whose schedule ends where the epochs do."""
    if args.resume:
        saved = json.loads((directory / "config.json").read_text())["train"]
        return TrainConfig(**(saved | {"epochs": args.epochs or saved["epochs"]}))
    if args.paper:
        return TrainConfig.paper(forces=True, epochs=args.epochs or 10_000, seed=args.seed)
    return TrainConfig.fast(forces=True, epochs=args.epochs or 400, seed=args.seed)


def mean_predictor(train: MD17, test: MD17) -> Evaluation:
    """The mean energy and the mean force of each atom, of the frames to train on."""
    energies, forces = ([data[name] for data in train] for name in ("energy", "force"))
    force = torch.stack(list(forces)).double().mean(dim=0).flatten()
    reference = torch.cat([data.energy for data in test])
    components = torch.cat([data.force.flatten() for data in test]).double()
    return Evaluation.of(
        torch.cat(list(energies)).mean().expand_as(reference),
        reference,
        forces=Evaluation.of(force.repeat(len(test)), components),
    )


def errors(result: Evaluation) -> dict[str, float]:
    """Mean absolute errors."""
    assert result.forces is not None
    return {"energy_mae": result.mae, "force_mae": result.forces.mae}


def report(result: Evaluation, baseline: Evaluation, units: str) -> None:
    """Prints the errors in a table."""
    print(f"\n{'test MAE':<16} {'energy, ' + units:>18} {'forces, ' + units + '/Ang':>22}")
    for name, one in (("mean predictor", baseline), ("SchNet", result)):
        print(f"{name:<16} {errors(one)['energy_mae']:>18.3f} {errors(one)['force_mae']:>22.3f}")
    print()


if __name__ == "__main__":
    main()
