r"""All that a GPU is to show, by one command, in eight minutes: first that it is right.

    python benchmarks/run.py gpu --data qm9.npz --output results

1. ``tests``: ``pytest -m gpu``. Nothing else is run if one fails, but for ``--keep-going``; if
   they are not done in time, the rest is.
2. ``epoch``: whole epochs of ``fit`` on the molecules of ``--data``, or of the shipped sample.
3. ``speed``: training steps and single calls beside PyG, eager and compiled, and the primitives.
4. ``scaling``: energies and forces of up to a million atoms.
5. ``md``: dynamics of one molecule.

Each part is a process with a share of the time; what one leaves is shared out among the next. A
part that fails, or is not done in time, is told, and takes nothing from the others: results and
output of each are in files of their own, beside ``summary.md``, which compares them with targets.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from device.options import RESULTS, check_device, duration, seconds_of, share_of
from environment import commit, environment

from pyg_schnet.storage import write_atomically

SUMMARY = "all of it on a GPU in eight minutes: tests, epochs, speed, scaling, dynamics"
ROOT = Path(__file__).parents[1]
# Parts in their order, and how they share the time.
SHARES = {"tests": 0.30, "epoch": 0.17, "speed": 0.27, "scaling": 0.18, "md": 0.08}
# Of its time a part plans with so much; the rest is for the job in hand.
_PLANNED = 0.85
# Processes of the tests: their kernels are compiled for minutes.
_WORKERS = 8


@dataclass
class Done:
    """What came of a part.

    Attributes:
        status: ``"done"``, or what went wrong.
        seconds: How long it took.
    """

    status: str
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether it ended by itself, and not well."""
        return self.status.startswith("failed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this suite."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="(default: cuda)")
    parser.add_argument(
        "--limit", type=duration, default="8m", help="of the whole (default: %(default)s)"
    )
    parser.add_argument("--data", type=Path, help="QM9: npz with n_atoms [M], Z, R, U0")
    parser.add_argument(
        "--output", "--json", type=Path, help="folder for the results (default: results/gpu)"
    )
    parser.add_argument("--parts", nargs="+", choices=SHARES, default=list(SHARES), help="which")
    parser.add_argument("--keep-going", action="store_true", help="measure if tests fail, too")
    parser.add_argument("--quick", action="store_true", help="hardly any work, to test the command")


def run(args: argparse.Namespace) -> None:
    """Runs all parts, and tells what came of them."""
    check_device(args.device)
    output = (args.output or RESULTS / "gpu").resolve()
    output.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds_of(args.limit)
    parts = [name for name in SHARES if name in args.parts]
    done: dict[str, Done] = {}
    for k, name in enumerate(parts):
        (output / f"{name}.json").unlink(missing_ok=True)  # of an earlier run
        seconds = share_of(deadline, [SHARES[part] for part in parts[k:]]) - time.monotonic()
        if seconds < 1.0:
            done[name] = Done("not run: no time was left")
        elif "tests" in done and done["tests"].failed and not args.keep_going:
            done[name] = Done("not run: the tests failed")
        else:
            print(f"{name}: {seconds:.0f} s at most", flush=True)
            words = command_of(name, args, output, seconds)
            done[name] = run_part(words, output / f"{name}.log", seconds)
            print(f"{name}: {done[name].status}, {done[name].seconds:.0f} s", flush=True)
        write_summary(args, output, done)
    print("\n" + (output / "summary.md").read_text())
    if any(part.status != "done" for part in done.values()):
        raise SystemExit(f"not all is done: see the files *.log in '{output}'")


def command_of(name: str, args: argparse.Namespace, output: Path, seconds: float) -> list[str]:
    """The command of a part."""
    if name == "tests":
        return _tests(args)
    words = [sys.executable, str(ROOT / "benchmarks" / "run.py"), name, "--device", args.device]
    words += ["--json", str(output / f"{name}.json")]
    words += ["--quick"] if args.quick else []
    if name == "md":
        few = ("--molecules", "ethanol", "--steps", "400", "--rounds", "1", "--train-steps", "500")
        return words if args.quick else [*words, *few]
    words += ["--limit", f"{max(1, int(_PLANNED * seconds))}s"]
    if name == "epoch":
        return words if args.data is None else [*words, "--data", str(args.data.resolve())]
    return words if args.quick else [*words, "--seconds", "0.2"]


