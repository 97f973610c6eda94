r"""SchNet learns the energies of real molecules.

    python examples/qm9_energy.py

trains on the 2,938 QM9 molecules that come with the package, in about two minutes on two cores, and
compares the error on unseen molecules with two baselines. The directory of the run then holds the
model, ``history.csv``, ``learning_curve.png`` and ``parity.png``. On the whole of QM9:

    python examples/qm9_energy.py --root data/QM9 --paper

which downloads 86 MB once and takes much longer; Ctrl-C stops it, ``--resume`` goes on.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from pyg_schnet import SchNet
from pyg_schnet.data import atom_references, composition, load_split, random_split
from pyg_schnet.data.units import convert
from pyg_schnet.datasets import QM9, QM9Sample
from pyg_schnet.plot import learning_curve, parity
from pyg_schnet.storage import write_atomically
from pyg_schnet.training import Evaluation, TrainConfig, evaluate, fit, label_reader

INTENSIVE = ("homo", "lumo", "gap", "A", "B", "C")
# What may change when a run is resumed.
FREE = ("epochs", "device")
ENERGIES = ("U0", "U", "H", "G", "U0_atom", "U_atom", "H_atom", "G_atom")


def main() -> None:
    """Trains, tests, compares, draws."""
    args = parse_arguments()
    torch.manual_seed(args.seed)

    # 1. Molecules with their radius-graph edges.
    cutoff = 30.0 if args.paper else 5.0
    dataset = QM9(args.root, cutoff=cutoff) if args.root else QM9Sample(cutoff=cutoff)
    target = dataset.target_names[dataset.target_index(args.target)]
    units = dataset.units[target]
    directory = args.directory or free_directory(Path("runs") / f"qm9_{target}")
    if args.resume:
        train, val, test = load_split(dataset, directory / "split.json")
    else:
        train_size = (
            (110_462 if args.root else 2_400) if args.train_size is None else args.train_size
        )
        sizes = [train_size, 1_000 if args.root else 200, -1]
        train, val, test = random_split(dataset, sizes, args.seed, directory / "split.json")
        save_arguments(args, directory)
    if len(train) == 0 or len(test) == 0:
        raise SystemExit(f"--train-size leaves {len(train)} to train on and {len(test)} to test")

    # 2. The network. Extensive properties are sums over atoms, intensive ones means.
    head: dict[str, Any] = {
        "readout": "mean" if target in INTENSIVE else "add",
        "dipole": target == "mu",
        "target": "energy" if target in ENERGIES else target,
        "units": units,
    }
    if args.paper:
        model = SchNet.paper(**head)
    else:
        model = SchNet(64, 64, 3, num_gaussians=25, cutoff=cutoff, **head)
    model.to(args.device)
    print(f"{model} with {sum(p.numel() for p in model.parameters()):,} parameters")
    print(f"{len(train)} molecules to train on, {len(val)} to validate, {len(test)} to test")

    # 3. Training.
    config = training_config(args, target, len(train), directory)
    history = fit(model, train, val, config, directory, resume=args.resume)

    # 4. The test set, seen here for the first time.
    result = evaluate(model, test, target)
    baselines = evaluate_baselines(train, test, target)
    report(result, baselines, target, units)

    # 5. Pictures and numbers to keep.
    linear = baselines["linear atom references"]
    curve = learning_curve(history, units, {"linear atom references": linear.mae})
    curve.savefig(directory / "learning_curve.png")
    parity(result, f"{target} less atom references", linear.predicted).savefig(
        directory / "parity.png"
    )
    errors = {name: baseline.mae for name, baseline in baselines.items()}
    summary = {"target": target, "units": units, "test_mae": result.mae, "test_rmse": result.rmse}
    (directory / "test.json").write_text(json.dumps(summary | {"baselines_mae": errors}, indent=2))
    print(f"Everything is in {directory}")


def parse_arguments() -> argparse.Namespace:
    """The options of the command line; those of a run that is resumed are its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", help="folder of the whole QM9, downloaded there if missing")
    parser.add_argument("--target", default="U0", help="property to learn (default: U0)")
    parser.add_argument("--train-size", type=positive, help="molecules to train on")
    parser.add_argument("--paper", action="store_true", help="network and settings of the paper")
    parser.add_argument("--epochs", type=positive, help="passes over the training set")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    parser.add_argument("--seed", type=int, default=0, help="of split, weights and order")
    parser.add_argument("--directory", type=Path, help="where to keep the run (default: runs/...)")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in --directory, or the last one"
    )
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: this torch sees no CUDA device")
    if not args.resume:
        if args.directory and (args.directory / "last.safetensors").exists():
            parser.error(f"'{args.directory}' holds a run: add --resume, or name another directory")
        return args
    directory = args.directory or last_run()
    if directory is None or not (directory / "arguments.json").exists():
        parser.error(f"--resume: there is no run in '{directory or 'runs/'}' to resume")
    saved = json.loads((directory / "arguments.json").read_text())
    parser.set_defaults(**saved)
    args = parser.parse_args()
    changed = [name for name in saved if name not in FREE and getattr(args, name) != saved[name]]
    if changed:
        parser.error(f"--resume goes on with the same run: leave out {', '.join(changed)}")
    args.directory = directory
    return args


