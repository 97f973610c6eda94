r"""Training runs of the benchmarks: each has a folder, is done once, and goes on if it was stopped.

The folder keeps what :func:`pyg_schnet.training.fit` writes and, when the run has been tested,
``result.json``. Rows of results are merged into the files of earlier commands, row by row.
"""

import argparse
import io
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from device.options import check_device
from environment import command_line, commit, environment
from report import save_report
from torch import Tensor

from pyg_schnet import MoleculeLoader, SchNet
from pyg_schnet.storage import write_atomically
from pyg_schnet.training import Evaluation, TrainConfig, evaluate, fit

HERE = Path(__file__).parent
# Points of a learning curve that a result keeps.
_CURVE = 100
_COLUMNS = {
    "step": "step",
    "seconds": "seconds",
    "energy_mae": "val_mae",
    "force_mae": "val_force_mae",
}


@dataclass(frozen=True)
class Parts:
    """Molecules to train on, to validate and to test with; ``also`` has other sets to test with."""

    train: Any
    val: Any
    test: Any
    also: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """How many there are of each."""
        sizes = {name: len(getattr(self, name)) for name in ("train", "val", "test")}
        return sizes | {name: len(molecules) for name, molecules in self.also.items()}


def budget(text: str) -> dict[str, Any]:
    """Settings of a budget: ``20m`` of time, ``5000steps`` or ``30epochs``.

    Raises:
        argparse.ArgumentTypeError: If it is none of these.
    """
    counted = re.fullmatch(r"([1-9]\d*)(steps|epochs)", text)
    if counted:
        return {"max_steps" if counted[2] == "steps" else "epochs": int(counted[1])}
    try:
        TrainConfig(max_time=text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"a budget is a time such as 90s, 20m or 2h, or 5000steps, or 30epochs (got '{text}')"
        ) from error
    return {"max_time": text}


def add_row_arguments(
    parser: argparse.ArgumentParser,
    suite: str,
    *,
    quick: str = "a few steps on the shipped sample",
    seed: str = "of split, weights and order",
    budget: str | None = "20m",
    device: bool = False,
) -> None:
    """Options of every suite that trains rows.

    Args:
        parser: Where to add them.
        suite: Name of the suite, of its files and its folder.
        quick: What ``--quick`` does.
        seed: What ``--seed`` is the seed of.
        budget: Budget of a row by default; there is no such option if ``None``.
        device: Whether rows can be trained on a GPU.
    """
    parser.add_argument("--json", type=Path, help="file for the results, beside it .md and .png")
    parser.add_argument("--quick", action="store_true", help=f"under a minute: {quick}")
    if budget is not None:
        words = "of a row: 20m, 2h, 50000steps, 30epochs, ... (default: %(default)s)"
        parser.add_argument("--budget", type=read_budget, default=budget, help=words)
    parser.add_argument("--seed", type=int, default=0, help=f"{seed} (default: 0)")
    parser.add_argument(
        "--directory", type=Path, default=Path("runs") / suite, help="(default: %(default)s)"
    )
    parser.add_argument("--again", action="store_true", help="run rows anew that are done")
    words = "where to train and test; results and folder of a GPU have its name (default: cpu)"
    if device:
        parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help=words)
    else:
        parser.set_defaults(device="cpu")


def read_budget(text: str) -> str:
    """A budget, as it was given."""
    budget(text)
    return text


def results_file(args: argparse.Namespace, suite: str) -> Path | None:
    """Where results go: beside those of the other suites, and nowhere if they are quick ones."""
    check_device(args.device)
    return args.json or (None if args.quick else HERE / "results" / f"{_on(args, suite)}.json")


def _on(args: argparse.Namespace, name: str) -> str:
    """A name that says where rows were trained, if that is not the CPU."""
    return name if args.device == "cpu" else f"{name}_{args.device}"


def home_of(args: argparse.Namespace) -> Path:
    """The folder of all rows."""
    home = Path(args.directory).resolve()
    return home.with_name(_on(args, home.name)) if home.name else home


def write_rows(
    rows: Iterable[dict[str, dict]],
    path: Path | None,
    as_markdown: Callable[[dict], str],
    draw: Callable[[dict], Any],
    *,
    at_once: bool = False,
) -> None:
    """Writes rows, by their names, beside those that a file of results has.

    Args:
        rows: One or more at a time; without any, the tables are written anew.
        path: File of results; they are only printed if ``None``.
        as_markdown: Makes the tables.
        draw: Makes the figure.
        at_once: Write when all are done, not after each.
    """
    done: dict[str, dict] = {}
    for row in rows:
        done |= row
        if not at_once:
            save_report({"rows": merge(path, done)}, path, as_markdown, draw)
    if at_once or not done:
        save_report({"rows": merge(path, done)}, path, as_markdown, draw)


def command(args: argparse.Namespace, suite: str, *words: str) -> str:
    """The command that makes a row: its words, which name no paths of this machine."""
    device = "" if args.device == "cpu" else f"--device {args.device}"
    return command_line(args, suite, *words, device)


def folder_of(args: argparse.Namespace, key: str) -> Path:
    """Where a row is kept."""
    name = key.replace(", ", "_").replace(" = ", "").replace(" ", "-").replace(",", "")
    return home_of(args) / name


def fields(part: Any) -> tuple[Tensor, Tensor]:
    """Energies ``[B]`` of some frames, and forces ``[N, 3]`` on all their atoms, in float64."""
    batches = list(MoleculeLoader(part, 4096))
    energy = torch.cat([batch.energy for batch in batches])
    return energy, torch.cat([batch.force for batch in batches]).double()


