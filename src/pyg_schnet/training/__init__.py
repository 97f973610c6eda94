"""Training: settings, loop, evaluation, checkpoints."""

from .config import TrainConfig
from .evaluation import Evaluation, evaluate
from .labels import Labelled, fit_offsets, label_reader
from .loop import fit

__all__ = [
    "Evaluation",
    "Labelled",
    "TrainConfig",
    "evaluate",
    "fit",
    "fit_offsets",
    "label_reader",
]
