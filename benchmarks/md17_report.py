"""The tables and the figure of MD17's results."""

import itertools
import statistics
from typing import Any

from rows import exponent, made_by

MOLECULES = (
    "benzene",
    "toluene",
    "malonaldehyde",
    "salicylic acid",
    "aspirin",
    "ethanol",
    "uracil",
    "naphthalene",
)
Errors = tuple[float | None, float | None]
# Typed in from the paper, Table 2, by what was learned from how many frames: test MAE of energies
# in kcal/mol and of forces in kcal/mol/Ang, in the order of the molecules. Only those of SchNet
# that learned forces too were compared with a second source (of 50,000 frames the errors of forces,
# and benzene not).
PUBLISHED: dict[tuple[str, int], dict[str, tuple[Errors, ...]]] = {
    ("energies", 1_000): {
        "SchNet": (
            *((1.19, 14.12), (2.95, 22.31), (2.03, 20.41), (3.27, 23.21)),
            *((4.20, 23.54), (0.93, 6.56), (2.26, 20.08), (3.58, 25.36)),
        ),
    },
    ("forces", 1_000): {
        "SchNet": (
            *((0.08, 0.31), (0.12, 0.57), (0.13, 0.66), (0.20, 0.85)),
            *((0.37, 1.35), (0.08, 0.39), (0.14, 0.56), (0.16, 0.58)),
        ),
        "GDML": (
            *((0.07, 0.23), (0.12, 0.24), (0.16, 0.80), (0.12, 0.28)),
            *((0.27, 0.99), (0.15, 0.79), (0.11, 0.24), (0.12, 0.23)),
        ),
    },
    ("energies", 50_000): {
        "SchNet": (
            *((0.08, 1.23), (0.16, 1.79), (0.13, 1.51), (0.25, 3.72)),
            *((0.25, 7.36), (0.07, 0.76), (0.13, 3.28), (0.20, 2.58)),
        ),
        "DTNN": (
            *((0.04, None), (0.18, None), (0.19, None), (0.41, None)),
            *((None, None), (None, None), (None, None), (None, None)),
        ),
    },
    ("forces", 50_000): {
        "SchNet": (
            *((0.07, 0.17), (0.09, 0.09), (0.08, 0.08), (0.10, 0.19)),
            *((0.12, 0.33), (0.05, 0.05), (0.10, 0.11), (0.11, 0.11)),
        ),
    },
}
# The number of frames of the published trajectories.
TRAJECTORY = {
    "aspirin": 211_762,
    "benzene": 627_983,
    "ethanol": 555_092,
    "malonaldehyde": 993_237,
    "naphthalene": 326_250,
    "salicylic acid": 320_231,
    "toluene": 442_790,
    "uracil": 133_770,
}
NAMES = {
    "paper": "SchNet, `paper`",
    "fast": "SchNet, `fast`",
    "dtnn": "DTNN",
    "gdml": "GDML",
    "sgdml": "sGDML",
}
_COLUMNS = {"energies": ("paper", "fast", "dtnn"), "forces": ("paper", "fast", "gdml", "sgdml")}
_TASKS = {"energies": "Energies alone", "forces": "Energies + forces"}
# Frames that official splits leave to train on, beside those that validate.
_OFFICIAL = 950
# A kernel matrix of more has no place anywhere.
_MOST_OF_KERNELS = 5_000
_INTRODUCTION = [
    "Learned from N frames of a trajectory, energies alone or with forces. Test MAE of energies in",
    "kcal/mol / of components of forces in kcal/mol/A. Columns in *italics* are published, typed",
    "in from Table 2 of Schütt et al. (2017): tested on the rest of the whole trajectory, trained",
    "for up to millions of steps; only those of SchNet that learned forces too were compared with",
    "a second source. SchNet is the network of the paper, `paper` trained by its protocol (Adam",
    "1e-3, batches of 32), `fast` and DTNN by our preset. GDML and sGDML learn",
    "forces alone, by the package sgdml; their energies are the integral. The mean predictor says",
    "the mean energy, and the mean force of each atom. Of several budgets the longest is shown,",
    "the mean where it was run several times; all are listed below.",
]


def as_markdown(results: dict) -> str:
    """A table of the molecules for each task, number of frames and set of labels; then all runs."""
    rows: dict[str, dict] = results["rows"]
    lines = ["# MD17", "", *_INTRODUCTION]
    expected = {("original", False, task, number) for task, number in PUBLISHED}
    expected |= {("revised", True, task, _OFFICIAL) for task in _TASKS}
    for section in sorted({_section(row) for row in rows.values()} | expected, key=_order):
        of = [row for row in rows.values() if _section(row) == section]
        lines += ["", _heading(section), ""]
        lines += _table(section, of, list(MOLECULES) if section in expected else [])
    networks = {name: row for name, row in rows.items() if "budget" in row}
    kernels = {name: row for name, row in rows.items() if "budget" not in row}
    if networks:
        lines += ["", "## Networks", "", *_networks(networks)]
    if kernels:
        lines += ["", "## Kernels", "", *_kernels(kernels)]
    if rows:
        lines += ["", "## Frames", "", *_frames(rows), "", "## Made by", "", *made_by(rows)]
    return "\n".join(lines) + "\n"


