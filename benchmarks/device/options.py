"""What all benchmarks on a device share: their options, their deadline, where results go."""

import argparse
import time
from pathlib import Path
from typing import Any

from environment import environment

from pyg_schnet.training import TrainConfig

RESULTS = Path(__file__).parents[1] / "results"
#: A job is given up after so many seconds, compilation included.
PATIENCE = 150.0


def add_device_options(parser: argparse.ArgumentParser, what: str) -> None:
    """The options ``--device`` and ``--limit``."""
    parser.add_argument("--device", choices=("cpu", "cuda"), help=what)
    parser.add_argument(
        "--limit",
        type=duration,
        default="30m",
        help="on a device: begin nothing after so long (default: %(default)s)",
    )


def duration(text: str) -> str:
    """A time such as ``"8m"``, as it was given."""
    try:
        seconds_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"a time such as 90s or 8m (got '{text}')") from error
    return text


def seconds_of(text: str) -> float:
    """A time such as ``"8m"`` in seconds."""
    return TrainConfig(max_time=text).time_limit


def check_device(device: str) -> None:
    """Refuses a GPU that is none.

    Raises:
        SystemExit: If PyTorch finds no GPU.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "--device cuda: PyTorch finds no GPU here; --device cpu runs the same code"
        )


def begin(args: argparse.Namespace, command: str) -> tuple[dict[str, Any], float]:
    """The head of a file of results, and the deadline by ``time.monotonic``."""
    check_device(args.device)
    results = {"environment": environment(args.device), "device": args.device}
    results |= {"command": command, "seed": args.seed}
    return results, time.monotonic() + seconds_of(args.limit)


def share_of(deadline: float, weights: list[float]) -> float:
    """The deadline of the first of things that share out what is left of the time."""
    now = time.monotonic()
    return now + max(deadline - now, 0.0) * weights[0] / sum(weights)


def device_file(args: argparse.Namespace, suite: str) -> Path | None:
    """Where results go: beside the others, with the device in their name; quick ones nowhere."""
    return args.json or (None if args.quick else RESULTS / f"{suite}_{args.device}.json")
