r"""Energies and forces for loops of one's own, at the least cost for each call."""

import math
from typing import NamedTuple

import numpy as np
import torch

from ..nn import SchNet
from ..nn.ensemble import evaluated
from ..nn.layers import read_layers
from ..nn.molecule import Molecular, molecular
from ..nn.system import System
from .models import check_target, finest_dtype, freeze_for_dynamics, prepared


class Evaluation(NamedTuple):
    """What a potential says of a molecule, in the unit of its model.

    Attributes:
        energy: The energy.
        forces: Forces ``[N, 3]``, per angstrom.
        energies: Contributions of the atoms ``[N]``, whose sum, or mean, is the energy.
    """

    energy: float
    forces: np.ndarray
    energies: np.ndarray


class Potential:
    r"""The potential energy surface of molecules, as a function of arrays.

    A frozen copy of a model, which nothing changes any more: what :meth:`SchNet.predict` finds out
    about a model in each call is found out once. A small molecule, its energy and its forces then
    are a single compiled kernel, for dynamics, sampling and optimisers of one's own. Larger ones,
    and models with parts exchanged, are evaluated as ``predict`` does.

    Args:
        model: A model that predicts energies. It is copied, and may be trained on.
        device: Where to compute; where the model is if ``None``.
        dtype: ``torch.float32`` or ``torch.float64``; that of the model if ``None``. Double
            precision evaluates filters without tables, which takes several times as long.

    Raises:
        TypeError: If this is no model.
        ValueError: If the model does not predict energies.

    >>> potential = Potential(SchNet(32, 32, 2))
    >>> z, pos = np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]])
    >>> energy, forces, energies = potential(z, pos)
    >>> forces.shape
    (2, 3)
    """

    def __init__(
        self,
        model: SchNet,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        if not isinstance(model, SchNet):
            raise TypeError(f"expected a SchNet (got {type(model).__name__})")
        check_target(model)
        self._model = prepared(model, device, dtype)
        self._network = self._read()

    def __getstate__(self) -> dict[str, SchNet]:
        return {"_model": self._model}

    def __setstate__(self, state: dict[str, SchNet]) -> None:
        self._model = state["_model"]
        self._network = self._read()

    @torch.no_grad()
    def _read(self) -> Molecular | None:
        """Copies what the kernel takes, for PyTorch may move the memory of a model at any time."""
        if self._model.interaction_graph is not None:
            return None
        freeze_for_dynamics(self._model, anew=False)
        layers = read_layers(self._model)
        network = None if layers is None else molecular(self._model, layers)
        return None if network is None else network.copied()

    def __call__(self, z: np.ndarray, pos: np.ndarray) -> Evaluation:
        """Evaluates one molecule.

        Args:
            z: Atomic numbers ``[N]``, whole numbers.
            pos: Positions ``[N, 3]`` in angstrom; computed in double precision unless float32.

        Raises:
            ValueError: If the model refuses the molecule.
            FloatingPointError: If a result is not finite.
        """
        z, pos = np.asarray(z), np.asarray(pos)
        result = self._by_kernel(z, pos)
        if result is None:
            result = self._by_operators(z, pos)
        # A sum is finite only if all its terms are.
        if not math.isfinite(result.energy + float(result.forces.sum())):
            raise FloatingPointError(
                f"the energy ({result.energy:g}) or a force is not finite: the weights of the "
                "model may be damaged, or atoms too close together"
            )
        return result

    def _by_kernel(self, z: np.ndarray, pos: np.ndarray) -> Evaluation | None:
        network = self._network
        if (
            network is None
            or not 0 < len(z) <= network.most
            or z.dtype != np.int64
            or pos.dtype not in (np.float64, np.float32)
            or z.shape != (len(z),)
            or pos.shape != (len(z), 3)
        ):
            return None
        if not (pos.flags.c_contiguous and pos.flags.writeable):  # others are compiled for anew
            pos = pos.copy()
        if not (z.flags.c_contiguous and z.flags.writeable):
            z = z.copy()
        result = network.evaluate(z, pos)
        return None if result is None else Evaluation(result[0], result[3], result[1])

    @torch.inference_mode(False)  # whose tensors autograd refuses
    def _by_operators(self, z: np.ndarray, pos: np.ndarray) -> Evaluation:
        device = self._model.device
        positions = torch.as_tensor(pos).to(device, finest_dtype(device))
        system = System(torch.as_tensor(z).to(device), positions, batch_size=1)
        result = evaluated(self._model, system, stress=False)
        forces, energies = (result[name].cpu().numpy() for name in ("forces", "energies"))
        return Evaluation(float(result["energy"]), forces, energies)
