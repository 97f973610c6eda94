r"""Trains GDML or sGDML by the package sgdml, in the environment that has it, and prints JSON.

    python benchmarks/peers/gdml.py FRAMES.npz SETTINGS PREDICTIONS.npz

``FRAMES.npz`` has atomic numbers ``z`` ``[n]`` and, of the frames to train on, to validate and to
test with, ``R_train``, ``R_val`` and ``R_test`` ``[M, n, 3]`` in angstrom, energies ``E_...``
``[M]`` and forces ``F_...`` ``[M, n, 3]``. Written are ``E`` and ``F`` of the frames to test with.

``SETTINGS`` is JSON: ``symmetric`` (sGDML, with permutations of atoms found by the package),
``sigmas`` (kernel widths to choose from, upwards), ``search`` (how many frames to choose with) and
``memory`` in GiB. As in the package's own search, the width is the last before the error (RMSE) of
forces of the frames to validate rises. Then all frames are trained on, or as many as the memory
allows.

The model learns forces; its energy is their integral, and the constant makes the mean error of the
energies that it was trained on zero. The package solves for the coefficients with three copies of
the kernel matrix, 3 x (3 n M)^2 x 8 bytes; here it is assembled and factorized in place, the lower
half of it alone, with the same result.
"""

import json
import logging
import platform
import resource
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import sgdml.train
from sgdml.predict import GDMLPredict
from sgdml.solvers.analytic import Analytic

sys.path.insert(0, str(Path(__file__).parents[1]))

from peers.packed import bytes_needed, factorize, solve

PARTS = ("train", "val", "test")
# Columns of a panel, about.
WIDTH = 1_000
# What the process needs without the matrix, in bytes: 0.4 GiB were measured with ethanol.
BASE = 3 * 2**28
# What is added to the diagonal: the package's own; ten times as much where rounding needs it.
LAMBDA, LARGEST_LAMBDA = 1e-10, 1e-6