Section = tuple[str, bool, str, int]


def _section(row: dict) -> Section:
    return row["labels"], row["split"] is not None, row["task"], row["num_train"]


def _order(section: Section) -> tuple:
    labels, official, task, number = section
    return labels, official, number, task


def _heading(section: Section) -> str:
    labels, official, task, number = section
    split = ", official splits" if official else ""
    return f"## {_TASKS[task]}, N = {number:,}" + (
        "" if labels == "original" else f", {labels} labels{split}"
    )


def _table(section: Section, rows: list[dict], molecules: list[str]) -> list[str]:
    """The molecules by what was published and what was run."""
    labels, _, task, number = section
    published = PUBLISHED.get((task, number), {}) if labels == "original" else {}
    columns = [
        name
        for name in _COLUMNS[task]
        if name not in ("gdml", "sgdml")
        or number <= _MOST_OF_KERNELS
        or any(row["name"] == name for row in rows)
    ]
    heads = ["", "mean predictor", *(f"*{name}, published*" for name in published)]
    heads += [NAMES[name] for name in columns]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    found = {row["molecule"] for row in rows}
    for molecule in molecules or sorted(found):
        of = [row for row in rows if row["molecule"] == molecule]
        means = [row["mean_predictor"] for row in of if row["mean_predictor"]]
        cells = [molecule, _pair(means[0]["energy_mae"], means[0]["force_mae"], 2) if means else ""]
        for errors in published.values():
            cells.append(_published(errors[MOLECULES.index(molecule)]))
        cells += [_cell([row for row in of if row["name"] == name]) for name in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _published(errors: Errors) -> str:
    energy, force = errors
    if energy is None:
        return ""
    return f"*{energy:.2f}*" if force is None else f"*{energy:.2f}* / *{force:.2f}*"


def _pair(energy: float, force: float, digits: int = 3, mark: str = "") -> str:
    return f"{mark}{energy:.{digits}f}{mark} / {mark}{force:.{digits}f}{mark}"


def _cell(rows: list[dict]) -> str:
    """Errors of the longest runs, or why there are none."""
    done = [row for row in rows if "test" in row]
    if not done:
        return rows[-1]["failure"] if rows else "not run"
    longest = max(done, key=lambda row: row["seconds"])
    same = [row for row in done if row.get("budget") == longest.get("budget")]
    energy, force = (
        statistics.fmean(row["test"][error] for row in same)
        for error in ("energy_mae", "force_mae")
    )
    text = _pair(energy, force, mark="**")
    if _reduced(longest):
        text += f" (N = {longest['kernel']['frames']:,})"
    return text + (f" ({len(same)} runs)" if len(same) > 1 else "")


def _reduced(row: dict) -> bool:
    """Whether a kernel model had to do with fewer frames."""
    return "kernel" in row and row["kernel"]["frames"] < row["num_train"]


def _networks(rows: dict[str, dict]) -> list[str]:
    """All runs of networks, in the order of the molecules."""
    lines = [
        "The last column is the power of the steps by which the validation error (of forces where",
        "they are learned) fell over the second half of the run, which tells what more time would",
        "give where the learning rate is as good as constant. Times are by the clock, which does",
        "not stop for other programs. Presets change: what a run had is in the second column.",
        "",
        "| | loss, weight of energies, rate, batch, clip ratio | parameters | steps | time "
        "| threads | energy, kcal/mol | forces, kcal/mol/A | slope |",
        "|" + "---|" * 9,
    ]
    for name, row in _by_molecule(rows):
        if "test" not in row:
            lines.append(f"| {name} | | | | | | {row['failure']} | | |")
            continue
        power = exponent(row["curve"], "force_mae" if row["task"] == "forces" else "energy_mae")
        of = row["config"]
        settings = f"{of['loss']}, {of['energy_weight']:g}, {of['lr']:g}, {of['batch_size']}"
        settings += f", {of.get('clip_ratio', 0.0):g}"  # rows from before there was one have none
        cells = [name, settings, f"{row['parameters']:,}", f"{row['step']:,}"]
        cells += [f"{row['seconds'] / 60:.1f} min", str(row["threads"]), *_errors(row)]
        cells += ["" if power is None else f"steps^{power:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _kernels(rows: dict[str, dict]) -> list[str]:
    """All kernel models, with what was chosen."""
    lines = [
        "Closed form, in float64. The width sigma of the kernel has the least RMSE of forces of",
        "frames that validate, after training on a few; lambda is on the diagonal; permutations of",
        "atoms are found by the package. Where N frames have no place in memory fewer are trained",
        "on. Times of the choice and of training are those of the processor.",
        "",
        "| | frames | sigma (RMSE of forces by sigma) | lambda | permutations | choice | training "
        "| memory | threads | energy, kcal/mol | forces, kcal/mol/A |",
        "|" + "---|" * 11,
    ]
    for name, row in _by_molecule(rows):
        if "test" not in row:
            lines.append(f"| {name} | | | | | | | | | {row['failure']} | |")
            continue
        kernel = row["kernel"]
        tried = kernel["search"]["force_rmse"].items()
        found = ", ".join(f"{sigma}: {error:.3g}" for sigma, error in tried)
        few = f" ({kernel['limit_gib']:g} GiB allow no more)" if _reduced(row) else ""
        cells = [name, f"{kernel['frames']:,}{few}"]
        cells += [f"{kernel['sigma']:g} ({found}, from {kernel['search']['frames']:,})"]
        cells += [f"{kernel['lambda']:.0e}", str(kernel["permutations"])]
        times = (part["processor_seconds"] / 60 for part in (kernel["search"], kernel))
        cells += [f"{minutes:.1f} min" for minutes in times]
        cells += [f"{kernel['memory_gib']:.1f} GiB", str(row["threads"]), *_errors(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _errors(row: dict) -> list[str]:
    return [f"**{row['test'][error]:.3f}**" for error in ("energy_mae", "force_mae")]


def _by_molecule(rows: dict[str, dict]) -> list[tuple[str, dict]]:
    methods = list(NAMES)

    def order(item: tuple[str, dict]) -> tuple:
        row = item[1]
        place = (MOLECULES.index(row["molecule"]), row["labels"], row["task"] == "forces")
        return *place, row["num_train"], methods.index(row["name"]), row.get("seconds", 0)

    return sorted(rows.items(), key=order)


def _frames(rows: dict[str, dict]) -> list[str]:
    """What was split, per molecule."""
    lines: dict[str, None] = {}
    for row in rows.values():
        if "sizes" not in row:
            continue
        frames, molecule, sizes = row["frames"], row["molecule"], row["sizes"]
        labels = "" if row["labels"] == "original" else f", {row['labels']} labels"
        text = f"- {molecule}{labels}: {frames['number']:,} of the {TRAJECTORY[molecule]:,} frames"
        text += f" of the published trajectory (in order of time: numbers {frames['first']:,} to "
        text += f"{frames['last']:,}); {sizes['train']:,} to train on, {sizes['val']:,} to "
        text += f"validate, {sizes['test']:,} to test with, "
        text += "at random." if row["split"] is None else f"of official split {row['split']}."
        lines[text] = None
    return list(lines)


def draw(results: dict) -> Any:
    """Validation errors over steps, two panels for each molecule, four molecules in a row.

    Kernels are lines.
    """
    from matplotlib.figure import Figure

    rows = [row for row in results["rows"].values() if "test" in row]
    named = {(row["molecule"], row["labels"]) for row in rows}
    columns = sorted(named, key=lambda name: (name[1], MOLECULES.index(name[0])))
    width, deep = min(max(1, len(columns)), 4), -(-len(columns) // 4) or 1
    figure = Figure(figsize=(3.8 * width, 5.6 * deep), dpi=100, layout="constrained")
    panels = figure.subplots(2 * deep, width, squeeze=False)
    pairs = [(panels[2 * i, k], panels[2 * i + 1, k]) for i in range(deep) for k in range(width)]
    for top, bottom in pairs[len(columns) :]:
        top.remove()
        bottom.remove()
    for (molecule, labels), (top, bottom) in zip(columns, pairs):
        of = [row for row in rows if (row["molecule"], row["labels"]) == (molecule, labels)]
        for k, axes in ((1, top), (0, bottom)):
            _draw_errors(axes, of, ("energy_mae", "force_mae")[k])
            if labels == "original":
                errors = PUBLISHED["forces", 1_000]["SchNet"][MOLECULES.index(molecule)]
                label = "SchNet, N = 1,000, published, test"
                axes.axhline(errors[k], color="0.4", ls=":", label=label)
            axes.set(xscale="log", yscale="log", xlabel="steps")
            axes.set_ylabel(("energy, MAE, kcal/mol", "forces, MAE, kcal/mol/Å")[k])
            axes.grid(alpha=0.3, which="both")
        about = "" if labels == "original" else f", {labels}"
        top.set_title(f"{molecule}{about}")
        bottom.legend(fontsize=7, frameon=False)
    figure.suptitle("validation by steps; test: dots, kernels as lines")
    return figure


def _draw_errors(axes: Any, rows: list[dict], error: str) -> None:
    """Learning curves, test errors, and lines for kernels."""
    kinds = [(name, task) for name in NAMES for task in _TASKS]
    styles = {kind: itertools.cycle(("-", "--", "-.", ":")) for kind in kinds}
    for row in rows:
        kind = (row["name"], row["task"])
        color, style = f"C{kinds.index(kind)}", next(styles[kind])
        label = f"{NAMES[row['name']].replace('`', '')}, {row['task']}, N = {row['num_train']:,}"
        if "curve" not in row:
            axes.axhline(row["test"][error], color=color, ls=style, lw=1, label=label)
            continue
        label += f", {row['budget']}, seed {row['seed']}"
        steps = row["curve"]["step"]
        if error in row["curve"]:
            axes.plot(steps, row["curve"][error], style, label=label, color=color)
        axes.plot(steps[-1:], [row["test"][error]], "o", color=color)