def validations(num_train: int, batch_size: int, steps: int) -> dict[str, Any]:
    """Settings that validate about every ``steps`` steps, and leave the end to the budget."""
    epoch = -(-num_train // batch_size)
    return {"eval_epochs": max(1, round(steps / epoch)), "patience": 1_000_000}


def run_once(
    directory: Path,
    model: SchNet,
    parts: Parts,
    config: TrainConfig,
    *,
    again: bool = False,
    forces: bool | None = None,
    device: str = "cpu",
    begin_with: Path | None = None,
    measure: Callable[[], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """Trains and tests a model, or tells what came of it when that was done.

    A run that was stopped goes on from its last checkpoint. What the trained model predicts for the
    test set, and the labels, are kept in ``test.npz``.

    Args:
        directory: Folder of the run.
        model: Model with its first weights.
        parts: Molecules.
        config: Settings, with the budget.
        again: Throw away what was done, and start anew.
        forces: Whether forces are tested; by default where they are trained.
        device: Where to train and test.
        begin_with: Folder of a shorter run that is done, to go on with.
        measure: Measures more of the trained model, for the result.

    Returns:
        Errors in ``test`` and, of other test sets, in ``also``; steps, time, the learning curve,
        and what made them; or why the run failed, in ``failure``.

    Raises:
        SystemExit: If the folder has a run with other settings, or the shorter run is not done.
    """
    done, checkpoint = directory / "result.json", directory / "last.safetensors"
    if again and checkpoint.exists():
        shutil.rmtree(directory)
    if done.exists():
        saved: dict[str, Any] = json.loads(done.read_text())
        refuse_other_settings(directory, saved["config"], config.to_dict())
        return saved
    result: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sizes": parts.sizes,
        "config": config.to_dict(),
        "environment": environment(device),
        "commit": commit(),
    }
    if begin_with is not None and not checkpoint.exists():
        continue_run(begin_with, directory)
    resume = checkpoint.exists()
    try:
        history = fit(
            model, parts.train, parts.val, config, directory, resume=resume, device=device
        )
    except FloatingPointError:
        result["failure"] = "diverged"
    else:
        forces = config.with_forces if forces is None else forces
        result |= {name: history[-1][name] for name in ("step", "epoch", "seconds")}
        result["curve"] = curve(history)
        found = {
            name: evaluate(model, part, config.label, config.eval_batch_size, forces=forces)
            for name, part in {"test": parts.test, **parts.also}.items()
        }
        tested = found.pop("test")
        arrays = io.BytesIO()
        np.savez(arrays, predicted=tested.predicted, reference=tested.reference)
        write_atomically(directory / "test.npz", arrays.getvalue())
        result["test"] = errors(tested)
        if found:
            result["also"] = {name: errors(evaluation) for name, evaluation in found.items()}
        result |= measure()
    write_atomically(done, json.dumps(result, indent=1).encode())
    return result


def continue_run(shorter: Path, directory: Path) -> None:
    """Copies the last checkpoint of a run that is done, for a longer one to go on with."""
    if not (shorter / "result.json").exists():
        raise SystemExit(f"--after: '{shorter}' has no run that is done: run it first")
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "last.safetensors"):
        write_atomically(directory / name, (shorter / name).read_bytes())


def errors(result: Evaluation) -> dict[str, float]:
    """Mean absolute and root mean squared errors of energies, and of components of forces."""
    found = {"energy_mae": result.mae, "energy_rmse": result.rmse}
    if result.forces is not None:
        found |= {"force_mae": result.forces.mae, "force_rmse": result.forces.rmse}
    return found


def curve(history: list[dict[str, float]]) -> dict[str, list[float]]:
    """Validation errors by step and time, in columns, of at most a hundred validations."""
    chosen = sorted({round(i) for i in np.linspace(0, len(history) - 1, _CURVE)})
    return {
        name: [float(f"{history[i][column]:.5g}") for i in chosen]
        for name, column in _COLUMNS.items()
        if column in history[0]
    }


def exponent(curve: dict[str, list[float]], error: str) -> float | None:
    """The power of the steps by which an error falls, over the second half of a run."""
    steps, values = (np.array(curve[name]) for name in ("step", error))
    late = steps > steps[-1] / 2
    if late.sum() < 3:
        return None
    return float(np.polyfit(np.log(steps[late]), np.log(values[late]), 1)[0])


def merge(path: Path | None, rows: dict[str, dict]) -> dict[str, dict]:
    """New rows, beside those that a file of results has."""
    if path is None or not path.exists():
        return rows
    return json.loads(path.read_text())["rows"] | rows


def made_by(rows: dict[str, dict]) -> list[str]:
    """Lines that tell where rows, by their names, come from; those of the same origin in one."""
    origins: dict[str, list[str]] = {}
    for name, row in rows.items():
        about = ", ".join(
            f"{key} {value}"
            for key, value in row["environment"].items()
            if key != "sgemm_gflops"  # differs from run to run; it is in the JSON file
        )
        origin = f"commit {row['commit']}, `{row['command']}`. {about}."
        origins.setdefault(origin, []).append(name)
    return [f"- {'; '.join(names)}: {origin}" for origin, names in origins.items()]


def refuse_other_settings(directory: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Complains if the run in a folder is not the one that is asked for."""
    different = [
        f"{name} was {saved.get(name)!r} and is {value!r}"
        for name, value in now.items()
        if saved.get(name) != value
    ]
    if different:
        raise SystemExit(
            f"'{directory}' has a run with other settings ({', '.join(different)}): "
            "--again replaces it, another --directory keeps both"
        )
