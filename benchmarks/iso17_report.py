"""The tables and the figure of ISO17's results."""

from typing import Any

from rows import made_by

# Typed in from the paper, Table 3: test MAE of energies in kcal/mol and of forces in kcal/mol/Ang.
PAPER = {
    "within": {
        "mean predictor": (14.89, 19.56),
        "SchNet, energies": (0.52, 4.13),
        "SchNet, energies + forces": (0.36, 1.00),
    },
    "other": {
        "mean predictor": (15.54, 19.15),
        "SchNet, energies": (3.11, 5.71),
        "SchNet, energies + forces": (2.40, 2.18),
    },
}
_TASKS = {"energies": "energies", "forces": "energies + forces"}
_HEAD = (
    "| | N | budget | steps | time | threads | known: energy | known: forces | unknown: energy | "
    "unknown: forces |"
)


def as_markdown(results: dict) -> str:
    """A table for each set of data; that of ISO17 comes with the published numbers."""
    rows = list(results["rows"].values())
    lines = ["# ISO17", ""]
    lines += [
        "Test MAE of energies, kcal/mol, and of components of forces, kcal/mol/A, for unknown",
        "conformations of known molecules, and of unknown molecules. All rows are the network of",
        "the paper, `paper` trained by its protocol, `fast` by our preset. The mean predictor says",
        "the mean energy, and zero for forces. Rows in *italics* are published, typed in from",
        "Table 3 of Schütt et al. (2017): trained on all of ISO17 for up to millions of steps.",
    ]
    for data in ["ISO17", *sorted({row["data"] for row in rows} - {"ISO17"})]:
        of = [row for row in rows if row["data"] == data]
        lines += ["", f"## {data}", ""]
        if data != "ISO17":
            lines += [
                "The protocol of ISO17 repeated with GFN2-xTB in place of DFT: other labels, other",
                "isomers, fewer and shorter trajectories. Errors on it are not errors on ISO17.",
                "",
            ]
        lines += [_HEAD, "|---" * 10 + "|"]
        lines += _published() if data == "ISO17" else []
        lines += _lines(of) + _sizes(of)
    if rows:
        lines += ["", "## Made by", "", *made_by(results["rows"])]
    return "\n".join(lines) + "\n"


def _published() -> list[str]:
    lines = []
    for name, within in PAPER["within"].items():
        cells = [f"*{value:.2f}*" for value in (*within, *PAPER["other"][name])]
        lines.append(f"| *{name}, published* | | | | | | {' | '.join(cells)} |")
    return lines


def _lines(rows: list[dict]) -> list[str]:
    lines = []
    mean = sorted((row for row in rows if row["name"] == "mean"), key=lambda row: row["num_train"])
    lines += [_line(row, "mean predictor") for row in mean]
    if not mean:
        lines.append(_not_run("mean predictor"))
    for preset in ("paper", "fast"):
        for task, words in _TASKS.items():
            label = f"SchNet, {words}, `{preset}`"
            done = [row for row in rows if (row["name"], row["task"]) == (preset, task)]
            done.sort(key=lambda row: (row["num_train"], row.get("seconds", 0), row["seed"]))
            lines += [_line(row, f"{label}, seed {row['seed']}") for row in done]
            if not done:
                lines.append(_not_run(label))
    return lines


def _line(row: dict, label: str) -> str:
    cells = [label, f"{row['num_train']:,}", row.get("budget", "")]
    if "failure" in row:
        return f"| {' | '.join([*cells, '', '', '', row['failure'], '', '', ''])} |"
    if "step" in row:
        cells += [f"{row['step']:,}", f"{row['seconds'] / 60:.1f} min", str(row["threads"])]
    else:
        cells += ["", "", ""]
    for test in (row["test"], row["also"]["other"]):
        cells += [f"**{test['energy_mae']:.3f}**", f"**{test['force_mae']:.3f}**"]
    return f"| {' | '.join(cells)} |"


def _not_run(label: str) -> str:
    return f"| {label} | | | | | | {' | '.join(['not run'] * 4)} |"


def _sizes(rows: list[dict]) -> list[str]:
    """What was split."""
    found: dict[str, None] = {}
    for row in rows:
        sizes, molecules = row["sizes"], row["molecules"]
        text = f"{sizes['train']:,} conformations to train on and {sizes['val']:,} to validate"
        text += f" of {molecules[0]} known molecules" if molecules else ""
        text += f"; {sizes['test']:,} others of these and {sizes['other']:,}"
        text += f" of {molecules[1]} unknown ones" if molecules else " of unknown ones"
        text += " to test with; "
        text += "split as in the files." if row["split"] is None else f"split {row['split']}."
        found[text] = None
    return ["", *(f"- {text}" for text in found)] if found else []


def draw(results: dict) -> Any:
    """Test errors of known and unknown molecules, two panels for each set of data."""
    from matplotlib.figure import Figure

    rows = [row for row in results["rows"].values() if "failure" not in row]
    datas = sorted({row["data"] for row in rows})
    height = 1.5 * max(1, len(datas)) + 0.35 * len(rows)
    figure = Figure(figsize=(12, height), dpi=120, layout="constrained")
    if not rows:
        figure.text(0.5, 0.5, "no rows", ha="center")
        return figure
    panels = figure.subplots(len(datas), 2, squeeze=False, sharey="row")
    for line, data in zip(panels, datas):
        of = [row for row in rows if row["data"] == data]
        known, unknown = [row["test"] for row in of], [row["also"]["other"] for row in of]
        for axes, error, unit in zip(line, ("energy_mae", "force_mae"), ("", "/Å")):
            for tests, label, mark in ((known, "known", "oC0"), (unknown, "unknown", "sC3")):
                values = [test[error] for test in tests]
                axes.plot(values, range(len(of)), mark, label=f"{label} molecules")
            what = "forces" if unit else "energy"
            axes.set(title=data, xlabel=f"test MAE, {what}, kcal/mol{unit}", xscale="log")
            axes.grid(alpha=0.3, which="both")
        line[0].set_yticks(range(len(of)), [_name(row) for row in of], fontsize=8)
        line[0].invert_yaxis()
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure


def _name(row: dict) -> str:
    if row["name"] == "mean":
        return f"mean, N = {row['num_train']:,}"
    about = f"{row['name']}, {row['task']}, N = {row['num_train']:,}"
    return f"{about}, {row['budget']}, seed {row['seed']}"
