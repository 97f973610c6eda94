r"""The harmonic approximation: Hessians, and the vibrations that follow from them."""

import copy
import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch_geometric.data import Data

from ..data.units import convert
from ..graph import num_molecules
from .ensemble import Ensemble
from .response import forces_from_energy
from .schnet import SchNet
from .system import System
from .unpack import unpack

# Values of a batch of second derivatives at a time, in numbers per edge and feature.
_CHUNK = 1 << 24
# Constants of CODATA 2018.
_CHARGE = 1.602176634e-19  # C
_ATOMIC_MASS = 1.66053906660e-27  # kg
_LIGHT = 299792458.0  # m/s
_PLANCK = 6.62607015e-34  # J s
# From the root of eV / angstrom^2 / u to wave numbers, and from these to eV.
_PER_CM = math.sqrt(_CHARGE * 1e20 / _ATOMIC_MASS) / (2.0 * math.pi * _LIGHT * 100.0)
_EV_PER_CM = _PLANCK * _LIGHT * 100.0 / _CHARGE
# Rotations with a smaller moment of inertia, in u angstrom^2, are none: the axis of a linear one.
_LEAST_INERTIA = 0.01
# Forces above which a structure is no minimum, in eV/angstrom.
_RELAXED = 0.05


def hessian(model: SchNet | Ensemble, data: Data) -> Tensor:
    r"""Second derivatives of the energy by the positions.

    .. math::
        H_{ia, jb} = \frac{\partial^2 E}{\partial r_{ia} \, \partial r_{jb}}

    They are exact: filters are evaluated without tables, in float64, by automatic differentiation
    of the forces. Whatever the precision of the model, a copy of it does the work.

    Args:
        model: A model that predicts energies, or an ensemble, whose mean energy is differentiated.
        data: One molecule, or one periodic system, whose images move with it.

    Returns:
        ``[3N, 3N]`` in float64, symmetric, in ``model.units`` per square angstrom; rows and columns
        are the components x, y, z of the first atom, then of the next.

    Raises:
        ValueError: If there is not exactly one molecule, or the model does not predict energies;
            and whatever :meth:`SchNet.predict` raises.

    >>> import torch
    >>> from pyg_schnet import SchNet
    >>> hydrogen = Data(z=torch.tensor([1, 1]), pos=torch.tensor([[0.0, 0, 0], [0, 0, 0.74]]))
    >>> hessian(SchNet(16, 16, 2), hydrogen).shape
    torch.Size([6, 6])
    """
    return _second_order(model, data)[1]


@dataclass(frozen=True)
class Vibrations:
    """Normal modes, from the lowest frequency to the highest.

    Attributes:
        frequencies: ``[M]`` in 1/cm, float64; a negative number stands for an imaginary one, along
            which the energy falls.
        modes: Displacements of the atoms ``[M, N, 3]``, each of length one.
    """

    frequencies: Tensor
    modes: Tensor

    @property
    def zero_point_energy(self) -> float:
        """Half the sum of the real frequencies, in eV."""
        return 0.5 * _EV_PER_CM * float(self.frequencies.clamp(min=0.0).sum())


def vibrations(
    model: SchNet | Ensemble, data: Data, *, units: str | None = None, masses: Tensor | None = None
) -> Vibrations:
    r"""Frequencies and normal modes of a relaxed structure.

    The Hessian is weighted by masses, :math:`H_{ia,jb} / \sqrt{m_i m_j}`, and diagonalised in the
    space without translations and, of molecules, rotations: 3N - 6 modes are left, 3N - 5 of a
    linear molecule, 3N - 3 of a periodic system.

    Args:
        model: As for :func:`hessian`.
        data: A structure without forces: relax it by the same model first.
        units: Unit of the energy, if the model does not say.
        masses: Masses ``[N]`` in u; those of the elements if ``None``.

    Raises:
        ValueError: If the unit is not known, or masses are not positive; and as :func:`hessian`.

    >>> import torch
    >>> from pyg_schnet import SchNet
    >>> hydrogen = Data(z=torch.tensor([1, 1]), pos=torch.tensor([[0.0, 0, 0], [0, 0, 0.74]]))
    >>> vibrations(SchNet(16, 16, 2, units="meV"), hydrogen).frequencies.shape
    torch.Size([1])
    """
    unit = model.units or units
    if unit is None:
        raise ValueError("the model does not know the unit of its energies: give 'units', as 'eV'")
    if units not in (None, unit):
        raise ValueError(f"the energies of the model are in {unit}, not in {units}")
    factor = convert(1.0, unit, "eV")
    forces, second = _second_order(model, data)
    largest = factor * float(forces.norm(dim=1).max())
    if largest > _RELAXED:
        warnings.warn(
            f"the largest force is {largest:.2g} eV/Ang: vibrations are those of a relaxed "
            "structure",
            stacklevel=2,
        )
    mass = _masses_of(data, masses)  # [N]
    root = mass.sqrt().repeat_interleave(3)  # [3N]
    weighted = factor * second / (root * root.unsqueeze(1))
    pbc = data.get("pbc", data.get("cell") is not None)
    periodic = bool(torch.as_tensor(pbc).any())
    rigid = _rigid_motions(data.pos.detach().cpu().double(), mass, not periodic)  # [3N, R]
    # An orthonormal basis of what is left.
    complete, _ = torch.linalg.qr(rigid, mode="complete")
    internal = complete[:, rigid.size(1) :]  # [3N, M]
    values, vectors = torch.linalg.eigh(internal.T @ weighted @ internal)
    modes = (internal @ vectors).T / root  # [M, 3N]
    modes = modes / modes.norm(dim=1, keepdim=True)
    frequencies = _PER_CM * values.sign() * values.abs().sqrt()
    return Vibrations(frequencies, modes.reshape(len(values), len(mass), 3))


