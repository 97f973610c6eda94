r"""How networks travel: files, the Hugging Face Hub, and weights of other implementations."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from . import files

InteractionGraph = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Portable:
    r"""Saves and loads a network, and copies it from elsewhere."""

    def save(self, path: str | Path) -> None:
        """Saves the model, offsets and units included, in one safetensors file.

        Args:
            path: File to write, atomically.
        """
        files.save(self, path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        interaction_graph: InteractionGraph | None = None,
        filter: Callable[[], nn.Module] | None = None,
    ) -> Self:
        """Loads a model that :meth:`save` wrote, or the best of a run; no code in files is run.

        Args:
            path: File to read, or the directory of a run, as ``fit`` and ``pyg-schnet train`` make
                it, for its ``best.safetensors``.
            interaction_graph: Functions cannot be saved: give it again if the model had one.
            filter: As that, unless it made :class:`RadialFilter` on our own bases; also if the
                filters were exchanged in place.

        Raises:
            FileNotFoundError: If there is no such file, or none of a model in the directory.
            CorruptFileError: If it is damaged, holds something else, or has settings that this
                version does not know.
            ValueError: If the model needs its ``interaction_graph`` or ``filter`` and none is
                given, or they are not those it had.
        """
        return files.load(cls, path, interaction_graph, filter)

    @classmethod
    def from_pretrained(cls, name: str) -> Self:
        """Loads one of the trained models that come with the package, for predictions.

        Args:
            name: ``"md17-ethanol"``, ``"qm9-u0"``, ...; :func:`pyg_schnet.pretrained.names` lists
                them, and :func:`pyg_schnet.pretrained.record` tells how one was trained, and its
                errors.

        Raises:
            ValueError: If there is no such model. Your own are for :meth:`load`.
        """
        from .. import pretrained

        return pretrained.load(cls, name)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        commit_message: str = "Upload a SchNet",
    ) -> str:
        """Uploads the model to the Hugging Face Hub, as ``model.safetensors``.

        Needs ``pip install pyg-schnet[hub]``, and ``hf auth login`` where no ``token`` is given.

        Args:
            repo_id: Repository, such as ``"user/schnet-aspirin"``; made if there is none.
            private: Whether to make it a private one.
            token: Access token.
            commit_message: What to say of the upload.

        Returns:
            The address of the commit.

        Raises:
            ImportError: If ``huggingface_hub`` is not installed; its own errors pass through.
        """
        from . import hub

        return hub.push(self, repo_id, private, token, commit_message)

    @classmethod
    def from_hub(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        interaction_graph: InteractionGraph | None = None,
        filter: Callable[[], nn.Module] | None = None,
    ) -> Self:
        """Downloads a model that :meth:`push_to_hub` uploaded; no code in it is run.

        Args:
            repo_id: Repository, such as ``"user/schnet-aspirin"``.
            revision: Branch, tag or commit; the newest if ``None``.
            token: Access token, for private ones.
            cache_dir: Where to keep the file; where ``huggingface_hub`` does if ``None``.
            interaction_graph: See :meth:`load`.
            filter: See :meth:`load`.

        Raises:
            ImportError: If ``huggingface_hub`` is not installed; its own errors pass through.
            ValueError: As :meth:`load`.
        """
        from . import hub

        path = hub.download(repo_id, revision, token, cache_dir)
        return cls.load(path, interaction_graph, filter)

    @classmethod
    def from_pyg(cls, model: Any, target: str | None = None, units: str | None = None) -> Self:
        """Copies a :class:`torch_geometric.nn.SchNet`, weight for weight.

        Padding atoms (z = 0) contribute nothing here, and no neighbour is dropped; outputs are
        equal otherwise. See :func:`pyg_schnet.nn.convert.from_pyg`.
        """
        from .convert import from_pyg

        return from_pyg(cls, model, target, units)

    @classmethod
    def from_schnetpack(
        cls,
        source: str | Path | Mapping[str, Any] | nn.Module,
        *,
        head_activation: str | None = None,
        readout: str | None = None,
        target: str | None = None,
        units: str | None = None,
    ) -> Self:
        """Copies a SchNet of `SchNetPack <https://github.com/atomistic-machine-learning/schnetpack>`_
        0.3, 1 or 2, weight for weight, without need of that package.

        Files are read as data: no class in them is imported, and no code is run. Offsets of the
        output module (1) or of postprocessors (2) are taken over. Lengths are taken to be in
        angstrom, as is usual there.

        A state dict does not tell everything. Of one, the cutoff function is taken to be the
        cosine (that of version 0.3 is not, unless it was asked for), interactions to have the
        shifted softplus and sums over neighbors, and atoms to be summed. A whole model says so.

        Args:
            source: A file of ``torch.save`` (``best_model``, a checkpoint, also one of Lightning,
                or a state dict), a state dict, or the model itself.
            head_activation: Activation of the readout, ``"ssp"`` or ``"silu"``. By default what
                the model says, and of a state dict ``"ssp"`` for version 1, ``"silu"`` for 2.
            readout: ``"add"`` or ``"mean"``. By default what the model says, and of a state dict
                ``"add"``.
            target: What the model predicts; the energy, or the dipole moment where it is one.
            units: Unit of the target, which these models do not know; lets calculators convert it.

        Returns:
            A model in the dtype of the weights, with equal outputs.

        Raises:
            FileNotFoundError: If there is no such file.
            CorruptFileError: If it was not written by ``torch.save``, or is damaged.
            ImportError: If it predicts dipole moments, for which the atomic masses of ASE are
                needed, and that is not installed.
            TypeError: If ``source`` is something else.
            ValueError: If a part of the model has no counterpart, by its name: other cutoff
                functions and activations, embeddings of charge and spin, external fields, several
                outputs, dipole moments of version 2.
        """
        from .convert_schnetpack import from_schnetpack

        return from_schnetpack(cls, source, head_activation, readout, target, units)

    @classmethod
    def from_pyg_archive(cls, path: str | Path, target: int | str) -> Self:
        """Reads a network for QM9 from the archive behind PyG's ``from_qm9_pretrained``,
        `trained_schnet_models.zip
        <http://www.quantum-machine.org/datasets/trained_schnet_models.zip>`_.

        Its pickles are read as data: neither SchNetPack nor trust in them is needed.

        Args:
            path: The archive, or the folder that it was unpacked to.
            target: A property of QM9 by its number in PyG, 0 to 11, or its name: ``"mu"``,
                ``"alpha"``, ``"homo"``, ``"lumo"``, ``"gap"``, ``"r2"``, ``"zpve"``, ``"U0"``,
                ``"U"``, ``"H"``, ``"G"`` or ``"Cv"``.

        Returns:
            A model in the units of PyG's QM9; that of ``"U0"`` has the target ``"energy"``.

        Raises:
            FileNotFoundError: If there is no such file, or no such model in it.
            ValueError: If ``target`` is unknown, or as :meth:`from_schnetpack`.
        """
        from .pyg_archive import from_pyg_archive

        return from_pyg_archive(cls, path, target)
