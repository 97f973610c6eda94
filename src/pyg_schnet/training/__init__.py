"""Training: settings, loop, evaluation, checkpoints."""

from .config import TrainConfig
from .evaluation import Evaluation, evaluate
from .labels import fit_offsets, label_reader
from .loop import fit

__all__ = ["Evaluation", "TrainConfig", "evaluate", "fit", "fit_offsets", "label_reader"]
