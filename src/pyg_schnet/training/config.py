r"""Settings of a training run."""

import math
import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DEFAULT_EPOCHS = 100


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train; the defaults are those of the paper where it gives them.

    Attributes:
        label: What to learn: the name of a field of the data (``"energy"``), of a column of
            ``y`` (``"U0"``, for data sets with ``target_names``), or the number of a column.
        energy_weight: Weight of the label in the loss, 0 to learn from its derivatives only: the
            data need not have the label then, and a model of forces alone knows energies up to a
            constant.
        force_weight: Weight of the forces in the loss (see :mod:`pyg_schnet.training.loss`), 0 to
            leave them out. The paper has 0.01 and 1 where it trains on both, see :meth:`paper`.
        stress_weight: Weight of the stress of crystals in the loss, 0 to leave it out.
        loss: What errors count as: ``"mse"``, ``"l1"`` or ``"huber"``.
        huber_delta: Error up to which Huber's loss is quadratic.
        per_atom: Whether the error of the label is divided by the number of atoms.
        epochs: Passes over the training set, at most; 100 if there is no other budget.
        max_steps: Steps, at most.
        max_time: Time to train, at most: seconds, or ``"90s"``, ``"10m"``, ``"2h"``, ``"1d"``. A
            schedule that follows it makes no two runs the same.
        batch_size: Molecules per step, over all processes.
        lr: Learning rate of Adam, at its highest.
        schedule: ``"exponential"`` multiplies the learning rate by ``lr_decay`` every
            ``lr_decay_steps`` steps, continuously; ``"cosine"`` takes it to ``lr_min`` along half a
            cosine that ends with the budget.
        lr_decay: Factor of the exponential schedule.
        lr_decay_steps: Steps of the exponential schedule.
        lr_min: Lowest learning rate.
        warmup_steps: Steps over which the learning rate rises linearly at first.
        weight_decay: Decay of weights per unit of the learning rate, decoupled as in AdamW.
        clip_norm: Largest norm of the gradient, to which longer ones are cut; 0 for no limit.
        clip_ratio: Largest norm of the gradient in terms of what is usual, its moving average over
            the last hundred steps or so; 0 for no limit. It keeps high learning rates from the rare
            leap that a network does not recover from.
        ema_decay: Decay per step of the moving average of the weights, which validation, test
            and the saved best model use; 0 turns averaging off. It begins lower, as (1 + n) /
            (10 + n) after n steps, so that the first weights are soon forgotten.
        eval_epochs: Epochs between validations. There is one at the end of the budget too.
        patience: Epochs without a better validation error before training stops; no limit if
            ``None``.
        offsets: ``"fit"`` sets atom references, mean and standard deviation of the model from the
            training set, unless the model already has some; ``"keep"`` leaves them alone.
        seed: Seed of the order of molecules.
        eval_batch_size: Molecules per step of validation.
        save_seconds: Time between checkpoints. The end of a run and signals make one too.
        keep_last: Checkpoints to keep, the last ones; the best model is kept in any case.
        explosion: A loss of so many times the median of the first hundred ends the run; 0 for no
            limit.
    """

    label: str | int = "energy"
    energy_weight: float = 1.0
    force_weight: float = 0.0
    stress_weight: float = 0.0
    loss: Literal["mse", "l1", "huber"] = "mse"
    huber_delta: float = 1.0
    per_atom: bool = False
    epochs: int | None = None
    max_steps: int | None = None
    max_time: str | float | None = None
    batch_size: int = 32
    lr: float = 1e-3
    schedule: Literal["exponential", "cosine"] = "exponential"
    lr_decay: float = 0.96
    lr_decay_steps: int = 100_000
    lr_min: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    clip_ratio: float = 0.0
    ema_decay: float = 0.99
    eval_epochs: int = 1
    patience: int | None = None
    offsets: Literal["fit", "keep"] = "fit"
    seed: int = 0
    eval_batch_size: int = 128
    save_seconds: float = 60.0
    keep_last: int = 1
    explosion: float = 1e4

    def __post_init__(self) -> None:
        for name, lowest in _WHOLE.items():
            value = getattr(self, name)
            if value is None and name in ("epochs", "max_steps", "patience"):
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"'{name}' must be a whole number (got {value!r})")
            if value < lowest:
                raise ValueError(f"'{name}' must be at least {lowest} (got {value})")
        for name, (interval, allowed) in _NUMBERS.items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise TypeError(f"'{name}' must be a number (got {value!r})")
            if not allowed(value):
                raise ValueError(f"'{name}' must be {interval} (got {value})")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                listed = " or ".join(f"'{choice}'" for choice in choices)
                raise ValueError(f"'{name}' must be {listed} (got '{getattr(self, name)}')")
        if not isinstance(self.label, str | int):
            raise TypeError(f"'label' must be a name or a column (got {self.label!r})")
        if not isinstance(self.per_atom, bool):
            raise TypeError(f"'per_atom' must be true or false (got {self.per_atom!r})")
        weights = (self.energy_weight, self.force_weight, self.stress_weight)
        if not any(weights):
            raise ValueError(
                "'energy_weight', 'force_weight' and 'stress_weight' must not be zero all at once"
            )
        if self.lr_min > self.lr:
            raise ValueError(f"'lr_min' must not be above 'lr' (got {self.lr_min} and {self.lr})")
        _ = self.time_limit  # complains early

    @classmethod
    def paper(cls, *, forces: bool = False, **overrides: Any) -> "TrainConfig":
        r"""The protocol of the paper: Adam from 1e-3, batches of 32, a moving average of 0.99.

        Args:
            forces: Train on energies and forces with :math:`\rho = 0.01`, in place of energies.
            **overrides: Settings to change.
        """
        weights = {"energy_weight": 0.01, "force_weight": 1.0} if forces else {}
        return cls(**({**weights, **overrides}))

    @classmethod
    def fast(cls, *, forces: bool = False, **overrides: Any) -> "TrainConfig":
        r"""Our best recipe for a budget of minutes to hours: give one, the schedule fits it.

        Beside :meth:`paper` it takes a higher learning rate that falls to zero along a cosine, a
        longer moving average and a limit to gradients longer than usual; with forces, smaller
        batches and magnitudes of errors in place of squares, energies weighted by 0.1, the root of
        the paper's :math:`\rho`. In ``benchmarks/results/recipes.md`` these are changed one at a
        time, for the same cost. Rates twice as high can learn faster still, but can also lead to a
        leap from which a network does not recover; with a smaller weight, forces of one molecule
        are learned as well, but energies of isomers, which no force connects, are not.

        Args:
            forces: Train on energies and forces, in place of energies.
            **overrides: Settings to change, a budget among them.

        >>> TrainConfig.fast(forces=True, max_time="10m").schedule
        'cosine'
        """
        settings: dict[str, Any] = {
            "batch_size": 16 if forces else 32,
            "lr": 4e-3 if forces else 2e-3,
            "schedule": "cosine",
            "ema_decay": 0.999,
            "clip_ratio": 1.5,
            "loss": "l1" if forces else "mse",
        }
        if forces:
            settings["energy_weight"] = 0.1
        return cls.paper(forces=forces, **(settings | overrides))

    @property
    def with_forces(self) -> bool:
        """Whether derivatives with respect to positions are trained."""
        return self.force_weight > 0

    @property
    def with_stress(self) -> bool:
        """Whether derivatives with respect to strains are trained."""
        return self.stress_weight > 0

    @property
    def epoch_limit(self) -> float:
        """Epochs to train at most, infinite if another budget ends the run."""
        if self.epochs is not None:
            return self.epochs
        return _DEFAULT_EPOCHS if self.max_steps is None and self.max_time is None else math.inf

    @property
    def time_limit(self) -> float:
        """Seconds to train at most, infinite if another budget ends the run."""
        return math.inf if self.max_time is None else _seconds(self.max_time)

    def fraction(self, step: int, seconds: float, steps_per_epoch: int) -> float:
        """How much of the budget is spent, from 0 to 1 and beyond.

        Args:
            step: Steps done.
            seconds: Time spent.
            steps_per_epoch: Steps of an epoch.
        """
        spent = step / (self.epoch_limit * steps_per_epoch)
        if self.max_steps is not None:
            spent = max(spent, step / self.max_steps)
        return max(spent, seconds / self.time_limit)

    def learning_rate(self, step: int, fraction: float = 0.0) -> float:
        """Learning rate of a step.

        Args:
            step: Number of the step, from 0.
            fraction: How much of the budget is spent, see :meth:`fraction`.
        """
        if self.schedule == "cosine":
            wave = (1 + math.cos(math.pi * min(fraction, 1.0))) / 2
            rate = self.lr_min + (self.lr - self.lr_min) * wave
        else:
            rate = max(self.lr * self.lr_decay ** (step / self.lr_decay_steps), self.lr_min)
        return rate * min(1.0, (step + 1) / (self.warmup_steps + 1))

    def to_dict(self) -> dict[str, Any]:
        """All settings, for JSON."""
        return asdict(self)

    def differences(self, saved: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Settings by which a resumed run would not be the same run.

        Args:
            saved: Settings of the run to resume, from :meth:`to_dict`.

        Returns:
            Saved and present value of each differing setting. Budgets and what does not touch the
            weights may change. What is not saved, by an earlier version, had its default.
        """
        saved = type(self)().to_dict() | saved
        return {
            field.name: (saved[field.name], getattr(self, field.name))
            for field in fields(self)
            if field.name not in _FREE and saved[field.name] != getattr(self, field.name)
        }