def _tests(args: argparse.Namespace) -> list[str]:
    """The tests that need a GPU; others are not even collected."""
    files = [
        str(path)
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "pytest.mark.gpu" in path.read_text()
    ]
    words = [sys.executable, "-m", "pytest", "-m", "gpu", "-ra", "-p", "no:cacheprovider"]
    if args.device == "cuda" and importlib.util.find_spec("xdist") is not None:
        words += ["-n", str(min(_WORKERS, os.cpu_count() or 1))]
    return [*words, *(files[:1] if args.quick else files)]


def run_part(words: list[str], log: Path, seconds: float) -> Done:
    """Runs a command with all its processes, and ends them when the time is up."""
    begin = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            words, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        )
        try:
            code = process.wait(seconds)
            status = "done" if code == 0 else f"failed with {code}{_last_line(log)}"
        except subprocess.TimeoutExpired:
            status = "not finished: no time was left"
        finally:
            _end(process)
    return Done(status, time.monotonic() - begin)


def _end(process: subprocess.Popen) -> None:
    """Ends a process and what it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1][:150]}" if lines else ""


def write_summary(args: argparse.Namespace, output: Path, done: dict[str, Done]) -> None:
    """Writes what came of the parts so far, and how it compares with the targets."""
    found = targets(output)
    about = environment(args.device) | {"commit": commit()}
    content = {"environment": about, "device": args.device, "targets": found}
    content["parts"] = {name: asdict(part) for name, part in done.items()}
    write_atomically(output / "summary.json", (json.dumps(content, indent=1) + "\n").encode())
    lines = [f"# All of it on {args.device}", ""]
    lines += [", ".join(f"{key} {value}" for key, value in about.items()) + ".", ""]
    lines += ["| part | | seconds |", "|---|---|---|"]
    lines += [f"| {name} | {part.status} | {part.seconds:.0f} |" for name, part in done.items()]
    lines += ["", "| | measured | target | |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in found]
    lines += [
        "",
        "QM9 U0 within ten minutes takes ten minutes: `run.py qm9 --device cuda --rows schnet-fast",
        "--budget 10m`.",
    ]
    write_atomically(output / "summary.md", ("\n".join(lines) + "\n").encode())


def targets(output: Path) -> list[list[str]]:
    """Rows of what was measured, what was aimed at, and whether it was reached."""
    rows = []
    for case, entrants in _results(output, "speed").get("steps", {}).items():
        for kind, peer in (("pyg", "PyG"), ("pyg_compiled", "PyG, torch.compile")):
            ratio = entrants["speedup"].get(kind)
            aim = 20.0 if kind == "pyg" else None
            rows.append(_row(f"step, {case}: {peer} / ours", ratio, "{:.1f}x", aim))
    epoch = _results(output, "epoch")
    for case, entrants in epoch.get("steps", {}).items():
        values = entrants["ours"]
        number = values.get("molecules", 0)
        aim = 1.5 if number == 110_462 else None
        what = f"epoch of {number:,} molecules, {case}"
        rows.append(_row(what, values.get("epoch_s"), "{:.3g} s", aim, least=False))
    for system in _results(output, "scaling").get("systems", [])[-1:]:
        atoms, values = system["size"]["atoms"], system["entrants"].get("ours", {})
        rate = values.get("atom_steps_per_s")
        aim = 5e6 if atoms > 900_000 else None
        rows.append(_row(f"{atoms:,} atoms, atoms x steps/s", rate, "{:.3g}", aim))
    for molecule, entry in _results(output, "md").get("molecules", {}).items():
        rate = entry["contenders"]["loop"]["steps_per_second"]
        ratio = rate / entry["contenders"]["pyg"]["steps_per_second"]
        rows.append(_row(f"dynamics of {molecule}, steps/s", rate, f"{{:,.0f}} ({ratio:.1f}x PyG)"))
    return rows


def _results(output: Path, name: str) -> dict:
    path = output / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _row(
    what: str, value: float | None, form: str, aim: float | None = None, least: bool = True
) -> list[str]:
    if value is None:
        return [what, "not measured", "" if aim is None else form.format(aim), ""]
    if aim is None:
        return [what, form.format(value), "", ""]
    reached = value >= aim if least else value <= aim
    bound = "at least" if least else "at most"
    return [what, form.format(value), f"{bound} {form.format(aim)}", "yes" if reached else "**no**"]
