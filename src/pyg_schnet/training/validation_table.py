r"""A table of validations that grows line by line."""

from collections.abc import Iterable

from ..durations import duration

_HEADER_EVERY = 40  # lines, so that one is on the screen
# Column of the history, name for people, and what its unit is per; that of the label comes before.
_DERIVATIVES = (
    ("val_force_mae", "MAE forces", "/Ang"),
    ("val_stress_mae", "MAE stress", "/Ang^3"),
)


class ValidationTable:
    """Lines of a table, with a header now and then.

    Args:
        label: What is learnt, see :class:`TrainConfig`.
        units: Its unit, if known.
    """

    def __init__(self, label: str | int, units: str | None = None):
        self.name = f"MAE {label}" if isinstance(label, str) else f"MAE y[{label}]"
        self.units = units
        self._lines = 0

    def line(self, row: dict[str, float], left: float | None = None, best: bool = False) -> str:
        """The line of a row of the history, below a header where one is due.

        Args:
            row: One row from :func:`pyg_schnet.training.fit`.
            left: Seconds to the end of the run, if known.
            best: Whether no row before it was as good.
        """
        epoch = row["epoch"]
        cells = [  # header, unit, value, least width
            ("epoch", "", f"{epoch:.0f}" if epoch % 1 == 0 else f"{epoch:.2f}", 7),
            ("step", "", f"{row['step']:,}", 10),
            ("train loss", "", f"{row['train_loss']:.5g}", 12),
        ]
        cells += [
            (name, f"{self.units}{per}" if self.units else "", f"{row[column]:.5g}", 11)
            for column, name, per in (("val_mae", self.name, ""), *_DERIVATIVES)
            if column in row
        ]
        cells += [
            ("lr", "", f"{row['lr']:.2e}", 10),
            ("elapsed", "", duration(row["seconds"]), 12),
            ("left", "", "" if left is None else duration(left), 12),
        ]
        headers, units, values, least = zip(*cells)
        widths = [
            max(width, len(header) + 2, len(unit) + 2)
            for header, unit, width in zip(headers, units, least)
        ]
        lines = [_aligned(values, widths) + ("  best" if best else "")]
        if self._lines % _HEADER_EVERY == 0:
            lines = [_aligned(above, widths) for above in (headers, units) if any(above)] + lines
        self._lines += 1
        return "\n".join(line.rstrip() for line in lines)


def _aligned(cells: Iterable[str], widths: list[int]) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths))
