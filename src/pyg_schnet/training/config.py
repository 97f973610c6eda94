r"""Settings of a training run."""

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train; the defaults are those of the paper where it gives them.

    Attributes:
        label: What to learn: the name of a field of the data (``"energy"``), of a column of
            ``y`` (``"U0"``, for data sets with ``target_names``), or the number of a column.
        energy_weight: Weight of the label in the loss, 0 to learn from forces only.
        force_weight: Weight of the forces in the loss (see :mod:`pyg_schnet.training.loss`), 0 to
            leave them out. The paper has 0.01 and 1 where it trains on both, see :meth:`paper`.
        loss: What errors count as: ``"mse"``, ``"l1"`` or ``"huber"``.
        huber_delta: Error up to which Huber's loss is quadratic.
        per_atom: Whether the error of the label is divided by the number of atoms.
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
    energy_weight: float = 1.0
    force_weight: float = 0.0
    loss: str = "mse"
    huber_delta: float = 1.0
    per_atom: bool = False
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
        weights = ("energy_weight", "force_weight")
        for name in ("lr", "lr_decay", "lr_min", "ema_decay", "huber_delta", *weights):
            if not isinstance(getattr(self, name), int | float):
                raise TypeError(f"'{name}' must be a number (got {getattr(self, name)!r})")
        if not isinstance(self.label, str | int):
            raise TypeError(f"'label' must be a name or a column (got {self.label!r})")
        if min(self.energy_weight, self.force_weight) < 0 or not any(
            getattr(self, name) > 0 for name in weights
        ):
            raise ValueError(
                "'energy_weight' and 'force_weight' must not be negative, nor both zero "
                f"(got {self.energy_weight} and {self.force_weight})"
            )
        if self.loss not in ("mse", "l1", "huber"):
            raise ValueError(f"'loss' must be 'mse', 'l1' or 'huber' (got '{self.loss}')")
        if not self.huber_delta > 0:
            raise ValueError(f"'huber_delta' must be positive (got {self.huber_delta})")
        if not isinstance(self.per_atom, bool):
            raise TypeError(f"'per_atom' must be true or false (got {self.per_atom!r})")
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

    @classmethod
    def paper(cls, *, forces: bool = False, **overrides: Any) -> "TrainConfig":
        r"""The protocol of the paper: Adam from 1e-3, batches of 32, a moving average of 0.99.

        Args:
            forces: Train on energies and forces with :math:`\rho = 0.01`, in place of energies.
            **overrides: Settings to change.
        """
        weights = {"energy_weight": 0.01, "force_weight": 1.0} if forces else {}
        return cls(**({**weights, **overrides}))

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
