r"""Settings of a training run."""

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train; the defaults are those of the paper where it gives them.

    Attributes:
        label: What to learn: the name of a field of the data (``"energy"``), of a column of
            ``y`` (``"U0"``, for data sets with ``target_names``), or the number of a column.
        epochs: Passes over the training set, at most.
        batch_size: Molecules per step.
        lr: Learning rate of Adam at the first step.
        lr_decay: Factor on the learning rate after every ``lr_decay_steps`` steps, applied
            continuously.
        lr_decay_steps: See ``lr_decay``.
        lr_min: Lowest learning rate.
        ema_decay: Decay per step of the moving average of the weights, which validation, test
            and the saved best model use; 0 turns averaging off.
        patience: Epochs without a better validation error before training stops.
        offsets: ``"fit"`` sets atom references, mean and standard deviation of the model from the
            training set, unless the model already has some; ``"keep"`` leaves them alone.
        seed: Seed of the order of molecules.
        eval_batch_size: Molecules per step of validation.
    """

    label: str | int = "energy"
    epochs: int = 100
    batch_size: int = 32
    lr: float = 1e-3
    lr_decay: float = 0.96
    lr_decay_steps: int = 100_000
    lr_min: float = 0.0
    ema_decay: float = 0.99
    patience: int = 100
    offsets: str = "fit"
    seed: int = 0
    eval_batch_size: int = 128

    def __post_init__(self) -> None:
        at_least_one = ("epochs", "batch_size", "lr_decay_steps", "patience", "eval_batch_size")
        for name in (*at_least_one, "seed"):
            value = getattr(self, name)
            if not isinstance(value, int):
                raise TypeError(f"'{name}' must be a whole number (got {value!r})")
            if name != "seed" and value < 1:
                raise ValueError(f"'{name}' must be at least 1 (got {value})")
        for name in ("lr", "lr_decay", "lr_min", "ema_decay"):
            if not isinstance(getattr(self, name), int | float):
                raise TypeError(f"'{name}' must be a number (got {getattr(self, name)!r})")
        if not isinstance(self.label, str | int):
            raise TypeError(f"'label' must be a name or a column (got {self.label!r})")
        if not self.lr > 0:
            raise ValueError(f"'lr' must be positive (got {self.lr})")
        if self.lr_min < 0:
            raise ValueError(f"'lr_min' must not be negative (got {self.lr_min})")
        if not 0 < self.lr_decay <= 1:
            raise ValueError(f"'lr_decay' must be in (0, 1] (got {self.lr_decay})")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"'ema_decay' must be in [0, 1) (got {self.ema_decay})")
        if self.offsets not in ("fit", "keep"):
            raise ValueError(f"'offsets' must be 'fit' or 'keep' (got '{self.offsets}')")

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return max(self.lr * self.lr_decay ** (step / self.lr_decay_steps), self.lr_min)

    def to_dict(self) -> dict[str, Any]:
        """All settings, for JSON."""
        return asdict(self)

    def differences(self, saved: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Settings by which a resumed run would not be the same run.

        Args:
            saved: Settings of the run to resume, from :meth:`to_dict`.

        Returns:
            Saved and present value of each differing setting. Limits (``epochs``, ``patience``)
            and ``eval_batch_size`` may change.
        """
        free = ("epochs", "patience", "eval_batch_size")
        return {
            field.name: (saved.get(field.name), getattr(self, field.name))
            for field in fields(self)
            if field.name not in free and saved.get(field.name) != getattr(self, field.name)
        }
