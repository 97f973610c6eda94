r"""What ``train`` is asked to do, found out before anything is trained."""

import argparse
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..data.units import convert
from ..nn import SchNet
from ..nn.readout import AtomwiseReadout
from ..nn.system import reach
from ..training import Labelled, TrainConfig
from ..training.checkpoint import LAST, load_averaged
from ..training.labels import label_reader, label_units
from ..training.saved import find, load_model
from . import models, sources
from .flags import UsageError, given
from .parts import Parts, split
from .record import NAME, Record, make, read_json
from .settings import flag_of
from .sources import DataSettings, Source

#: Presets of the settings of training, of those that there are; the first is the usual one.
PRESETS = [name for name in ("paper", "fast") if hasattr(TrainConfig, name)]
# What may be another path when a run is resumed.
_PLACES = ("data", "root")
# Scales of a model per atom, beyond which its offsets are not those of the labels.
_FAR = 10.0


@dataclass(frozen=True)
class Plan:
    """A run, ready to begin or to go on.

    Attributes:
        directory: Where it is kept.
        record: Its settings.
        parts: Its molecules.
        model: Its model.
        source: Where its molecules are from.
    """

    directory: Path
    record: Record
    parts: Parts
    model: SchNet
    source: Source

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint; a run can have ended before its first one."""
        return (self.directory / LAST).exists()

    def save(self, *, with_split: bool) -> None:
        """Writes down the settings, and who is trained on, which a run that goes on has kept."""
        if with_split:
            seed = self.record.train.seed
            split(self.source, self.record.data, seed, self.directory, saved=False)
        self.record.save(self.directory)


def new(args: argparse.Namespace) -> Plan:
    """A run that begins.

    1. The molecules are read, in the units of the model that is to be tuned, if there is one.
    2. Settings of training: flags go before those of ``--config``, or of the preset.
    3. The model is made, or loaded and compared with what is asked for.
    4. The molecules are split.

    Nothing is written: what is wrong shows before.

    Raises:
        UsageError: If flags contradict each other, or the data.
        FileExistsError: If the directory holds a run.
    """
    directory = None if args.directory is None else Path(args.directory)
    if directory is not None and any((directory / name).exists() for name in (LAST, NAME)):
        raise FileExistsError(
            f"'{directory}' holds a run already: add --resume, or name another --directory"
        )
    base = {} if args.config is None else read_json(args.config)
    if args.config is not None and "train" not in base:
        raise UsageError(f"'{args.config}' is not what a run saved: it has no 'train'")
    start = None if args.init is None else load_model(args.init)

    # 1.
    values, wanted = _data_settings(args, base), given(args, "train")
    if start is not None:
        values = _in_units_of(start, values, args.init)
    data = make(DataSettings, values, args.config)
    if _is_same(data.data, base.get("data", {}).get("data")):
        wanted = {**base.get("train", {}), **wanted}
    else:  # other data have other labels
        wanted = {**_without(base.get("train", {}), "label"), **wanted}
    source = sources.load(data, wanted.get("label"))

    # 2.
    wanted.setdefault("label", source.label)
    if start is not None and "offsets" not in given(args, "train"):
        wanted["offsets"] = "fit" if _is_neutral(start) else "keep"
    config = _training_settings(args, wanted, base, source)
    optional = config.energy_weight == 0
    source.check_label(config.label)
    label_reader(source.pool, config.label, energy_optional=optional)

    # 3.
    torch.manual_seed(config.seed)
    if start is None:
        model = _new_model(args, base, source, config)
    else:
        model = start
        _check_start(model, args, config, source)
        _drop_offsets(model, config)
    model.mode = given(args, "model").get("mode", model.mode)
    _check_data(source, config, model, args)

    # 4.
    directory = directory or _free(Path("runs") / f"{source.name}-{config.label}")
    parts = split(source, data, config.seed, None, saved=False)
    known = Labelled.read(parts.train, config.label, "training", required=not optional)
    if start is not None:
        _check_offsets(model, known, config)
    record = Record(
        data=_absolute(data),
        model=model.config,
        mode=model.mode,
        train=config,
        init=None if args.init is None else str(find(args.init).absolute()),
        parts=parts.sizes,
        fingerprint=known.fingerprint,
    )
    return Plan(directory, record, parts, model, source)


def resumed(args: argparse.Namespace) -> Plan:
    """A run that goes on. Budgets, and the places of its data, may change.

    Raises:
        UsageError: If anything else is asked for than what the run is.
        FileNotFoundError: If there is no run.
    """
    directory = _last_run() if args.directory is None else Path(args.directory)
    run = Record.load(directory)
    places = given(args, "data")
    data = replace(run.data, **{name: places[name] for name in _PLACES if name in places})
    config = replace(run.train, **given(args, "train"))
    changes = config.differences(run.train.to_dict())
    for saved, flags in (
        (vars(run.data), _without(places, *_PLACES)),
        ({**run.model, "mode": run.mode}, given(args, "model")),
    ):
        changes |= {name: (saved[name], new) for name, new in flags.items() if saved[name] != new}
    listed = [f"{flag_of(name)} {new} (it was {old})" for name, (old, new) in changes.items()]
    others = ("model", "init", "preset", "forces", "config")
    listed += [flag_of(name) for name in others if getattr(args, name) is not None]
    if listed:
        raise UsageError(f"--resume goes on with the same run: leave out {', '.join(listed)}")

    run = replace(run, data=_absolute(data), train=config)
    return planned(run, directory, saved=True)


def planned(run: Record, directory: Path, *, saved: bool) -> Plan:
    """A run of which all settings are known.

    Args:
        run: Its settings.
        directory: Where it is kept.
        saved: Whether its split is to be read there, and not drawn again.
    """
    data, config = run.data, run.train
    source = sources.load(data, config.label)
    parts = split(source, data, config.seed, directory if saved else None, saved=saved)
    torch.manual_seed(config.seed)
    if (directory / LAST).exists():
        model = load_averaged(directory / LAST)
    elif run.init is None:
        model = SchNet(**run.model)
    else:
        model = load_model(run.init)
        _drop_offsets(model, config)
    model.mode = run.mode
    return Plan(directory, run, parts, model, source)


def _data_settings(args: argparse.Namespace, base: Mapping[str, Any]) -> dict[str, Any]:
    """Flags before those of ``--config``, if they are of the same data."""
    flags, saved = given(args, "data"), base.get("data", {})
    if "data" not in flags or _is_same(flags["data"], saved.get("data")):
        flags = {**saved, **flags}
    if "data" not in flags:
        raise UsageError("--data is missing: name a set such as qm9-sample, or a file")
    return flags


def _is_same(data: str, saved: str | None) -> bool:
    """Whether data are those of another run, if that says what these were."""
    return saved in (None, data, str(Path(data).absolute()))


def _in_units_of(model: SchNet, data: dict[str, Any], name: str) -> dict[str, Any]:
    """Has energies converted to the unit of a model."""
    if model.units is None or not _is_energy(model.units):
        return data
    if data.get("units") not in (None, model.units):
        raise UsageError(f"'{name}' is in {model.units}: leave out --units {data['units']}")
    return {**data, "units": model.units}


def _is_energy(unit: str) -> bool:
    try:
        convert(1.0, unit, "eV")
    except ValueError:
        return False
    return True


def _training_settings(
    args: argparse.Namespace, wanted: dict[str, Any], base: Mapping[str, Any], source: Source
) -> TrainConfig:
    """Settings that are wanted, and for the others those of the preset."""
    preset: dict[str, Any] = {}
    if "train" in base:
        for name in ("preset", "forces"):
            if getattr(args, name) is not None:
                raise UsageError(f"--{name} and --config both give all settings: leave one out")
    else:
        forces = args.forces
        if forces is None:
            forces = source.has_forces and sources.is_energy(wanted["label"])
        elif forces and not source.has_forces:
            raise UsageError(f"--forces: '{source.name}' has none")
        preset = getattr(TrainConfig, args.preset or PRESETS[0])(forces=forces).to_dict()
    return make(TrainConfig, {**preset, **wanted}, args.config)


def _new_model(
    args: argparse.Namespace, base: Mapping[str, Any], source: Source, config: TrainConfig
) -> SchNet:
    """The model of the preset or of ``--config``, changed by flags."""
    saved = dict(base.get("model", {}))
    if saved and args.model is not None:
        raise UsageError("--model and --config both give an architecture: leave one out")
    head = source.head(config.label)
    units = label_units(source.pool, config.label)
    if config.label == base.get("train", {}).get("label"):
        head = {name: saved.get(name, value) for name, value in head.items()}
    preset = "default" if saved else args.model or next(iter(models.PRESETS))
    settings = {**_without(saved, *head, "units"), **given(args, "model")}
    return models.build(preset, settings, head, units)


def _check_start(
    model: SchNet, args: argparse.Namespace, config: TrainConfig, source: Source
) -> None:
    """Checks that a model is what it is said to be, and fits what it is to learn."""
    wrong = [] if args.model is None else [f"--model {args.model}"]
    wrong += models.contradictions(model, _without(given(args, "model"), "mode"))
    if wrong:
        raise UsageError(f"'{args.init}' gives the architecture: leave out {', '.join(wrong)}")
    target = source.head(config.label)["target"]
    if model.target != target:
        raise UsageError(
            f"'{args.init}' predicts '{model.target}', but the label is '{config.label}'"
        )


def _check_data(
    source: Source, config: TrainConfig, model: SchNet, args: argparse.Namespace
) -> None:
    """Checks that the data have what is to be learnt, in a form that the model understands."""
    first = source.pool[0]
    for name, wanted in (("force", config.with_forces), ("stress", config.with_stress)):
        if wanted and first.get(name) is None:
            weight = getattr(config, f"{name}_weight")
            raise UsageError(f"--{name}-weight {weight:g}: '{source.name}' has no '{name}'")
    if source.is_periodic and reach(model) == math.inf:
        whose = "the model" if args.init is None else f"'{args.init}'"
        remedy = "add --model default --cutoff 5"
        if args.init is not None:
            remedy = "begin with a model that has one"
        elif args.config is not None:
            remedy = "add --envelope cosine --cutoff 5"
        raise UsageError(
            f"'{source.name}' is periodic, and {whose} has no cutoff (its envelope is 'none'), so "
            f"that every atom would have infinitely many neighbours: {remedy}"
        )


def _is_neutral(model: SchNet) -> bool:
    return isinstance(model.readout, AtomwiseReadout) and model.readout.offsets.is_neutral


def _drop_offsets(model: SchNet, config: TrainConfig) -> None:
    """Takes the offsets from a model that is to get others: ``fit`` replaces only neutral ones."""
    if config.offsets == "fit" and isinstance(model.readout, AtomwiseReadout):
        model.readout.offsets.set()


def _check_offsets(model: SchNet, data: Labelled, config: TrainConfig) -> None:
    """Looks whether the offsets that a model keeps are good for other data.

    Raises:
        UsageError: If the data have elements of which it has no atom reference.
    """
    if config.offsets == "fit" or not isinstance(model.readout, AtomwiseReadout):
        return
    unknown = [z for z in data.z.unique().tolist() if not model.species[z]]
    if unknown:
        raise UsageError(
            f"the model has no atom references for the atomic numbers {unknown} of the data, and "
            "its energies would be far off: add --offsets fit"
        )
    offsets = model.readout.offsets
    each = (offsets.atomref + offsets.mean).cpu()[data.z]
    molecule = torch.arange(len(data.sizes)).repeat_interleave(data.sizes)
    known = torch.zeros_like(data.labels).index_add(0, molecule, each)
    sizes = data.sizes.double()
    left = (data.labels * (sizes if model.readout.reduce == "mean" else 1) - known) / sizes
    typical = left.abs().nanmedian().item()
    if typical > _FAR * offsets.std.item():
        warnings.warn(
            f"the labels are {typical:.4g} {model.units or ''} per atom away from the atom "
            f"references of the model, whose scale is {offsets.std.item():.4g}: unless that is "
            "what it is to learn, add --offsets fit",
            stacklevel=2,
        )


def _without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _absolute(data: DataSettings) -> DataSettings:
    """The same data, from whatever folder a command is called."""
    path = Path(data.data)
    return replace(
        data,
        data=str(path.absolute()) if path.is_file() else data.data,
        root=str(Path(data.root).absolute()),
    )


def _free(directory: Path) -> Path:
    """The directory, with a number if it has been used."""
    name = re.sub(r"[^\w.()-]+", "_", directory.name)
    free, number = directory.with_name(name), 1
    while free.exists():
        number += 1
        free = directory.with_name(f"{name}-{number}")
    return free


def _last_run() -> Path:
    """The directory in ``runs/`` that was written to last."""
    found = [path.parent for path in Path("runs").glob(f"*/{NAME}")]
    if not found:
        raise UsageError("--resume: there is no run in 'runs/'; name its --directory")
    return max(found, key=lambda path: max(file.stat().st_mtime for file in path.iterdir()))
