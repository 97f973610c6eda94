"""The race on a device as tables and a figure."""

from collections.abc import Mapping
from typing import Any

from report import origin, timing
from roofline import Rates, Work

from device.jobs import TASKS

NAMES = {"ours": "pyg-schnet", "pyg": "PyG", "pyg_compiled": "PyG, torch.compile"}


def summarise(results: dict) -> None:
    """Adds what pyg-schnet gains over PyG, eager and compiled, and how near it is to the floor."""
    for entrants in results["steps"].values():
        entrants["speedup"] = _speedups(entrants)
    for system in results["systems"].values():
        system["speedup"] = {
            task: _speedups({name: tasks[task] for name, tasks in system.items()}) for task in TASKS
        }
    machine = results["machine"]
    if "copy_gb_per_s" not in machine:
        return
    rates = Rates(1e9 * machine["copy_gb_per_s"], 1e9 * machine["product_gflop_per_s"])
    for entrants in results["steps"].values():
        _reached(entrants.get("ours", {}), rates)
    for system in results["systems"].values():
        for values in system.get("ours", {}).values():
            _reached(values, rates)
    for found in results["kernels"].values():
        for values in found.get("kernels", {}).values():
            values["work"] = {"all": values["work"]}
            _reached(values, rates)


def _speedups(entrants: Mapping[str, dict]) -> dict[str, float]:
    """How many times longer PyG takes, as it is and compiled, with its best loader."""
    if "median_ms" not in entrants.get("ours", {}):
        return {}
    found: dict[str, float] = {}
    for name, values in entrants.items():
        kind = name.split(",")[0]
        if kind in ("pyg", "pyg_compiled") and "median_ms" in values:
            ratio = values["median_ms"] / entrants["ours"]["median_ms"]
            found[kind] = min(ratio, found.get(kind, ratio))
    return found


def _reached(values: dict, rates: Rates) -> None:
    """Shares of the rates of the device that a call reaches, and of its floor."""
    if "work" not in values or "median_ms" not in values:
        return
    work, seconds = Work(**values["work"]["all"]), 1e-3 * values["median_ms"]
    if work.flops == 0:  # a kernel that is not counted
        return
    values["reached"] = {
        "floor_ms": 1e3 * rates.floor(work),
        "of_copy": work.bytes / seconds / rates.copy,
        "of_product": work.flops / seconds / rates.product,
        "of_floor": rates.floor(work) / seconds,
    }


def as_markdown(results: dict) -> str:
    """Tables of training steps, of single calls, and of the primitives."""
    lines = [f"# Speed on {results['device']}", ""]
    lines += [origin(results), ""]
    machine = results["machine"]
    if "copy_gb_per_s" in machine:
        lines += [
            f"A copy moves {machine['copy_gb_per_s']:,.0f} GB/s (read and written), a matrix "
            f"product in float32 (no TF32) does {machine['product_gflop_per_s']:,.0f} GFLOP/s.",
            "",
        ]
    lines += _steps(results["steps"])
    lines += [
        "## Single calls, on inputs that lie ready on the device",
        "",
        "Median milliseconds [quartiles] by CUDA events around each call, the host waiting once",
        "behind the last; the L2 cache is not flushed. MB of memory at the peak beyond model and",
        "inputs. A step includes Adam (fused), and is not captured: that is what a loop of one's",
        "own takes. Compilation is not counted.",
        "",
    ]
    for name, system in results["systems"].items():
        lines += [f"### {name}", "", *_calls(system), ""]
    for system, found in results["kernels"].items():
        lines += _kernels(system, found)
    return "\n".join(lines).rstrip() + "\n"


