r"""Means, scales and atom references of SchNetPack models."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from .schnetpack_parts import Parts

_CASTS = ("CastTo64", "CastTo32", "CastMap")


def take_offsets(parts: Parts, version: int, head: str) -> dict[str, Tensor]:
    """What is done to the output of the network, as arguments of :meth:`Offsets.set`.

    Args:
        parts: The model; what belongs to offsets is taken out.
        version: Version of its format, 1 or 2.
        head: Where its output module is.

    Raises:
        ValueError: If :class:`Offsets` cannot do the same.
    """
    if version == 1:
        return _take_standardization(parts, head)
    return _take_postprocessing(parts, head)


def _take_standardization(parts: Parts, head: str) -> dict[str, Tensor]:
    offsets = {
        "mean": parts.take(f"{head}.standardize.mean"),
        "std": parts.take(f"{head}.standardize.stddev"),
    }
    if parts.has(f"{head}.atomref.weight"):
        offsets["atomref"] = parts.take(f"{head}.atomref.weight")
    return offsets


def _take_postprocessing(parts: Parts, head: str) -> dict[str, Tensor]:
    """All postprocessors in one: the output times ``std``, plus ``mean`` and ``atomref``."""
    if parts.attribute("", "do_postprocessing", True) is False:
        parts.drop("postprocessors.")
        return {}
    output = parts.attribute(head, "output_key")
    extensive = parts.attribute(head, "aggregation_mode", "sum") == "sum"
    offsets = {"mean": torch.zeros(1).double(), "std": torch.ones(1).double()}
    offsets["atomref"] = torch.zeros(1).double()
    numbers = parts.children("postprocessors") or parts.numbered("postprocessors")
    for path in (f"postprocessors.{number}" for number in numbers):
        parts.check_kind(path, ["AddOffsets", "ScaleProperty", *_CASTS])
        if parts.kind(path) in _CASTS:
            continue
        if parts.has(f"{path}.scale"):
            _check_scale(parts, path, output)
            scale = parts.take(f"{path}.scale", [1]).double()
            offsets = {name: scale * value for name, value in offsets.items()}
            continue
        if parts.attribute(path, "_property", output) != output:
            raise ValueError(
                f"'{path}' adds offsets to '{parts.attribute(path, '_property')}', which is not "
                f"what the output module predicts, '{output}'"
            )
        if parts.attribute(path, "is_extensive", extensive) != extensive:
            raise ValueError(
                f"'{path}' adds offsets of an {'in' if extensive else 'ex'}tensive property to a "
                f"{'sum' if extensive else 'mean'} over atoms: SchNet has no such offsets"
            )
        mean = parts.take(f"{path}.mean").double().reshape(-1)
        atomref = parts.take(f"{path}.atomref").double().flatten()
        if parts.attribute(path, "add_mean", True):
            offsets["mean"] = offsets["mean"] + mean
        if parts.attribute(path, "add_atomrefs", True):
            length = max(atomref.numel(), offsets["atomref"].numel())
            atomref, before = (
                pad(a, (0, length - a.numel())) for a in (atomref, offsets["atomref"])
            )
            offsets["atomref"] = before + atomref
    return offsets


def _check_scale(parts: Parts, path: str, output: str | None) -> None:
    """Refuses scales of anything but the output, or of energies whose forces stay as they are."""
    scaled = (parts.attribute(path, "input_key"), parts.attribute(path, "output_key"))
    heads = parts.children("output_modules")
    if not parts.has_module or scaled != (output, output) or len(heads) > 1:
        raise ValueError(
            f"'{path}' scales {scaled[0] or 'a property'}, and SchNet has scales of the output "
            "only, which then hold for its forces too: give the whole model where this is a state "
            "dict, and remove the scale where its forces do not follow"
        )