def _second_order(model: SchNet | Ensemble, data: Data) -> tuple[Tensor, Tensor]:
    """Forces ``[N, 3]`` and Hessian ``[3N, 3N]`` in float64 on the CPU."""
    if not isinstance(model, SchNet | Ensemble):
        raise TypeError(f"expected a SchNet or an Ensemble (got {type(model).__name__})")
    if model.target != "energy":
        raise ValueError(f"the model must predict energies (its target is '{model.target}')")
    members = list(model) if isinstance(model, Ensemble) else [model]
    with torch.inference_mode(False), torch.enable_grad():
        derivatives = [_derivatives(member, data) for member in members]
    forces, second = (torch.stack(each).mean(dim=0) for each in zip(*derivatives))
    return forces, second


def _derivatives(model: SchNet, data: Data) -> tuple[Tensor, Tensor]:
    model = copy.deepcopy(model).double().eval().requires_grad_(False)
    model.mode = "exact"
    system = unpack(model, data)
    if system.batch_size != 1 or system.pos.size(0) == 0:
        raise ValueError(f"expected one molecule (got {num_molecules(data)}): take them in turn")
    pos = system.pos.detach().double().clone().requires_grad_()
    cell = None if system.cell is None else system.cell.double()
    forces = _forces(model, system._replace(pos=pos, cell=cell))
    flat = forces.flatten()
    if not flat.requires_grad:  # atoms without neighbours
        return forces.cpu(), flat.new_zeros(2 * flat.shape).cpu()
    numbers, edges = flat.numel(), pos.size(0) ** 2
    rows = max(1, min(numbers, _CHUNK // (edges * model.config["num_filters"])))
    unit = torch.eye(numbers, dtype=flat.dtype, device=flat.device)
    second = torch.cat(
        [
            torch.autograd.grad(flat, pos, some, retain_graph=True, is_grads_batched=True)[0]
            for some in unit.split(rows)
        ]
    ).reshape(numbers, numbers)
    return forces.detach().cpu(), -0.5 * (second + second.T).cpu()


def _forces(model: SchNet, system: System) -> Tensor:
    energy = model._evaluate(system)[0]
    if not energy.requires_grad:
        return torch.zeros_like(system.pos)
    return forces_from_energy(energy, system.pos, create_graph=True)


def _masses_of(data: Data, masses: Tensor | None) -> Tensor:
    if masses is None:
        from rdkit.Chem import GetPeriodicTable

        table = GetPeriodicTable()
        masses = torch.tensor([table.GetAtomicWeight(z) for z in data.z.tolist()])
    masses = torch.as_tensor(masses, device="cpu").double()
    if masses.shape != (data.num_nodes,) or not (masses > 0).all():
        raise ValueError(f"'masses' must be {data.num_nodes} positive numbers (got {masses})")
    return masses


def _rigid_motions(pos: Tensor, mass: Tensor, with_rotations: bool) -> Tensor:
    """Orthonormal directions of translations and rotations, weighted by masses, ``[3N, R]``."""
    root = mass.sqrt().reshape(-1, 1, 1)
    axes = torch.eye(3, dtype=pos.dtype)
    motions = [(root * axes).transpose(1, 2).flatten(0, 1)]  # [3N, 3]
    if with_rotations:
        arm = pos - (mass.unsqueeze(1) * pos).sum(dim=0) / mass.sum()  # [N, 3]
        squared = (mass * arm.square().sum(dim=1)).sum()
        inertia = squared * axes - (mass.unsqueeze(1) * arm).T @ arm
        moments, axes = torch.linalg.eigh(inertia)
        axes = axes[:, moments > _LEAST_INERTIA].T.unsqueeze(0)  # [1, R, 3]
        around = torch.linalg.cross(axes.expand(len(pos), -1, 3), arm.unsqueeze(1), dim=2)
        motions.append((root * around).transpose(1, 2).flatten(0, 1))
    together = torch.cat(motions, dim=1)
    return together / together.norm(dim=0)