def main() -> None:
    """Chooses a width, trains, predicts."""
    frames, settings = read(sys.argv[1]), json.loads(sys.argv[2])
    trainer = Trainer(settings["memory"], settings["symmetric"])
    begin = now()
    errors = trainer.search(frames, settings["sigmas"], settings["search"])
    searched, begin = now() - begin, now()
    sigma = min(errors, key=lambda sigma: errors[sigma])
    number = trainer.most(frames["train"]["R"])
    model = trainer.train(take(frames["train"], number), sigma)
    trained = now() - begin
    result = {
        "frames": number,
        "sigma": sigma,
        "search": {"frames": settings["search"], "force_rmse": errors, **spent(searched)},
        "lambda": float(model["lam"]),
        "permutations": len(model["perms"]),
        **spent(trained),
        "environment": environment(),
    }
    energy, force = predict(model, frames["test"]["R"])
    result["memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    np.savez(sys.argv[3], E=energy, F=force)
    print(json.dumps(result))


def read(path: str) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of each part, in float64."""
    with np.load(path) as arrays:
        return {
            part: {"z": arrays["z"].astype(int)}
            | {name: arrays[f"{name}_{part}"].astype(np.float64) for name in ("R", "E", "F")}
            for part in PARTS
        }


def take(frames: dict[str, np.ndarray], number: int) -> dict[str, np.ndarray]:
    """The first frames."""
    return frames | {name: frames[name][:number] for name in ("R", "E", "F")}


class Trainer:
    """The package's training, with a solver that takes less memory.

    Args:
        memory: What may be used, in GiB.
        symmetric: Whether to find permutations of the atoms.
    """

    def __init__(self, memory: float, symmetric: bool):
        self.memory, self.symmetric = memory, symmetric
        sgdml.train.Analytic = PackedAnalytic
        # Kernel matrices by torch: several times as fast, also without a GPU.
        self.trainer = sgdml.train.GDMLTrain(max_memory=memory, max_processes=1, use_torch=True)

    def most(self, positions: np.ndarray) -> int:
        """How many of the frames fit into the memory; below a thousand in steps of ten."""
        number, atoms = positions.shape[:2]
        limit = self.memory * 2**30
        while number > 0 and PackedAnalytic.est_memory_requirement(number, atoms) > limit:
            number = 10 * ((number - 1) // 10)
        if number == 0:
            raise SystemExit(f"'memory' is too little for any frames (got {self.memory:g} GiB)")
        return number

    def search(self, frames: dict, sigmas: list[float], number: int) -> dict[float, float]:
        """Errors of forces by width, when trained on a few frames."""
        few = take(frames["train"], number)
        errors: dict[float, float] = {}
        for sigma in sigmas:
            _, force = predict(self.train(few, sigma), frames["val"]["R"])
            errors[sigma] = float(np.sqrt(np.mean((force - frames["val"]["F"]) ** 2)))
            say(f"sigma {sigma:g}: RMSE of forces {errors[sigma]:.4g} from {len(few['E'])} frames")
            if errors[sigma] > min(errors.values()):
                break
        return errors

    def train(self, frames: dict[str, np.ndarray], sigma: float) -> dict[str, Any]:
        """A model of all the frames given."""
        dataset = frames | {"name": np.array("frames"), "theory": np.array("unknown")}
        task = self.trainer.create_task(
            dataset, len(frames["E"]), dataset, 0, sigma, lam=LAMBDA, use_sym=self.symmetric
        )
        while True:
            try:
                return self.trainer.train(task)
            except np.linalg.LinAlgError:
                task["lam"] *= 10
                if task["lam"] > 1.01 * LARGEST_LAMBDA:
                    raise
                say(f"sigma {sigma:g}: not positive definite, lambda is now {task['lam']:g}")


class PackedAnalytic(Analytic):
    """The closed form, with half of one kernel matrix in memory in place of three whole ones."""

    def solve(
        self,
        task: dict[str, Any],
        descriptors: np.ndarray,
        jacobians: np.ndarray,
        permutations: np.ndarray,
        y: np.ndarray,
    ) -> np.ndarray:
        """Coefficients ``[3 n M]``."""
        size = 3 * task["R_train"].shape[1]
        wide = _frames_of_panel(size)

        def panels() -> Iterator[np.ndarray]:
            for first in range(0, len(descriptors), wide):
                if first % (10 * wide) == 0 and len(descriptors) > 10 * wide:
                    say(f"kernel: {first:,} of {len(descriptors):,} frames")
                columns = min(wide, len(descriptors) - first) * size
                panel = self.gdml_train._assemble_kernel_mat(
                    descriptors[first:],
                    jacobians[first:],
                    permutations,
                    task["sig"],
                    self.desc,
                    col_idxs=slice(0, columns),
                )
                np.negative(panel, out=panel)  # the package's kernel is negative definite
                panel[np.diag_indices(columns)] += task["lam"]
                yield panel

        return -solve(factorize(panels()), y)

    @staticmethod
    def est_memory_requirement(n_train: int, n_atoms: int) -> int:
        """Bytes for the kernel of so many frames."""
        size = 3 * n_atoms
        return BASE + bytes_needed(n_train * size, _frames_of_panel(size) * size)


def _frames_of_panel(size: int) -> int:
    return max(1, WIDTH // size)


def predict(model: dict[str, Any], positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies ``[M]`` and forces ``[M, n, 3]`` of positions ``[M, n, 3]``."""
    predictor = GDMLPredict(model, max_processes=1)
    energy, force = predictor.predict(positions.reshape(len(positions), -1))
    return energy, force.reshape(positions.shape)


def now() -> np.ndarray:
    """The time by the clock, and that of the processor, which stops for other programs."""
    return np.array([time.perf_counter(), time.process_time()])


def spent(times: np.ndarray) -> dict[str, float]:
    """Times between two moments by name."""
    return dict(zip(("seconds", "processor_seconds"), times.tolist()))


def environment() -> dict[str, str]:
    """Versions that this ran with."""
    packages = ("sgdml", "numpy", "scipy", "torch")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def say(text: str) -> None:
    """A line of progress; results are on the standard output."""
    print(f"{Path(sys.argv[0]).stem}: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    logging.disable(logging.INFO)
    main()
