"""Tables and figure of the race against peers."""

import textwrap
from typing import Any

from report import origin, timing

NAMES = {
    "ours": "pyg-schnet",
    "ours_exact": "pyg-schnet, exact",
    "pyg": "PyG",
    "schnetpack": "SchNetPack",
    "graph_pes": "graph-pes",
}


def as_markdown(results: dict) -> str:
    """One table of medians with quartiles for each system."""
    lines = ["# Speed", "", origin(results), ""]
    lines += [
        "Median milliseconds of a call [quartiles], and MB of memory beyond what the process had",
        "before; a training step includes Adam (fused, for all). Tuned: denormal numbers are",
        "flushed to zero, freed memory is kept. Then the ratio of the fastest tuned peer to tuned",
        "pyg-schnet [lowest and highest of the rounds], and the operations in its matrix products",
        "with the share of the time that these alone would take at the rate of `sgemm_gflops`;",
        "the rest is convolutions, activations and overhead.",
    ]
    for name, system in results["systems"].items():
        size = ", ".join(f"{value:,} {key}" for key, value in system["size"].items())
        tasks = list(next(iter(system["entrants"].values()))["tasks"])
        lines += ["", f"## {name}", "", f"{size}.", ""]
        lines += ["| | " + " | ".join(tasks) + " |", "|---|" + "---|" * len(tasks)]
        for entrant, entry in system["entrants"].items():
            cells = [_cell(entry["tasks"][task]) for task in tasks]
            lines.append(f"| {label(entrant, entry)} | " + " | ".join(cells) + " |")
        if system["speedup"]:
            ratios = [_ratio(system["speedup"][task]) for task in tasks]
            lines.append("| fastest peer / pyg-schnet | " + " | ".join(ratios) + " |")
        rate = results["environment"]["sgemm_gflops"]
        shares = [_share(system["entrants"]["ours, tuned"]["tasks"][task], rate) for task in tasks]
        lines.append("| matrix products of pyg-schnet | " + " | ".join(shares) + " |")
    return "\n".join(lines) + "\n"


def label(entrant: str, entry: dict) -> str:
    """Name and version of a contender."""
    name, *tuned = entrant.split(", ")
    about = entry["about"]
    return f"{NAMES[name]} {about['version']} (torch {about['torch']}){', tuned' if tuned else ''}"


def draw(results: dict) -> Any:
    """Bars of the medians of all tuned contenders, one panel for each task."""
    from matplotlib.figure import Figure

    systems = results["systems"]
    first = next(iter(systems.values()))["entrants"]
    entrants = [e for e in first if e.endswith(", tuned") and not e.startswith("ours_exact")]
    tasks = list(next(iter(first.values()))["tasks"])
    figure = Figure(figsize=(12, 7), dpi=120, layout="constrained")
    width = 0.8 / len(entrants)
    for axes, task in zip(figure.subplots(2, 2).flat, tasks):
        for k, entrant in enumerate(entrants):
            medians = [s["entrants"][entrant]["tasks"][task]["median_ms"] for s in systems.values()]
            places = [i + (k - len(entrants) / 2 + 0.5) * width for i in range(len(systems))]
            name = NAMES[entrant.split(", ")[0]]
            axes.bar(places, medians, width, label=name, color="C3" if k == 0 else f"C{k + 3}")
        for i, system in enumerate(systems.values()):
            if system["speedup"]:
                ours = system["entrants"]["ours, tuned"]["tasks"][task]["median_ms"]
                ratio = f"{system['speedup'][task]['median']:.1f}x"
                axes.annotate(ratio, (i - 0.3, ours), ha="center", va="bottom", fontsize=8)
        axes.set(title=task, yscale="log", ylabel="median, ms")
        names = ["\n".join(textwrap.wrap(name, 14)) for name in systems]
        axes.set_xticks(range(len(systems)), names, fontsize=7)
        axes.grid(axis="y", alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def _cell(values: dict) -> str:
    """Median, quartiles and memory."""
    return f"{timing(values)}, {values['memory_mb']:.0f} MB"


def _ratio(speedup: dict) -> str:
    low, high = min(speedup["rounds"]), max(speedup["rounds"])
    return f"**{speedup['median']:.1f}x** [{low:.1f}, {high:.1f}]"


def _share(values: dict, rate: float) -> str:
    gflop = values["product_gflop"]
    return f"{1e3 * gflop:.3g} MFLOP, {gflop / rate / (1e-3 * values['median_ms']):.0%}"
