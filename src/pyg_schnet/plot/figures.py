r"""What all pictures share."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, in inches."""
    # Without pyplot there is no global state and no window.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def in_units(units: str | None, space: str = " ") -> str:
    """A unit for the end of a label, in brackets, with the sign of angstrom for its name.

    >>> "force" + in_units("eV/Ang")
    'force [eV/Å]'
    """
    return f"{space}[{units.replace('Ang', 'Å')}]" if units else ""
