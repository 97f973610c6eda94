r"""The training loop, to be read from top to bottom."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from ..data.packed import UnpackableError
from ..loader import MoleculeLoader
from ..nn import SchNet, SchNetConv, forces_from_energy
from ..nn.interaction import InteractionBlock
from ..nn.readout import AtomwiseReadout
from ..ops import keep_freed_memory
from .config import TrainConfig
from .device import DeviceRun
from .distributed import LostProcessError, World
from .domain import learn_domain
from .interrupt import stop_on_signal
from .labels import (
    Labelled,
    Molecules,
    check_units,
    fit_offsets,
    label_reader,
    label_units,
)
from .lock import locked
from .loss import derivative_scale, force_labels, stress_labels
from .order import BatchOrder
from .packing import pack_for_training
from .reporting import Reporter
from .run import Run


def fit(
    model: SchNet,
    train: Molecules,
    val: Molecules,
    config: TrainConfig | None = None,
    directory: str | Path | None = None,
    *,
    resume: bool = False,
    log: Callable[[dict[str, float]], object] | None = None,
    device: torch.device | str | None = None,
    packed: bool | None = None,
) -> list[dict[str, float]]:
    r"""Trains a model, and leaves it with the averaged weights of the best epoch so far.

    1. Offsets, known species, closest distances and compositions of the model are set from the
       training set.
    2. Every epoch goes through the training set in a new order. The loss is that of
       :mod:`pyg_schnet.training.loss`, of energies, forces, stress or all of these; missing labels
       (NaN) are left out. Data without any energies will do with ``energy_weight=0``: energies are
       then learnt up to a constant, and their errors left out of all reports.
    3. A moving average of the weights is validated; the best one is kept.

    It ends with the first budget of the settings that is used up, or with their patience.
    Validations and, on a terminal, the state of the run are shown on standard error. With a
    directory the run writes ``config.json``, ``history.csv``, ``learning_curve.png``, scalars for
    TensorBoard where that is installed, ``best.safetensors`` (for :meth:`SchNet.load`) and, from
    time to time, at its end and when interrupted by SIGINT or SIGTERM, ``last.safetensors``, from
    which it resumes to the same numbers as an uninterrupted run, also when it was killed. It is
    locked meanwhile, so that no second process trains there.

    Called in each process of ``torchrun``, with the same arguments, it trains on all of them, to
    the same numbers as one process but for rounding: processes share out each batch and the
    validation set. Rank 0 writes the files and reports. Any number of processes can resume.

    Args:
        model: Model to train, on its device.
        train: Training set.
        val: Validation set, which chooses the best epoch.
        config: Settings; those of the paper by default. A model without ``units`` takes those of
            the data set.
        directory: Where the run is kept; nowhere if ``None``.
        resume: Go on with the run in ``directory``.
        log: Called with each row after its validation, by rank 0, to log elsewhere. What it raises
            ends the run.
        device: Where to train, such as ``"cuda"``. The model is moved there, and stays; the data
            need not be. Where the model is if ``None``.
        packed: Whether to keep the training set, with its edges, on the device of the model, and
            pack each batch there to one of a few fixed sizes, so that a step is one CUDA graph and
            the host never waits for it: the same numbers but for rounding, much faster for small
            molecules. By default on a GPU, wherever possible: for energies and forces of molecules
            without cells or transforms, by networks of original parts, in one process.

    Returns:
        One row per validation: ``epoch, step, lr, train_loss``, ``val_mae, val_rmse`` of the label
        where it is known, ``val_force_mae, val_force_rmse`` and ``val_stress_mae,
        val_stress_rmse`` over components where these are trained, and ``seconds``. Errors are in
        the unit of the label (per angstrom, per cubic angstrom), the squared loss in squares of it.
        An epoch that a budget cuts short is a fraction.

    Raises:
        BlockingIOError: If another process trains in the directory.
        FileExistsError: If the directory holds a run that is not to be resumed.
        FileNotFoundError: If there is no run to resume.
        ValueError: If a data set has no labels, or the run to resume was another one, or this one
            cannot be ``packed`` as it must.
        FloatingPointError: If the loss or its gradient is not finite, or the loss explodes. The
            weights are the best so far, and the last checkpoint is of before.
        KeyboardInterrupt: When interrupted, after the checkpoint is complete.
        LostProcessError: If another process failed or was killed. Rank 0, if it is left, has saved
            the run.
    """
    config = TrainConfig() if config is None else config
    if not isinstance(config, TrainConfig):
        raise TypeError(f"'config' must be a TrainConfig (got {type(config).__name__})")
    directory = None if directory is None else Path(directory)
    if device is not None:
        model.to(device)
    with World.current() as world:
        required = config.energy_weight > 0
        data = Labelled.read(train, config.label, "training", required=required)
        validation = Labelled.read(val, config.label, "validation", required=required)
        check_units(model, train, config.label)
        read = label_reader(train, config.label, energy_optional=not required)

        keep_freed_memory()
        model.train()
        if model.units is None:
            model.units = label_units(train, config.label)
        scale = None
        if config.with_forces:
            scale = _check_derivative(model, "force", "/Ang", force_labels, train, val)
        if config.with_stress:
            _check_derivative(model, "stress", "/Ang^3", stress_labels, train, val)
        fitted = _fits_offsets(model, config)
        learnt = fitted or required  # energies that forces alone are trained beside are not
        counts = data.counts[~data.labels.isnan()] if learnt else None
        learn_domain(model, data.z, train, counts, offsets_change=fitted)
        if fitted:
            fit_offsets(model, data, scale)
        world.check_same(
            **{"dtype": model.dtype, "training data": data.fingerprint},
            **{"validation set": validation.fingerprint, "resume": resume},
            **{f"model.{name}": value for name, value in model.config.items()},
            **config.to_dict(),
        )
        # All have fitted the same offsets to the same data, as nobody had anything else to do.
        world.share_state(model)
        order = BatchOrder(len(train), config.batch_size, config.seed, world.rank, world.size)
        fingerprints = {"training": data.fingerprint, "validation": validation.fingerprint}
        with locked(directory, world, make=not resume):
            settings = (model, read, order, config, directory, fingerprints, world, data.known)
            run = _new_run(settings, train, data, packed)
            _compile_kernels(model, config)
            try:
                run.begin(resume)
                _train(run, val, validation, log)
            finally:
                run.end()
        return run.progress.history


def _new_run(
    settings: tuple[Any, ...], train: Molecules, data: Labelled, packed: bool | None
) -> Run:
    """The run, on packed batches where that is wanted and possible.

    Raises:
        ValueError: If it must be so, and cannot.
    """
    model, _, order, config, _, _, world, _ = settings
    note = None
    if packed or (packed is None and _by_default(model)):
        try:
            molecules, knots = pack_for_training(model, train, data, config, world)
            return DeviceRun(*settings, dataset=train, packed=molecules, knots=knots)
        except UnpackableError as error:
            if packed:
                raise ValueError(f"packed=True, but {error}: leave 'packed' out") from error
            note = f"steps wait for the device, since {error}"
    run = Run(*settings)
    run.loader, run.note = MoleculeLoader(train, batch_sampler=order), note
    return run


def _compile_kernels(model: SchNet, config: TrainConfig) -> None:
    """Has kernels for the CPU compiled by a network like this one, before the clock runs.

    On a new machine that takes longer than the shortest budgets.
    """
    first = next(iter(model.interactions), None)
    if model.device.type != "cpu" or not isinstance(first, InteractionBlock):
        return
    if not (isinstance(first.conv, SchNetConv) and first.conv.has_table()):
        return
    widths = model.config["hidden_channels"], model.config["num_filters"]
    with torch.random.fork_rng(devices=[]):
        like = SchNet(*widths, 1, num_gaussians=4, cutoff=5.0, mode="table")
    like = like.to(model.dtype)
    # Two molecules: one by itself would be evaluated by a kernel of its own.
    z, batch = torch.ones(4, dtype=torch.long), torch.tensor([0, 0, 1, 1])
    pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).repeat(2, 1)
    pos.requires_grad_(config.with_forces)
    loss = like(z, pos, batch).sum()
    if config.with_forces:
        loss = forces_from_energy(loss, pos, create_graph=True).square().sum()
    loss.backward()
    like.eval().predict(Data(z=z, pos=pos.detach(), batch=batch), config.with_forces)


def _by_default(model: SchNet) -> bool:
    return model.device.type == "cuda"


def _train(
    run: Run,
    val: Molecules,
    validation: Labelled,
    log: Callable[[dict[str, float]], object] | None,
) -> None:
    """Takes a run from where it stands to its end."""
    config, directory, world, progress = run.config, run.directory, run.world, run.progress
    reporter = Reporter(
        *(directory, config, progress, len(run.order), run.model.units, log), main=world.is_main
    )

    run.report = reporter.step

    def validate() -> None:
        row = run.validate(val, validation.sizes)
        best = row["epoch"] == progress.best_epoch
        world.from_main(lambda: reporter.row(row, best))

    try:
        with stop_on_signal() as stop, reporter:
            if not run.with_labels:
                reporter.say(f"no '{config.label}' is known: it is learnt up to a constant")
            if run.note is not None:
                reporter.say(run.note)
            while not run.finished:
                for batch in run.batches():
                    run.advance(batch, stop)
                    if run.stopped or run.save_is_due:
                        run.save()
                    if run.stopped:
                        raise KeyboardInterrupt(_stopped(directory))
                    if run.spent:
                        break
                else:
                    run.end_epoch()
                    # A budget can have ended, and been extended, right after an epoch.
                    if progress.epoch % config.eval_epochs == 0 and not progress.validated:
                        validate()
            if not progress.validated:
                validate()
            run.save()
            if run.stale:
                reporter.say(f"stopped: nothing got better for {config.patience} epochs")
            if world.total(torch.tensor([float(stop.is_set())])).any():
                raise KeyboardInterrupt(_stopped(directory))  # in the last validation
    except LostProcessError as error:
        raise LostProcessError(f"{error}; {run.rescue()}") from error.__cause__


def _check_derivative(
    model: SchNet,
    name: str,
    per: str,
    labels: Callable[[Data], Tensor],
    train: Molecules,
    val: Molecules,
) -> float:
    """Looks at all labels before anything is trained; gives their scale in the training set."""
    if model.target != "energy":
        raise ValueError(f"'{name}' is a derivative of the energy, not of '{model.target}'")
    for dataset in (train, val):
        check_units(model, dataset, name, per)
    derivative_scale(val, labels, f"{name} in the validation set")
    return derivative_scale(train, labels, f"{name} in the training set")


def _fits_offsets(model: SchNet, config: TrainConfig) -> bool:
    given = not isinstance(model.readout, AtomwiseReadout) or not model.readout.offsets.is_neutral
    return config.offsets == "fit" and not given


def _stopped(directory: Path | None) -> str:
    if directory is None:
        return "training was stopped by a signal; the model has its best weights so far"
    return f"training was stopped by a signal; go on with fit(..., '{directory}', resume=True)"