def positive(text: str) -> int:
    """A whole number above zero."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1 (got {number})")
    return number


def save_arguments(args: argparse.Namespace, directory: Path) -> None:
    """Keeps the options of a run for resuming it."""
    kept = {
        name: value for name, value in vars(args).items() if name not in ("directory", "resume")
    }
    write_atomically(directory / "arguments.json", json.dumps(kept).encode())


def last_run() -> Path | None:
    """The directory in ``runs/`` that was written to last."""
    runs = Path("runs").glob("qm9_*/last.safetensors")
    last = max(runs, key=lambda path: path.stat().st_mtime, default=None)
    return None if last is None else last.parent


def training_config(
    args: argparse.Namespace, target: str, num_train: int, directory: Path
) -> TrainConfig:
    """The settings of the paper, or a schedule that ends where the epochs do."""
    if args.resume:
        saved = json.loads((directory / "config.json").read_text())["train"]
        return TrainConfig(**(saved | {"epochs": args.epochs or saved["epochs"]}))
    if args.paper:
        return TrainConfig(label=target, epochs=args.epochs or 1_000, seed=args.seed)
    epochs = args.epochs or (60 if args.root is None else 100)
    steps = epochs * -(-num_train // 32)
    return TrainConfig(
        label=target,
        epochs=epochs,
        seed=args.seed,
        lr=2e-3,
        lr_decay=0.01,
        lr_decay_steps=steps,
        lr_min=2e-5,  # where epochs beyond the planned ones go on
    )


def free_directory(directory: Path) -> Path:
    """The directory, with the next free number if it has been used."""
    number = 1
    free = directory
    while free.exists():
        number += 1
        free = directory.with_name(f"{directory.name}-{number}")
    return free


def evaluate_baselines(train: QM9, test: QM9, target: str) -> dict[str, Evaluation]:
    """What can be had without a network: the mean, and a sum of one number per atom."""

    def counts_and_labels(dataset: QM9) -> tuple[torch.Tensor, torch.Tensor]:
        read = label_reader(dataset, target)
        counts = [composition(d.z, torch.zeros_like(d.z), 1) for d in dataset]
        return torch.cat(counts), torch.cat([read(d) for d in dataset])

    counts, labels = counts_and_labels(train)
    test_counts, test_labels = counts_and_labels(test)
    mean = labels.nanmean().expand_as(test_labels)
    return {
        "mean predictor": Evaluation.of(mean, test_labels),
        "linear atom references": Evaluation.of(
            test_counts @ atom_references(counts, labels), test_labels
        ),
    }


def report(result: Evaluation, baselines: dict[str, Evaluation], target: str, units: str) -> None:
    """Prints the test errors, energies in the units that papers use."""
    shown = ("kcal/mol", "meV") if units == "eV" else (units,)
    print(f"\nTest MAE of {target} on {result.reference.numel()} molecules")
    print(f"{'':24}" + "".join(f"{unit:>14}" for unit in shown))
    for name, evaluation in {**baselines, "SchNet": result}.items():
        errors = (
            convert(evaluation.mae, units, u) if units == "eV" else evaluation.mae for u in shown
        )
        print(f"{name:24}" + "".join(f"{error:14.3f}" for error in errors))
    ratio = result.mae / baselines["linear atom references"].mae
    print(f"The error of SchNet is {ratio:.2f} times that of the linear fit.\n")


if __name__ == "__main__":
    main()
