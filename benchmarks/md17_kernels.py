"""GDML and sGDML for MD17: kernel models of forces, by ``peers/gdml.py`` in its own environment."""

import json
import shutil
import signal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from environment import commit, environment
from peers.processes import call_worker
from rows import Parts, errors, fields, refuse_other_settings

from pyg_schnet import MoleculeLoader
from pyg_schnet.storage import write_atomically
from pyg_schnet.training import Evaluation

KERNELS = {"gdml", "sgdml"}
# Widths of the kernel to choose from, and with how many frames: of ethanol 200 prefer a width that
# is too large for 1,000.
SIGMAS = (5, 10, 20, 40, 80, 160)
SEARCH = 400


def run_kernel(
    directory: Path,
    parts: Parts,
    name: str,
    memory: float,
    pythons: dict[str, str],
    *,
    again: bool = False,
) -> dict[str, Any]:
    """Trains and tests a kernel model, or tells what came of it when that was done.

    What it predicts for the test set is kept in ``test.npz``: energies ``E`` ``[M]`` and forces
    ``F`` ``[M, n, 3]``.

    Args:
        directory: Folder of the run.
        parts: Frames.
        name: ``"gdml"``, or with symmetries ``"sgdml"``.
        memory: What the kernel matrix may take, in GiB; fewer frames are trained on if it is more.
        pythons: Python that has the package.
        again: Throw away what was done.

    Returns:
        Errors in ``test``, times, what was chosen in ``kernel``, and what made them; or why the run
        failed, in ``failure``.

    Raises:
        SystemExit: If the package fails, or if the folder has a run with other settings.
    """
    done = directory / "result.json"
    settings: dict[str, Any] = {
        "symmetric": name == "sgdml",
        "sigmas": list(SIGMAS),
        "search": min(SEARCH, len(parts.train)),
    }
    if again and done.exists():
        shutil.rmtree(directory)
    if done.exists():
        saved: dict[str, Any] = json.loads(done.read_text())
        refuse_other_settings(directory, saved["settings"], settings)
        return saved
    threads = torch.get_num_threads()
    result: dict[str, Any] = {
        "threads": threads,
        "sizes": parts.sizes,
        "settings": settings,
        "environment": environment(),
        "commit": commit(),
    }
    directory.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        frames, found = Path(folder) / "frames.npz", Path(folder) / "test.npz"
        np.savez(frames, **arrays_of(parts))
        arguments = [str(frames), json.dumps(settings | {"memory": memory}), str(found)]
        script = "peers/gdml.py"
        ended = call_worker(script, "sgdml", arguments, pythons, threads=threads, show=True)
        if ended.returncode == -signal.SIGKILL:
            return result | {"failure": f"out of memory (limit {memory:g} GiB)"}
        if ended.returncode != 0:
            raise SystemExit(f"sgdml failed on '{directory.name}': see above")
        kernel = json.loads(ended.stdout.splitlines()[-1])
        with np.load(found) as arrays:
            energy, force = (torch.from_numpy(arrays[key]) for key in ("E", "F"))
        write_atomically(directory / "test.npz", found.read_bytes())
    versions = kernel.pop("environment").items()
    result["environment"]["peer"] = ", ".join(f"{key} {value}" for key, value in versions)
    result["seconds"] = kernel.pop("seconds")
    wanted, acting = fields(parts.test)
    tested = Evaluation.of(energy, wanted, forces=Evaluation.of(force.flatten(), acting.flatten()))
    result |= {"kernel": kernel | {"limit_gib": memory}, "test": errors(tested)}
    write_atomically(done, json.dumps(result, indent=1).encode())
    return result


def arrays_of(parts: Parts) -> dict[str, Any]:
    """Atomic numbers, and positions, energies and forces of all parts."""
    arrays: dict[str, Any] = {"z": parts.train[0].z.numpy()}
    for name in ("train", "val", "test"):
        part = getattr(parts, name)
        energy, force = fields(part)
        pos = torch.cat([batch.pos for batch in MoleculeLoader(part, 4096)])
        shape = (len(energy), len(arrays["z"]), 3)
        arrays |= {f"E_{name}": energy.numpy(), f"F_{name}": force.view(shape).numpy()}
        arrays[f"R_{name}"] = pos.view(shape).numpy()
    return arrays