def _steps(steps: dict) -> list[str]:
    lines = [
        "## Training steps of the network of the paper, loader included",
        "",
        "Milliseconds per step over whole epochs of molecules of QM9, forces being random: of",
        "`fit` on packed batches, with validation and moving average, and of PyG with `DataLoader`",
        "(its best number of workers) and all pairs found on the device. *Floor*: what the bytes",
        "and operations of our step take at the rates above, and the share of the step that is.",
        "",
        "| | pyg-schnet | PyG | PyG, torch.compile | PyG / ours | compiled / ours | floor |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, entrants in steps.items():
        cells = [_best(entrants, kind) for kind in NAMES]
        ratios = [entrants["speedup"].get(kind) for kind in ("pyg", "pyg_compiled")]
        cells += ["" if ratio is None else f"**{ratio:.1f}x**" for ratio in ratios]
        lines.append("| " + " | ".join([case, *cells, _floor(entrants.get("ours", {}))]) + " |")
    said = {w for entrants in steps.values() for w in entrants.get("ours", {}).get("warnings", [])}
    return [*lines, "", *[f"Warned: {warning}" for warning in sorted(said)], ""]


def _best(entrants: dict, kind: str) -> str:
    known = {name: values for name, values in entrants.items() if name.split(",")[0] == kind}
    timed = [(values["median_ms"], name) for name, values in known.items() if "median_ms" in values]
    if not timed:
        return next((values["failure"] for values in known.values()), "")
    _, name = min(timed)
    return timing(known[name]) + name.removeprefix(kind)


def _floor(values: dict) -> str:
    if "reached" not in values:
        return ""
    reached = values["reached"]
    return f"{reached['floor_ms']:.2g} ms, {reached['of_floor']:.0%}"


def _calls(system: dict) -> list[str]:
    lines = ["| | " + " | ".join(TASKS) + " |", "|---|" + "---|" * len(TASKS)]
    for kind, name in NAMES.items():
        if kind in system:
            cells = [_call(system[kind][task]) for task in TASKS]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for kind in ("pyg", "pyg_compiled"):
        ratios = [system["speedup"][task].get(kind) for task in TASKS]
        if any(ratios):
            cells = ["" if ratio is None else f"**{ratio:.1f}x**" for ratio in ratios]
            lines.append(f"| {NAMES[kind]} / pyg-schnet | " + " | ".join(cells) + " |")
    if "ours" in system:
        cells = [_floor(system["ours"][task]) for task in TASKS]
        lines.append("| floor of pyg-schnet | " + " | ".join(cells) + " |")
    return lines


def _call(values: dict) -> str:
    if "median_ms" not in values:
        return values["failure"]
    return f"{timing(values)}, {values['memory_mb']:.0f} MB"


def _kernels(system: str, found: dict) -> list[str]:
    lines = [f"## The primitives on {system}", ""]
    if "failure" in found:
        return [*lines, f"{found['failure']}.", ""]
    sizes = ", ".join(f"{value:,} {key}" for key, value in found["sizes"].items())
    lines += [
        f"{sizes}. As a training step calls them; *loads* are of rows for each edge, mostly from",
        "caches, *bytes* and *operations* shares of the rates above.",
        "",
        "| | ms | GFLOP/s | loads, GB/s | bytes | operations | floor |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, values in found["kernels"].items():
        work, seconds = values["work"].get("all", values["work"]), 1e-3 * values["median_ms"]
        cells = [f"{values['median_ms']:.3g}", f"{1e-9 * work['flops'] / seconds:,.0f}"]
        cells.append(f"{1e-9 * work['loads'] / seconds:,.0f}")
        reached = values.get("reached")
        shares = ("of_copy", "of_product")
        cells += ["", ""] if reached is None else [f"{reached[share]:.0%}" for share in shares]
        lines.append(f"| {name} | " + " | ".join([*cells, _floor(values)]) + " |")
    return [*lines, ""]


def draw(results: dict) -> Any:
    """Bars of all training steps, and of each task on all systems."""
    from matplotlib.figure import Figure

    panels = {"training step, loader included": results["steps"]}
    for task in TASKS:
        panels[task] = {
            name: {kind: tasks[task] for kind, tasks in system.items()}
            for name, system in results["systems"].items()
        }
    figure = Figure(figsize=(14, 8), dpi=120, layout="constrained")
    for axes, (title, rows) in zip(figure.subplots(2, 3).flat, panels.items()):
        for k, (kind, name) in enumerate(NAMES.items()):
            heights = [_least(entrants, kind) for entrants in rows.values()]
            places = [i + 0.27 * (k - 1) for i in range(len(heights))]
            axes.bar(places, heights, 0.27, label=name, color=("C3", "C0", "C1")[k])
        names = [name.replace(", ", ",\n") for name in rows]
        axes.set_xticks(range(len(names)), names, fontsize=6)
        axes.set(title=title, ylabel="ms")
        if any(_least(entrants, kind) > 0 for entrants in rows.values() for kind in NAMES):
            axes.set_yscale("log")
        axes.grid(axis="y", alpha=0.3)
    figure.axes[-1].remove()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _least(entrants: dict, kind: str) -> float:
    times = [v.get("median_ms") for name, v in entrants.items() if name.split(",")[0] == kind]
    return min((time for time in times if time is not None), default=float("nan"))
