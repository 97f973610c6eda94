r"""SchNet: embedding, interaction blocks, readout."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from ..data.species import NUM_SPECIES
from . import checks, edges, files, inference
from .contacts import Contacts, Domain
from .conv import SchNetConv
from .described import Described
from .filters import GaussianFilter
from .interaction import InteractionBlock
from .portable import InteractionGraph, Portable
from .readout import AtomwiseReadout, DipoleReadout
from .system import CheckedSystem, System, check_system
from .unpack import unpack


class SchNet(Portable, Described):
    r"""The network of `"SchNet: A Continuous-filter Convolutional Neural Network for Modeling
    Quantum Interactions" <https://arxiv.org/abs/1706.08566>`_.

    1. Embed atomic numbers as features :math:`\mathbf{x}_i`.
    2. Refine them in interaction blocks,
       :math:`\mathbf{x}_i \leftarrow \mathbf{x}_i + \mathbf{v}_i`.
    3. Read out atom-wise contributions, and sum or average them over each molecule.

    The first twelve arguments are those of :class:`torch_geometric.nn.SchNet` in their order and
    with their defaults, except that neighbours are never dropped. :meth:`paper` builds the network
    of the paper.

    Args:
        hidden_channels: Size F of the atom features.
        num_filters: Number of filters.
        num_interactions: Number of interaction blocks.
        num_gaussians: Number of Gaussians that expand distances.
        cutoff: Range of the filters in angstrom. Atoms further apart do not interact. Without an
            envelope all pairs of a molecule interact, and one beyond the range is an error.
        interaction_graph: Function from positions and batch to ``edge_index`` and distances, in
            place of the radius graph.
        max_num_neighbors: ``None`` on purpose; a number drops neighbours, with a warning.
        readout: ``"add"`` for extensive, ``"mean"`` for intensive properties.
        dipole: Read out the magnitude of the dipole moment instead.
        mean: Mean of the target per atom; see :class:`~pyg_schnet.nn.Offsets`.
        std: Standard deviation of the target per atom.
        atomref: Reference of the target for each atomic number, ``[Z]`` or ``[Z, 1]``.
        gamma: Inverse squared width of the Gaussians; ``None`` follows their spacing.
        gaussian_range: First and last centre in angstrom; ``(0, cutoff)`` if ``None``.
        envelope: ``"cosine"``, ``"polynomial"`` or ``"none"``.
        num_activations: Activations in the filter network, 1 or 2.
        lin1_bias: Whether the dense layer before each convolution has a bias.
        filter: Makes the filter network of a block, in place of that on Gaussians, such as
            ``lambda: RadialFilter(num_filters, BesselBasis(16, cutoff), cutoff)``. ``cutoff`` and
            ``envelope`` then only choose the neighbours.
        head_activation: Activation in the readout, ``"ssp"`` or, as in SchNetPack 2, ``"silu"``.
        target: What the model predicts: ``"energy"`` by default, ``"dipole"`` with ``dipole``.
            Forces exist for ``"energy"`` only.
        units: Unit of the target, such as ``"eV"``; travels with the model.
        mode: How filters are evaluated, ``"auto"``, ``"exact"`` or ``"table"``, see
            :class:`SchNetConv`. Not part of ``config``: models of all modes have the same weights.

    Raises:
        ValueError: On settings that contradict each other.

    >>> SchNet(hidden_channels=64, num_filters=64, num_interactions=3)
    SchNet(hidden_channels=64, num_filters=64, num_interactions=3, num_gaussians=50, cutoff=10)
    """

    species: Tensor
    closest: Tensor
    unseen: Tensor

    def __init__(
        self,
        hidden_channels: int = 128,
        num_filters: int = 128,
        num_interactions: int = 6,
        num_gaussians: int = 50,
        cutoff: float = 10.0,
        interaction_graph: InteractionGraph | None = None,
        max_num_neighbors: int | None = None,
        readout: str = "add",
        dipole: bool = False,
        mean: float | Tensor | None = None,
        std: float | Tensor | None = None,
        atomref: Tensor | None = None,
        *,
        gamma: float | None = None,
        gaussian_range: tuple[float, float] | None = None,
        envelope: str = "cosine",
        num_activations: int = 1,
        lin1_bias: bool = False,
        filter: Callable[[], nn.Module] | None = None,
        head_activation: str = "ssp",
        target: str | None = None,
        units: str | None = None,
        mode: str = "auto",
    ):
        super().__init__()
        if dipole and not (mean is None and std is None and atomref is None):
            raise ValueError("a dipole moment has no 'mean', 'std' or 'atomref': leave them None")
        if target is None:
            target = "dipole" if dipole else "energy"
        elif dipole and target == "energy":
            raise ValueError("a model with 'dipole' does not predict energies: name another target")
        if hidden_channels < 2 or num_interactions < 0:
            raise ValueError(
                "expected 'hidden_channels' of at least 2 and 'num_interactions' of at least 0 "
                f"(got {hidden_channels} and {num_interactions})"
            )
        self.config = {
            "hidden_channels": hidden_channels,
            "num_filters": num_filters,
            "num_interactions": num_interactions,
            "num_gaussians": num_gaussians,
            "cutoff": float(cutoff),
            "max_num_neighbors": max_num_neighbors,
            "readout": readout,
            "dipole": dipole,
            "gamma": gamma,
            "gaussian_range": None if gaussian_range is None else list(gaussian_range),
            "envelope": envelope,
            "num_activations": num_activations,
            "lin1_bias": lin1_bias,
            "head_activation": head_activation,
            "target": target,
            "units": units,
        }
        self.interaction_graph = interaction_graph
        self.embedding = nn.Embedding(NUM_SPECIES, hidden_channels, padding_idx=0)
        if filter is None:
            filter = partial(
                GaussianFilter,
                *(num_filters, num_gaussians, cutoff),
                gamma=gamma,
                gaussian_range=gaussian_range,
                envelope=envelope,
                num_activations=num_activations,
            )
        self.interactions = nn.ModuleList(
            InteractionBlock(hidden_channels, filter(), num_filters, lin1_bias, mode)
            for _ in range(num_interactions)
        )
        checks.check_filters([conv.filter for conv in self._convs], cutoff, envelope)
        self.readout: AtomwiseReadout | DipoleReadout
        if dipole:
            self.readout = DipoleReadout(hidden_channels, head_activation)
        else:
            self.readout = AtomwiseReadout(
                hidden_channels, readout, mean, std, atomref, head_activation
            )
        # Atomic numbers the model knows; training narrows it to what it has seen.
        self.register_buffer("species", torch.ones(NUM_SPECIES, dtype=torch.bool))
        # Closest distances of two species in the training data; infinite where nobody knows any.
        closest = torch.full((NUM_SPECIES, NUM_SPECIES), math.inf)
        self.register_buffer("closest", closest)
        # Projector onto the compositions that training tells nothing about; zero if nobody knows.
        self.register_buffer("unseen", torch.zeros(NUM_SPECIES, NUM_SPECIES, dtype=torch.float32))
        #: Whether to refuse others; ``evaluate`` does not, since it measures the error.
        self.refuse_unknown_species = True

    @classmethod
    def paper(cls, **overrides: Any) -> "SchNet":
        r"""The network of the NeurIPS 2017 paper.

        64 features and filters, 3 interaction blocks, 300 Gaussians from 0 to 29.9 A with
        :math:`\gamma = 10` per square angstrom, two activations in the filter network, a bias in
        every dense layer, no envelope: all pairs of atoms interact.

        Args:
            **overrides: Arguments of :class:`SchNet` to change. A shorter ``cutoff`` wants an
                ``envelope`` too, since without one all pairs must be within it.
        """
        settings: dict[str, Any] = {
            "hidden_channels": 64,
            "num_filters": 64,
            "num_interactions": 3,
            "num_gaussians": 300,
            "cutoff": 30.0,
            "gamma": 10.0,
            "gaussian_range": (0.0, 29.9),
            "envelope": "none",
            "num_activations": 2,
            "lin1_bias": True,
        }
        return cls(**(settings | overrides))

    def freeze(self) -> "SchNet":
        """Computes the tables of all filters once, so that predictions need no filter network.

        Training mode, loading weights and moving the model thaw it; see :meth:`SchNetConv.freeze`.

        Returns:
            The model, in evaluation mode.
        """
        self.eval()
        with torch.inference_mode(False):
            for conv in self._convs:
                conv.freeze()
            if self._convs:
                finest = max((conv.frozen_knots for conv in self._convs), key=lambda k: k.intervals)
                for conv in self._convs:  # on the same knots, blocks share what they need of edges
                    if conv.frozen_knots != finest:
                        conv.freeze(finest)
        return self

    @property
    def mode(self) -> str:
        """How filters are evaluated, see :class:`SchNetConv`."""
        return self._convs[0].mode if self._convs else "auto"

    @mode.setter
    def mode(self, mode: str) -> None:
        for conv in self._convs:
            conv.thaw()
            conv.mode = mode

    @property
    def _convs(self) -> list[SchNetConv]:
        return [block.conv for block in self.interactions]  # type: ignore[misc]

    def reset_parameters(self) -> None:
        """Draws new weights; offsets and what is known of the training data stay."""
        self.embedding.reset_parameters()
        for interaction in self.interactions:
            interaction.reset_parameters()  # type: ignore[operator] # modules are untyped in lists
        self.readout.reset_parameters()

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        edge_index: Tensor | None = None,
        edge_shift: Tensor | None = None,
        cell: Tensor | None = None,
        pbc: Tensor | bool | None = None,
        *,
        batch_size: int | None = None,
    ) -> Tensor:
        r"""Predicts the target.

        Args:
            z: Atomic numbers ``[N]``, 1 to 100; 0 marks padding, which contributes nothing.
            pos: Positions ``[N, D]`` in angstrom.
            batch: Molecule of each atom ``[N]``, sorted; one molecule if ``None``.
            edge_index: Edges ``[2, E]``, to skip the neighbour search.
            edge_shift: Lattice vectors by which the source of each edge is displaced, ``[E, 3]``;
                comes with the edges of periodic systems, see :func:`pyg_schnet.radius_graph`.
            cell: Lattice vectors in rows, ``[B, 3, 3]`` or ``[3, 3]``, in angstrom.
            pbc: Along which of them systems repeat: a bool, ``[3]`` or ``[B, 3]``; all if ``None``.
            batch_size: Number B of molecules, needed where the last ones have no atoms.

        Returns:
            ``[B, 1]`` in float64, in ``self.units``; of a periodic system, for one cell.

        Raises:
            ValueError: On positions that are not finite, coincident atoms, unknown atomic numbers,
                unsorted batches, cells without volume, and distances beyond the range of filters
                without envelope, to which periodic systems belong.
        """
        system = System(z, pos, batch, edge_index, edge_shift, cell, pbc, batch_size)
        return self._evaluate(system)[0]

    def features(self, data: Data) -> Tensor:
        r"""Learned features of the atoms, with gradients: for heads of your own.

        Args:
            data: See :meth:`predict`, whose ``"features"`` have the same values but no gradients.

        Returns:
            ``[N, hidden_channels]``.

        >>> model = SchNet(16, 16, 2, cutoff=5.0)
        >>> water = Data(z=torch.tensor([8, 1, 1]), pos=torch.eye(3))
        >>> head = torch.nn.Linear(16, 3)
        >>> head(model.features(water)).sum().backward()
        """
        return self._features(check_system(self, unpack(self, data)))

    def predict(
        self,
        data: Data,
        forces: bool = True,
        *,
        stress: bool = False,
        energies: bool = False,
        features: bool = False,
        domain: Domain = "ignore",
    ) -> dict[str, Tensor]:
        r"""Predicts the target, and forces if it is an energy.

        Works under ``torch.no_grad`` and ``torch.inference_mode`` too, and leaves ``data`` as it
        is. Edges in ``data`` are used if they come with distances, as
        :class:`~pyg_schnet.RadiusGraph` stores them (a bare ``edge_index`` may be bonds), unless
        the model has an ``interaction_graph``.

        Args:
            data: A molecule, a periodic system with ``cell`` and ``pbc``, or a batch, with ``z``
                and ``pos``.
            forces: Whether to compute forces; other targets than the energy have none.
            stress: Whether to compute the stress, for which all systems need a cell.
            energies: Whether to return the atom-wise contributions.
            features: Whether to return the learned atom features.
            domain: What to do about atoms closer than 0.9 of the closest in the training data, and
                compositions that are no combination of those in it: ``"warn"``, ``"raise"`` or
                ``"ignore"``, see :class:`~pyg_schnet.nn.contacts.Contacts` and
                :class:`~pyg_schnet.nn.compositions.Compositions`. It takes about as long as half a
                prediction of a small molecule; calculators and ``pyg_schnet.predict`` do it anyway.

        Returns:
            A dictionary with

            - ``"energy"`` (or the name of another target): ``[B]``, float64, in ``self.units``
            - ``"forces"``: ``[N, D]``, in ``self.units`` per angstrom, dtype of ``pos``
            - ``"stress"``: ``[B, 3, 3]``, in ``self.units`` per cubic angstrom, dtype of ``pos``:
              the derivative of the energy by strain over the volume, positive under tension
            - ``"energies"``: ``[N]``, float64, the contributions of the atoms, whose sum (or
              mean) is the target; partial charges for a dipole moment
            - ``"features"``: ``[N, F]``

            None of these has gradients: those of :meth:`forward` and :meth:`features` have.

        Raises:
            ValueError: As :meth:`forward`, and with ``domain="raise"``.
        """
        with torch.inference_mode(False):
            system = unpack(self, data)
        contacts = Contacts([self], domain, keep=False)
        result = inference.named(self, system, forces, stress, energies, features)
        contacts.check(system, stacklevel=2)
        return result

    def _evaluate(self, system: System) -> tuple[Tensor, Tensor, Tensor]:
        """The target ``[B, 1]``, contributions of the atoms ``[N]`` and features ``[N, F]``."""
        checked = check_system(self, system)
        x = self._features(checked)
        z, pos, batch, batch_size, *_ = checked
        output, contributions = checks.check_read(self.readout(x, z, pos, batch, batch_size))
        return output, contributions, x

    def _features(self, checked: CheckedSystem) -> Tensor:
        edge_index, edge_weight = edges.measured(self, checked)
        x = self.embedding(checked.z)  # [N, F]
        edge_weight = edge_weight.to(x.dtype)
        plan = edges.prepared(self, x, edge_index, edge_weight)
        for interaction in self.interactions:
            x = x + interaction(x, plan, edge_weight)
        return x

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        # Files of earlier versions do not know how close the atoms of their training data came,
        # nor which compositions these had.
        state_dict.setdefault(f"{prefix}closest", torch.full_like(self.closest, math.inf))
        state_dict.setdefault(f"{prefix}unseen", torch.zeros_like(self.unseen))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SchNet":
        before = self.unseen
        super()._apply(fn, recurse)
        if self.unseen.dtype != before.dtype:  # in half precision everything would seem unseen
            self.unseen = before.to(self.unseen.device)
        return self

    def __repr__(self) -> str:
        shown = ("hidden_channels", "num_filters", "num_interactions", "num_gaussians", "cutoff")
        settings = [f"{name}={self.config[name]:g}" for name in shown]
        if other := files.other_filter(self):
            settings[3] = f"filter={other}"
        return f"{type(self).__name__}({', '.join(settings)})"