_WHOLE = {
    "epochs": 1,
    "max_steps": 1,
    "batch_size": 1,
    "lr_decay_steps": 1,
    "warmup_steps": 0,
    "eval_epochs": 1,
    "patience": 1,
    "seed": 0,
    "eval_batch_size": 1,
    "keep_last": 1,
}
_POSITIVE = ("positive", lambda value: 0 < value < math.inf)
_NOT_NEGATIVE = ("at least 0", lambda value: 0 <= value < math.inf)
_NUMBERS = {
    "energy_weight": _NOT_NEGATIVE,
    "force_weight": _NOT_NEGATIVE,
    "stress_weight": _NOT_NEGATIVE,
    "huber_delta": _POSITIVE,
    "lr": _POSITIVE,
    "lr_decay": ("in (0, 1]", lambda value: 0 < value <= 1),
    "lr_min": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "clip_norm": _NOT_NEGATIVE,
    "clip_ratio": ("0 or at least 1", lambda value: value == 0 or 1 <= value < math.inf),
    "ema_decay": ("in [0, 1)", lambda value: 0 <= value < 1),
    "save_seconds": _NOT_NEGATIVE,
    "explosion": _NOT_NEGATIVE,
}
_CHOICES = {
    "loss": ("mse", "l1", "huber"),
    "schedule": ("exponential", "cosine"),
    "offsets": ("fit", "keep"),
}
# Budgets, and what does not touch the weights.
_FREE = {
    "epochs",
    "max_steps",
    "max_time",
    "eval_epochs",
    "patience",
    "eval_batch_size",
    "save_seconds",
    "keep_last",
    "explosion",
}


def _seconds(time: str | float) -> float:
    """Seconds in ``"90s"``, ``"10m"``, ``"2h"``, ``"1d"`` or a number."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([smhd]?)\s*", str(time))
    if match is None or isinstance(time, bool) or not 0 < float(match[1]) < math.inf:
        raise ValueError(
            f"'max_time' must be a positive number of seconds, or '90s', '10m', '2h', '1d' "
            f"(got {time!r})"
        )
    return float(match[1]) * _UNITS[match[2] or "s"]
