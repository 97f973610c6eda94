r"""The pictures of ``docs/README.md``, one of every function of ``pyg_schnet.plot``.

    python docs/pictures.py

makes all of them again in the folder of this file (``--folder`` for another), in under a minute on
one core, from the trained models and the molecules that come with the package. For the learning
curve and the errors a small network is trained for a few hundred steps.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image

from pyg_schnet import SchNet
from pyg_schnet.data import random_split
from pyg_schnet.datasets import MD17Sample, MoleculeDataset
from pyg_schnet.plot import (
    atom_energies,
    bond_scan,
    chemical_potential,
    filters,
    learning_curve,
    parity,
)
from pyg_schnet.training import TrainConfig, evaluate, fit

# The two carbons of ethanol.
BOND = (0, 1)
MAX_BYTES = 150_000


def main() -> None:
    """Draws everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--steps", type=int, default=1_500, help="of the small network")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    pictures = of_ethanol() | of_benzene() | of_a_training(args.steps)
    for name, figure in pictures.items():
        save(figure, args.folder / f"{name}.png")
    print(f"{len(pictures)} pictures in {args.folder}")


def save(figure: Figure, path: Path) -> None:
    """Writes a picture, a large one with 256 colours, which makes it a quarter of the size."""
    figure.savefig(path, dpi=100)
    if path.stat().st_size > MAX_BYTES:
        with Image.open(path) as drawn:
            drawn.convert("RGB").quantize(256).save(path, optimize=True)


def of_ethanol() -> dict[str, Figure]:
    """Those of the model of its potential energy surface."""
    model = SchNet.from_pretrained("md17-ethanol").freeze()
    frames = MD17Sample("ethanol", train=True)
    ethanol = frames[0]
    i, j = BOND
    lengths = torch.stack([(frame.pos[i] - frame.pos[j]).norm() for frame in frames])
    seen = (float(lengths.min()), float(lengths.max()))
    return {
        "filters": filters(model),
        "bond_scan": bond_scan(model, ethanol, i, j, torch.linspace(1.2, 2.0, 81), seen=seen),
    }


def of_benzene() -> dict[str, Figure]:
    """Those of the model of small organic molecules in their equilibrium."""
    model = SchNet.from_pretrained("qm9-u0").freeze()
    benzene = MoleculeDataset.from_smiles(["c1ccccc1"])[0]
    return {
        "atom_energies": atom_energies(model, benzene),
        "chemical_potential": chemical_potential(model, benzene, 6),
    }


def of_a_training(steps: int) -> dict[str, Figure]:
    """Those of a small network after a short training."""
    frames = MD17Sample("ethanol", train=True, cutoff=5.0)
    test = MD17Sample("ethanol", train=False, cutoff=5.0)
    train, val = random_split(frames, [900, 100], 0)
    torch.manual_seed(0)
    model = SchNet(48, 48, 2, num_gaussians=25, cutoff=5.0)
    config = TrainConfig.fast(forces=True, epochs=None, max_steps=steps)
    history = fit(model, train, val, config)
    result = evaluate(model, test)
    mean = result.reference.mean().expand_as(result.reference)
    return {
        "learning_curve": learning_curve(history, model.units),
        "parity": parity(result, "energy - mean", mean),
    }


if __name__ == "__main__":
    main()
