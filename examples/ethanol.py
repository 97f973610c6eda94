"""A model of ethanol for the examples that use one: trained when it is first asked for."""

import argparse
from pathlib import Path

import torch
from ase import Atoms

from pyg_schnet import SchNet
from pyg_schnet.data import random_split, to_ase
from pyg_schnet.datasets import MD17Sample
from pyg_schnet.training import TrainConfig, evaluate, fit
from pyg_schnet.training.saved import load_model

CUTOFF = 5.0


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which model."""
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("runs/ethanol"),
        help="file of a model, or directory of a run, trained if missing (default: runs/ethanol)",
    )
    parser.add_argument("--time", default="3m", help="time to train it (default: 3m)")
    parser.add_argument("--epochs", type=int, help="passes over the frames, at most")
    parser.add_argument("--seed", type=int, default=0, help="of training and dynamics")


def trained_model(args: argparse.Namespace) -> SchNet:
    """The model in ``args.model``, or one of energies and forces, trained there on 950 frames."""
    torch.manual_seed(args.seed)
    if args.model.exists():
        print(f"Model: {args.model}")
        return load_model(args.model)
    frames = MD17Sample("ethanol", train=True, cutoff=CUTOFF)
    train, val = random_split(frames, [len(frames) - 50, 50], args.seed)
    config = TrainConfig.fast(
        forces=True, max_time=args.time, epochs=args.epochs, seed=args.seed, eval_epochs=10
    )
    model = SchNet(64, 64, 3, num_gaussians=25, cutoff=CUTOFF)
    fit(model, train, val, config, args.model)
    result = evaluate(model, MD17Sample("ethanol", train=False, cutoff=CUTOFF), forces=True)
    assert result.forces is not None
    print(
        f"Model: {args.model}, trained. Test MAE {result.mae:.3f} {result.units}, "
        f"{result.forces.mae:.3f} {result.forces.units}"
    )
    return model


def frame_of_ethanol(number: int = 0) -> Atoms:
    """A frame of the test set, at 500 K."""
    frame = MD17Sample("ethanol", train=False)[number]
    del frame.energy, frame.force  # in kcal/mol, and not of the model
    atoms = to_ase(frame)
    assert isinstance(atoms, Atoms)
    return atoms
