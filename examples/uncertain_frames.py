r"""An ensemble says where it is uncertain: which frames are worth labelling next?

    python examples/uncertain_frames.py

trains three networks from different seeds on 50 frames of ethanol, and has them predict the forces
of 900 others. How far they disagree, the standard deviation over the members, is compared with how
far they are off. Then it trains anew with the 50 most uncertain frames added, and with 50 random
ones, for as many steps each, and compares the errors on the 300 frames of the test set. About
six minutes on one core. The directory of the run then holds ``uncertainty.png`` and
``uncertain_frames.json``.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from pyg_schnet import Ensemble, MoleculeLoader, SchNet
from pyg_schnet.datasets import MD17Sample
from pyg_schnet.storage import write_atomically
from pyg_schnet.training import TrainConfig, fit

CUTOFF = 5.0
BATCH_SIZE = 16


def main() -> None:
    """Trains, asks, picks, trains again."""
    args = parse_arguments()

    # 1. A few frames to begin with, some to choose the best epoch, and the rest, whose labels
    #    are known here but would have to be computed.
    frames = MD17Sample("ethanol", train=True, cutoff=CUTOFF)
    test = MD17Sample("ethanol", train=False, cutoff=CUTOFF)
    generator = np.random.default_rng(args.seed)
    order = generator.permutation(len(frames))
    first, val, pool = np.split(order, [args.first, args.first + 50])
    units = f"{frames.units['energy']}/Ang"

    # 2. Networks of different seeds, and what they do not agree about.
    ensemble = train(frames, first, val, args)
    std, error = disagreement(ensemble, frames[pool.tolist()])
    correlation = rank_correlation(std, error)
    uncertain = np.argsort(-std)
    tenth = uncertain[: len(pool) // 10]
    print(
        f"{len(ensemble)} networks on {len(first)} frames. Of {len(pool)} other frames, forces in "
        f"{units}:\n"
        f"  RMS error {rms(error):.3f}, RMS standard deviation {rms(std):.3f}, rank correlation "
        f"{correlation:.2f}\n"
        f"  RMS error of the most uncertain tenth {rms(error[tenth]):.3f}, of the others "
        f"{rms(np.delete(error, tenth)):.3f}"
    )

    # 3. The most uncertain frames against random ones.
    choices = {
        "none": first,
        "random": np.concatenate([first, generator.choice(pool, args.more, replace=False)]),
        "uncertain": np.concatenate([first, pool[uncertain[: args.more]]]),
    }
    results: dict[str, Any] = {}
    print(
        f"\n{'added':<10} {'test MAE':>9} {'RMSE':>7} {'worst frame':>12}   (mean of the networks)"
    )
    for name, chosen in choices.items():
        networks = ensemble if name == "none" else train(frames, chosen, val, args)
        _, errors = disagreement(networks, test)
        mae = float(force_errors(networks, test).abs().mean())
        results[name] = {"mae": mae, "rmse": rms(errors), "worst_frame_rms": float(errors.max())}
        print(f"{name:<10} {mae:>9.3f} {rms(errors):>7.3f} {errors.max():>12.3f}")

    # 4. A picture and numbers to keep.
    args.directory.mkdir(parents=True, exist_ok=True)
    draw(std, error, uncertain[: args.more], units).savefig(args.directory / "uncertainty.png")
    summary = {
        "frames": {"first": args.first, "pool": len(pool), "added": args.more},
        "steps": args.steps,
        "units": units,
        "rank_correlation": correlation,
        "rms_error": rms(error),
        "rms_std": rms(std),
        "rms_error_of_the_most_uncertain_tenth": rms(error[tenth]),
        "test": results,
    }
    path = args.directory / "uncertain_frames.json"
    write_atomically(path, json.dumps(summary, indent=2).encode())
    print(f"Everything is in {args.directory}")


def parse_arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=int, default=50, help="frames to begin with (default: 50)")
    parser.add_argument("--more", type=int, default=50, help="frames to add (default: 50)")
    parser.add_argument("--members", type=int, default=3, help="networks (default: 3)")
    parser.add_argument("--steps", type=int, default=2500, help="of training (default: 2500)")
    parser.add_argument("--seed", type=int, default=0, help="of frames and weights")
    parser.add_argument("--directory", type=Path, default=Path("runs/uncertain_frames"))
    args = parser.parse_args()
    if args.members < 2 or args.first < 1 or not 1 <= args.more <= 950 - args.first:
        parser.error("expected two or more --members, and at most 950 frames in --first and --more")
    return args


def train(
    frames: MD17Sample, chosen: np.ndarray, val: np.ndarray, args: argparse.Namespace
) -> Ensemble:
    """Networks that differ in their first weights and in the order of frames."""
    members = []
    epochs = args.steps * BATCH_SIZE // len(chosen)
    for seed in range(args.members):
        torch.manual_seed(1000 * args.seed + seed)
        model = SchNet(64, 64, 3, num_gaussians=25, cutoff=CUTOFF)
        config = TrainConfig.fast(
            forces=True,
            max_steps=args.steps,
            batch_size=BATCH_SIZE,
            seed=seed,
            eval_epochs=max(1, epochs // 20),
        )
        fit(model, frames[chosen.tolist()], frames[val.tolist()], config)
        members.append(model)
    return Ensemble(members).freeze()


def disagreement(ensemble: Ensemble, frames: MD17Sample) -> tuple[np.ndarray, np.ndarray]:
    """Of the forces of each frame: standard deviations and errors, root mean squares ``[M]``."""
    stds = []
    for batch in MoleculeLoader(frames, 100):
        std = ensemble.predict(batch)["forces_std"].double()
        stds.append(std.reshape(batch.num_graphs, -1).square().mean(dim=1).sqrt())
    errors = force_errors(ensemble, frames).square().mean(dim=1).sqrt()
    return torch.cat(stds).numpy(), errors.numpy()


def force_errors(ensemble: Ensemble, frames: MD17Sample) -> torch.Tensor:
    """Errors of the components of the mean forces, ``[M, 3N]``."""
    errors = [
        (ensemble.predict(batch)["forces"] - batch.force).reshape(batch.num_graphs, -1)
        for batch in MoleculeLoader(frames, 100)
    ]
    return torch.cat(errors).double()


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's coefficient."""
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (x, y)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def rms(values: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(values**2)))


def draw(std: np.ndarray, error: np.ndarray, picked: np.ndarray, units: str) -> Figure:
    """Errors over standard deviations of all frames, those picked in red."""
    figure = Figure(figsize=(5, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.scatter(std, error, s=6, color="0.5", linewidths=0, label="frames")
    axes.scatter(std[picked], error[picked], s=8, color="C3", linewidths=0, label="most uncertain")
    limit = [min(std.min(), error.min()), max(std.max(), error.max())]
    axes.plot(limit, limit, color="0.7", lw=1, zorder=0)
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel(f"standard deviation of the forces [{units}]")
    axes.set_ylabel(f"error of their mean [{units}]")
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
