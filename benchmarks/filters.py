r"""What the filter-generating network is worth: the paper's, and others in its place.

    python benchmarks/run.py filters --data qm9.npz --budget 10m
    python benchmarks/run.py filters --root data/QM9 --num-train 10000 --only paper "raw distance"

Every row has the same data, budget and recipe. Rows that were stopped go on, rows that are done
are not run again unless ``--again`` asks for it; ``--only`` without names only writes the tables.
Pictures of the learned filters of each block are in the folder of each run, and of some rows beside
the results.
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import studies
import torch
from PIL import Image
from rows import Parts
from studies import UNITS, Study, Variant
from torch import Tensor, nn
from variants import BinnedFilter, Distance, VectorFilter, VectorSchNet, attentive, near

from pyg_schnet import MoleculeLoader, SchNet
from pyg_schnet.nn import BesselBasis, RadialFilter
from pyg_schnet.plot import filters
from pyg_schnet.training import label_reader

SUMMARY = "what the filter-generating network is worth: other filters in its place, on QM9"
# Rows whose filters are pictured beside the results.
PICTURED = ("paper", "raw distance", "bins", "Bessel")
# Molecules that are rotated.
ROTATED = 500
# Where filters of a fresh network are compared, in angstrom: as far apart as atoms of QM9 are.
NEAREST, FARTHEST = 1.0, 8.0


def paper(**changes: Any) -> Callable[[], SchNet]:
    """The network of the paper with some changes."""
    return partial(SchNet.paper, units=UNITS, **changes)


def with_filter(make: Callable[[], nn.Module], kind: type[SchNet] = SchNet) -> Callable[[], SchNet]:
    """The network of the paper with other filters, for all pairs of atoms."""
    return partial(kind.paper, units=UNITS, filter=make)


def to_5(envelope: str, **changes: Any) -> Callable[[], SchNet]:
    """The network of the paper with filters to 5 A."""
    settings: dict[str, Any] = {"num_gaussians": 50, "cutoff": 5.0, "gaussian_range": (0.0, 4.9)}
    return paper(**(settings | {"envelope": envelope} | changes))


def radial(basis: Callable[[], nn.Module], cutoff: float, **settings: Any) -> RadialFilter:
    """64 filters on a basis, with two activations as in the paper."""
    return RadialFilter(64, basis(), cutoff, num_activations=2, **settings)


VARIANTS = {
    "paper": Variant("300 Gaussians 0.1 A apart to 30 A, two activations, all pairs", paper()),
    "one activation": Variant("none behind the second dense layer", paper(num_activations=1)),
    "raw distance": Variant(
        "no basis: the dense layers on the distance itself",
        with_filter(partial(radial, Distance, 30.0, envelope="none")),
    ),
    "vectors": Variant(
        "no basis: the dense layers on the displacement vector",
        with_filter(partial(VectorFilter, 64), VectorSchNet),
    ),
    "bins": Variant(
        "discrete: a parameter for each 0.1 A to 30 A",
        with_filter(partial(BinnedFilter, 64, 300, 30.0)),
    ),
    "Bessel": Variant(
        "64 Bessel functions to 30 A",
        with_filter(partial(radial, partial(BesselBasis, 64, 30.0), 30.0, envelope="none")),
    ),
    "spacing 0.2": Variant(
        "150 Gaussians 0.2 A apart", paper(num_gaussians=150, gaussian_range=(0.0, 29.8))
    ),
    "spacing 0.5": Variant(
        "60 Gaussians 0.5 A apart, and as wide",
        paper(num_gaussians=60, gaussian_range=(0.0, 29.5), gamma=None),
    ),
    "centres to 5 A": Variant(
        "50 Gaussians to 4.9 A: beyond, filters are constant",
        paper(num_gaussians=50, gaussian_range=(0.0, 4.9)),
    ),
    "cosine 10 A": Variant(
        "cosine envelope to 10 A, 100 Gaussians",
        paper(num_gaussians=100, gaussian_range=(0.0, 9.9), cutoff=10.0, envelope="cosine"),
    ),
    "cosine 5 A": Variant("cosine envelope to 5 A, 50 Gaussians", to_5("cosine")),
    "polynomial 5 A": Variant("polynomial envelope to 5 A, 50 Gaussians", to_5("polynomial")),
    "cut at 5 A": Variant(
        "no envelope, but neighbours to 5 A only: the energy jumps there",
        to_5("none", interaction_graph=partial(near, 5.0)),
    ),
    "Bessel 5 A": Variant(
        "cosine envelope to 5 A, 16 Bessel functions",
        to_5("cosine", filter=partial(radial, partial(BesselBasis, 16, 5.0), 5.0)),
    ),
    "attention": Variant(
        "weights of the sums over neighbours by attention", lambda: attentive(paper()())
    ),
}
TEXT = [
    "U0 learned by the network of the paper with other filters: 64 features, 3 interaction blocks,",
    "the same data, budget and recipe for all. *Ratio*: test MAE over that of the paper's filters.",
    f"*Rotation*: mean change of the energy when {ROTATED} test molecules are rotated, in float64, "
    "and what",
    "that adds to their MAE. *Alike at first*: mean correlation (magnitude) of the filters of the",
    f"first block before training, over distances from {NEAREST:g} to {FARTHEST:g} A. On the "
    "distance itself they are",
    "nearly linear at first and so all alike, to which the paper puts down the plateau in the",
    "training of such a network.",
]


def alike(model: SchNet) -> dict[str, float]:
    """How much the filters of the first block resemble each other."""
    filter: Any = model.interactions[0].conv.filter  # type: ignore[union-attr] # untyped in lists
    distance = torch.linspace(NEAREST, FARTHEST, 200)
    given: tuple[Tensor, ...] = (distance[distance <= getattr(filter, "d_max", FARTHEST)],)
    if isinstance(filter, VectorFilter):
        given = (distance, distance.unsqueeze(-1) * torch.tensor([0.6, 0.0, 0.8]))
    with torch.no_grad():
        values = filter(*given)
    correlation = torch.corrcoef(values.T.double()).abs()
    apart = ~torch.eye(len(correlation), dtype=torch.bool)
    return {"alike": correlation[apart].nanmean().item()}


def look(model: SchNet, parts: Parts, label: str, folder: Path) -> dict[str, float]:
    """Rotates test molecules, and draws the filters."""
    if not isinstance(model, VectorSchNet):
        filters(model).savefig(folder / "filters.png", dpi=90)
    return rotation(model, parts.test[:ROTATED], label)


def rotation(model: SchNet, molecules: Any, label: str) -> dict[str, float]:
    """Mean change of the energy of rotated molecules, and of their MAE, in float64."""
    model = copy.deepcopy(model).double().eval()
    generator = torch.Generator().manual_seed(0)
    read = label_reader(molecules, label)
    changes, added = [], []
    for batch in MoleculeLoader(molecules, 100):
        batch.pos = batch.pos.double()
        before = model.predict(batch, forces=False)["energy"]
        matrices = rotations(batch.num_graphs, generator)[batch.batch]  # [N, 3, 3]
        batch.pos = (matrices @ batch.pos.unsqueeze(-1)).squeeze(-1)
        after = model.predict(batch, forces=False)["energy"]
        changes.append((after - before).abs())
        added.append((after - read(batch)).abs() - (before - read(batch)).abs())
    return {
        "rotation_change": torch.cat(changes).mean().item(),
        "rotation_added_mae": torch.cat(added).mean().item(),
    }


def rotations(count: int, generator: torch.Generator) -> Tensor:
    """Random rotations ``[count, 3, 3]``, uniform over all of them."""
    normal = torch.randn(count, 3, 3, generator=generator, dtype=torch.float64)
    orthogonal, triangular = torch.linalg.qr(normal)
    signs = triangular.diagonal(dim1=1, dim2=2).sign()  # without them they are not uniform
    orthogonal = orthogonal * signs.unsqueeze(1)
    return orthogonal * torch.linalg.det(orthogonal).sign().view(-1, 1, 1)


def keep_picture(path: Path, folder: Path, name: str) -> None:
    """Puts the picture of some filters beside the results."""
    picture = folder / "filters.png"
    if name in PICTURED and picture.exists():
        copied = path.with_name(f"{path.stem}_{name.replace(' ', '_').lower()}.png")
        Image.open(picture).convert("RGB").quantize(256).save(copied, optimize=True)  # smaller


STUDY = Study(
    name="filters",
    title="Filters",
    text=TEXT,
    variants=VARIANTS,
    columns={
        "rotation": lambda row: f"{row['rotation_change']:.1e}",
        "added MAE": lambda row: f"{row['rotation_added_mae']:+.3f}",
        "alike at first": lambda row: f"{row['alike']:.2f}",
    },
    fresh=alike,
    trained=look,
    finish=keep_picture,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this suite."""
    studies.add_arguments(parser, STUDY)


def run(args: argparse.Namespace) -> None:
    """Trains all rows that are asked for, and writes the results after each."""
    studies.run(args, STUDY)
