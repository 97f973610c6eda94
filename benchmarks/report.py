"""Results as JSON, Markdown and a figure, and what the tables of all suites share."""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def save_report(
    results: dict,
    path: Path | None,
    as_markdown: Callable[[dict], str],
    draw: Callable[[dict], Any],
) -> None:
    """Prints the tables; writes ``path``, and beside it ``.md`` and ``.png``, if one is given."""
    text = as_markdown(results)
    print(text)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
        path.with_suffix(".md").write_text(text)
        draw(results).savefig(path.with_suffix(".png"))
        print(f"written: {path}, {path.with_suffix('.md').name}, {path.with_suffix('.png').name}")


def origin(results: dict) -> str:
    """The line that tells where results come from."""
    about = ", ".join(f"{key} {value}" for key, value in results["environment"].items())
    return f"Made by `{results['command']}`, seed {results['seed']}. {about}."


def spread(times_ms: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles of some times."""
    low, median, high = quartiles(times_ms)
    return {"median_ms": median, "quartiles_ms": [low, high]}


def quartiles(values: Sequence[float]) -> list[float]:
    """The first, the second and the third, between the least and the greatest value."""
    return statistics.quantiles(values, method="inclusive") if len(values) > 1 else 3 * [*values]


def timing(values: dict, scale: float = 1.0, unit: str = "") -> str:
    """A cell of a table: the median and the quartiles of :func:`spread`, times ``scale``."""
    low, high = values["quartiles_ms"]
    head = f"{scale * values['median_ms']:.3g} {unit}".rstrip()
    return f"{head} [{scale * low:.3g}, {scale * high:.3g}]"
