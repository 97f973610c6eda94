r"""Trained models by the path of a file or of a run."""

from pathlib import Path

import torch

from .. import pretrained
from ..nn import SchNet, files
from ..nn.files import BEST
from ..storage import CorruptFileError
from .checkpoint import LAST, load_averaged


def find(path: str | Path) -> Path:
    """The file of a model: itself, the best model of a run, or one that comes with the package.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = Path(path)
    if not path.exists():
        if str(path) in pretrained.names():
            return pretrained.file_of(str(path))
        raise FileNotFoundError(
            f"there is no file or directory '{path}', and no trained model of that name comes with "
            f"the package: it has {', '.join(pretrained.names())}"
        )
    if (path / LAST).is_file() and not (path / BEST).is_file():
        return path / LAST  # of a run that has not validated yet
    return files.find(path)


def load_model(path: str | Path, device: torch.device | str = "cpu") -> SchNet:
    """Loads a model, or the averaged weights of a training checkpoint.

    Args:
        path: File, directory of a run, whose best model is taken, or name of a trained model
            that comes with the package, as of :meth:`SchNet.from_pretrained`.
        device: Where to put it.

    Raises:
        FileNotFoundError: If there is none.
        CorruptFileError: If it is damaged or holds something else.
    """
    path = find(path)
    try:
        return SchNet.load(path).to(device)
    except CorruptFileError as error:
        if "holds a training checkpoint" not in str(error):
            raise
    return load_averaged(path).to(device)
