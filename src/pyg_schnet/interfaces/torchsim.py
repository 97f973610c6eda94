r"""A model for `TorchSim <https://arxiv.org/abs/2508.06628>`_, for many systems at once."""

import copy
import math
from typing import Any

import torch
from torch import Tensor

try:
    from torch_sim.models.interface import ModelInterface
    from torch_sim.state import SimState
except ImportError as error:
    raise ImportError(
        "this needs the package torch-sim-atomistic: pip install pyg-schnet[torchsim]"
    ) from error

from ..data.units import convert
from ..graph import NeighborList
from ..nn import SchNet, inference
from ..nn.contacts import Contacts, Domain
from ..nn.system import System
from ..nn.unpack import plain
from .models import SMALL, check_target, energy_unit, freeze_for_dynamics, takes_edges


class SchNetModel(ModelInterface):
    r"""Energies, forces and stress of a trained model for all systems of a TorchSim state.

    Results are in the units of TorchSim, and in ``dtype``:

    - ``"energy"``: ``[B]``, in eV
    - ``"forces"``: ``[N, 3]``, in eV/Ang
    - ``"stress"``: ``[B, 3, 3]``, in eV/Ang^3, positive under tension; where nothing is periodic
      there is no such thing, and all of it is NaN

    Weights keep their own dtype, in which the network is evaluated. The default ``dtype`` of
    positions and results is double precision, since in single precision the energies of molecules
    are rounded to 1e-4 eV and more.

    Args:
        model: A model that predicts energies. It is copied, and may be trained on.
        device: Where to compute; where the model is if ``None``.
        dtype: Of positions and results, ``torch.float64`` or ``torch.float32``.
        compute_forces: Whether to compute forces.
        compute_stress: Whether to compute stress.
        units: Unit of the energies of the model, such as ``"kcal/mol"``, if it does not say.
        skin: How far beyond the cutoff to search neighbours of periodic and of large systems, in
            angstrom. They are searched again only when an atom has moved by more than half of it;
            0 searches in each step.
        domain: What to do about atoms closer than 0.9 of the closest in the training data (of a
            model that does not know these, than half the sum of covalent radii), see
            :class:`~pyg_schnet.nn.contacts.Contacts`, and about compositions that are no
            combination of those in it: ``"warn"`` (once; once of each composition), ``"raise"`` or
            ``"ignore"``. Whatever the model refuses is always an error.

    Raises:
        TypeError: If this is no model.
        ValueError: If the model does not predict energies, or its unit is unknown.

    >>> import torch_sim
    >>> from ase.build import molecule
    >>> model = SchNetModel(SchNet(32, 32, 2, units="kcal/mol"))
    >>> systems = [molecule("CH3CH2OH"), molecule("C6H6")]
    >>> results = model(torch_sim.initialize_state(systems, model.device, model.dtype))
    >>> results["energy"].shape, results["forces"].shape
    (torch.Size([2]), torch.Size([21, 3]))
    """

    def __init__(
        self,
        model: SchNet,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float64,
        compute_forces: bool = True,
        compute_stress: bool = False,
        units: str | None = None,
        skin: float = 1.0,
        domain: Domain = "warn",
    ):
        super().__init__()
        if not isinstance(model, SchNet):
            raise TypeError(f"expected a SchNet (got {type(model).__name__})")
        check_target(model)
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"'dtype' must be torch.float32 or torch.float64 (got {dtype})")
        if not 0 <= skin < math.inf:
            raise ValueError(f"'skin' must be finite and not negative (got {skin})")
        self._factor = convert(1.0, energy_unit(model, units, "SchNetModel"), "eV")
        self.model = copy.deepcopy(model).to(device).eval().requires_grad_(False)
        freeze_for_dynamics(self.model)
        self._contacts = Contacts([self.model], domain)
        self._dtype = dtype
        self._compute_forces = compute_forces
        self._compute_stress = compute_stress
        self._neighbors = None
        if skin > 0 and takes_edges(model):
            self._neighbors = NeighborList(model.cutoff, skin, exact=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are: ``to`` moves them."""
        return self.model.device

    @property
    def compute_forces(self) -> bool:
        """Whether to compute forces."""
        return self._compute_forces

    @compute_forces.setter
    def compute_forces(self, compute_forces: bool) -> None:
        self._compute_forces = compute_forces

    @property
    def compute_stress(self) -> bool:
        """Whether to compute stress."""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, compute_stress: bool) -> None:
        self._compute_stress = compute_stress

    @property
    def memory_scales_with(self) -> Any:
        """What TorchSim sizes batches by: atoms and their density, or without a cutoff, atoms."""
        return "n_atoms" if self.model.envelope == "none" else "n_atoms_x_density"

    @torch.inference_mode(False)  # whose tensors autograd refuses
    def forward(self, state: SimState, **kwargs: Any) -> dict[str, Tensor]:
        """Computes what is asked for of all systems of a state, which stays as it is.

        Args:
            state: Systems in angstrom, periodic or not.
            **kwargs: Not used; TorchSim passes them to all models.

        Returns:
            See the class.

        Raises:
            ValueError: If the state is of another dtype or device, or the model refuses a system,
                or with ``domain="raise"`` if atoms are too close or their composition unknown.
            FloatingPointError: If an energy or force is not finite.
        """
        for name in ("dtype", "device"):
            if getattr(state, name) != getattr(self, name):
                raise ValueError(
                    f"the state has {name} {getattr(state, name)}, the model "
                    f"{getattr(self, name)}: call 'state = state.to(model.device, model.dtype)'"
                )
        system = self._system_of(state)
        with_stress = self._compute_stress and system.cell is not None
        freeze_for_dynamics(self.model, anew=False)  # moving the model discards tables
        result = inference.predict(
            self.model, system, self._compute_forces, with_stress
        ) or inference.predict_by_autograd(self.model, system, self._compute_forces, with_stress)
        named = {"energy": result.output.squeeze(-1)}
        if self._compute_forces:
            assert result.forces is not None
            named["forces"] = result.forces
        for name, value in named.items():
            if not bool(value.isfinite().all()):
                raise FloatingPointError(
                    f"the model gives '{name}' that is not finite: its weights may be damaged, or "
                    "atoms too close together"
                )
        self._contacts.check(system)
        if self._compute_stress:
            nothing = state.cell.new_full(state.cell.shape, math.nan)
            named["stress"] = nothing if result.stress is None else result.stress
        return {name: (self._factor * value).to(self._dtype) for name, value in named.items()}

    def _system_of(self, state: SimState) -> System:
        z, pos = state.atomic_numbers.long(), plain(state.positions).detach()
        batch, num_systems = plain(state.system_idx), state.cell.size(0)
        periodic = torch.as_tensor(state.pbc, device=pos.device)  # of all systems, for TorchSim
        neighbors = self._neighbors
        if not bool(periodic.any()):
            found = None
            if neighbors is not None and len(pos) > SMALL * num_systems:
                found = neighbors(pos, batch)
            return System(z, pos, batch, found, batch_size=num_systems)
        cell = plain(state.row_vector_cell).detach()
        pbc = periodic.expand(num_systems, 3)
        edges: tuple[Tensor | None, Tensor | None] = (None, None)
        if neighbors is not None:
            edges = neighbors(pos, batch, cell, pbc)
        return System(z, pos, batch, *edges, cell, pbc, num_systems)
