"""The tables and the figure of QM9's results."""

from typing import Any

from qm9_data import PAPER, PAPER_2018
from rows import made_by

from pyg_schnet.data.units import convert

NAMES = {
    "schnet-paper": "SchNet, `paper`",
    "schnet-fast": "SchNet, `fast`",
    "dtnn": "DTNN",
    "enn-s2s": "enn-s2s",
    "enn-s2s-ens5": "enn-s2s, mean of 5",
    "mean": "mean predictor",
    "linear": "atom references",
}
_HEAD = "| | N | budget | steps | time | threads | parameters | test MAE |"


def as_markdown(results: dict) -> str:
    """U0 by size of the training set, then the other targets."""
    rows = list(results["rows"].values())
    lines = ["# QM9", ""]
    lines += [
        "Networks share loop, schedule, atom references and split; `paper` has the protocol of the",
        "paper (Adam 1e-3, batches of 32), all others our `fast` preset, enn-s2s with a learning",
        "rate of 1e-3. All know atomic numbers and positions, and no bonds. Rows in",
        "*italics* are published, typed in from Schütt et al., tables of 2017 (U0) and 2018 (other",
        "targets), trained for up to millions of steps. Sets to validate and to test with are the",
        "same for all N. An ensemble is what its five networks predict on average; its steps, time",
        "and parameters are theirs together.",
    ]
    datas = ["QM9", *sorted({row["data"] for row in rows if row["target"] == "U0"} - {"QM9"})]
    for data in datas:
        lines += ["", f"## U0 of {data}, kcal/mol", "", _HEAD, "|---" * 8 + "|"]
        lines += _of_energies([row for row in rows if (row["data"], row["target"]) == (data, "U0")])
        lines += _sizes([row for row in rows if (row["data"], row["target"]) == (data, "U0")])
    lines += ["", "## Targets", ""]
    lines += [
        "Extensive properties are sums, homo, lumo and gap means over atoms; mu and r2 have the",
        "readouts of a dipole moment and of a spatial extent. Published: trained on 110,000.",
        "",
        "| | unit | *published* | data | network | N | budget, seed | test MAE |",
        "|---" * 8 + "|",
    ]
    for target in PAPER_2018:
        of = [row for row in rows if row["target"] == target]
        if target == "U0":  # the others are above
            of = [row for row in of if row["name"].startswith("schnet")]
        lines += _of_target(target, of)
    if rows:
        lines += ["", "## Made by", "", *made_by(results["rows"])]
    return "\n".join(lines) + "\n"


def _of_energies(rows: list[dict]) -> list[str]:
    """One line per row, N by N; what has not been run says so."""
    whole = not rows or rows[0]["data"] == "QM9"
    sizes = sorted({row["num_train"] for row in rows} | (PAPER.keys() if whole else set()))
    lines = []
    for size in sizes:
        for name, error in (PAPER.get(size, {}) if whole else {}).items():
            lines.append(f"| *{name}, published* | {size:,} | | | | | | *{error:.2f}* |")
        for name, label in NAMES.items():
            done = [row for row in rows if (row["num_train"], row["name"]) == (size, name)]
            done.sort(key=lambda row: (row.get("seconds", 0), row.get("seed", 0)))
            lines += [_line(row) for row in done]
            if not done:
                lines.append(f"| {label} | {size:,} | | | | | | not run |")
    return lines


def _line(row: dict) -> str:
    label = NAMES[row["name"]] + (f", seed {row['seed']}" if "seed" in row else "")
    cells = [label, f"{row['num_train']:,}", row.get("budget", "")]
    if "failure" in row:
        cells += ["", "", "", f"{row['parameters']:,}", row["failure"]]
        return f"| {' | '.join(cells)} |"
    trained = "step" in row
    cells += [f"{row['step']:,}" if trained else ""]
    cells += [f"{row['seconds'] / 60:.1f} min" if trained else ""]
    cells += [str(row["threads"]) if trained else ""]
    cells += [f"{row['parameters']:,}", f"**{_error(row, 'kcal/mol')}**"]
    return f"| {' | '.join(cells)} |"


def _sizes(rows: list[dict]) -> list[str]:
    """What was split."""
    found: dict[str, None] = {}
    for row in rows:
        sizes = row["sizes"]
        text = f"Of {row['molecules']:,} molecules {sizes['val']:,} validate, {sizes['test']:,} "
        found[f"{text}test; split {row['split']}."] = None
    return ["", *found] if found else []


def _of_target(target: str, rows: list[dict]) -> list[str]:
    published, unit = PAPER_2018[target]
    start = f"| {target} | {unit} | *{published:g}* |"
    lines = []
    for row in sorted(rows, key=lambda row: (row["data"], row["num_train"])):
        run = f"{row['budget']}, {row['seed']}" if "seed" in row else ""
        error = row.get("failure") or f"**{_error(row, unit)}**"
        lines.append(
            f"{start} {row['data']} | {NAMES[row['name']]} | {row['num_train']:,} | {run} | "
            f"{error} |"
        )
    return lines or [f"{start} | | | | not run |"]


def _error(row: dict, unit: str) -> str:
    error = row["test"]["energy_mae"]
    if row["unit"] != unit:
        error = convert(error, row["unit"], unit)
    return f"{error:.3f}" if error < 100 else f"{error:,.1f}"


def draw(results: dict) -> Any:
    """Test errors of U0 by the size of the training set, one panel for each set of molecules."""
    from matplotlib.figure import Figure

    rows = [
        row
        for row in results["rows"].values()
        if row["target"] == "U0" and "failure" not in row and row["name"] != "mean"
    ]
    datas = ["QM9", *sorted({row["data"] for row in rows} - {"QM9"})]
    figure = Figure(figsize=(8 * len(datas), 5), dpi=120, layout="constrained")
    for axes, data in zip(figure.subplots(1, len(datas), squeeze=False)[0], datas):
        lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
        for row in rows:
            if row["data"] == data:
                point = (row["num_train"], row["test"]["energy_mae"])
                lines.setdefault((row["name"], row.get("budget", "")), []).append(point)
        for (name, budget), points in lines.items():
            label = NAMES[name].replace("`", "") + (f", {budget}" if budget else "")
            color = f"C{list(NAMES).index(name)}"
            axes.plot(*zip(*sorted(points)), "o-", label=label, color=color)
        if data == "QM9":
            for paper, mark in zip(("SchNet", "DTNN", "enn-s2s", "enn-s2s-ens5"), "xv+1"):
                points = [(size, of[paper]) for size, of in PAPER.items() if paper in of]
                label = f"{paper}, published"
                axes.plot(*zip(*points), f"{mark}--", label=label, color="0.5")
        axes.set(xscale="log", yscale="log", xlabel="molecules to train on", title=f"U0 of {data}")
        axes.set_ylabel("test MAE, kcal/mol")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
