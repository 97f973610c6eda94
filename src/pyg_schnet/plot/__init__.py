r"""Pictures of models and of their training.

Every function returns a matplotlib figure to show or to save, and touches no global state.
``docs/README.md`` shows an example of each.
"""

from .atoms import atom_energies
from .curves import learning_curve, parity
from .filters import filters
from .potential import chemical_potential, probe_energies
from .scan import bond_scan

__all__ = [
    "atom_energies",
    "bond_scan",
    "chemical_potential",
    "filters",
    "learning_curve",
    "parity",
    "probe_energies",
]
