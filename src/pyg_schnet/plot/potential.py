r"""Local chemical potentials: what an atom would feel somewhere around a molecule."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import Data

from ..graph import radius_graph
from ..nn.system import reach
from .figures import in_units, new_figure
from .molecules import bonds_of, connected, offsets_of, one_molecule, symbol

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..nn import SchNet

# Edges per evaluation.
_MAX_EDGES = 400_000
# What is shown around the molecule, and how finely its surface is looked for, in angstrom.
_MARGIN, _STEP = 2.0, 0.05


def chemical_potential(
    model: "SchNet", data: Data, z_probe: int, *, surface: float = 3.7, pixels: int = 241
) -> "Figure":
    r"""The local chemical potential around a molecule, on a surface and in a plane.

    :math:`\Omega_A(\mathbf{r})` of Schütt et al. (`Nat. Commun. 8, 13890, 2017
    <https://doi.org/10.1038/ncomms13890>`_, and for SchNet `J. Chem. Phys. 148, 241722, 2018
    <https://doi.org/10.1063/1.5019779>`_), see :func:`probe_energies`, shown on the left on the
    surface :math:`\sum_i |\mathbf{r} - \mathbf{r}_i|^{-2} = s` as seen from above, on the right in
    the plane that fits the heavy atoms best, outside of that surface. Both have the same scale.

    Colours compare places, not models: no model is trained on such probes. It is a look at what a
    model has learned, and no energy of a reaction.

    Args:
        model: Model of energies.
        data: One molecule, ``z`` ``[N]`` and ``pos`` ``[N, 3]`` in angstrom.
        z_probe: Atomic number A of the probe.
        surface: The value s, per square angstrom; larger is closer to the atoms.
        pixels: Of each side of a picture.

    Raises:
        TypeError: If ``data`` is no ``Data``.
        ValueError: If it is not one molecule, the model does not know the probe or has neighbours
            of its own making, or ``surface`` or ``pixels`` is too small.
    """
    from matplotlib.colors import LightSource

    if not 0.1 <= surface < float("inf") or pixels < 8:
        raise ValueError(
            "expected a 'surface' of at least 0.1 per square angstrom and at least 8 'pixels' "
            f"(got {surface} and {pixels})"
        )
    z, pos = one_molecule(model, data)
    frame = _Frame.of(z, pos)
    placed = frame.place(pos)  # [N, 3]
    low, high = placed[:, :2].amin(dim=0) - _MARGIN, placed[:, :2].amax(dim=0) + _MARGIN
    half = float((high - low).max()) / 2
    middle = (low + high) / 2
    line = torch.linspace(-half, half, pixels, dtype=torch.float64)
    y, x = torch.meshgrid(line + middle[1], line + middle[0], indexing="ij")
    flat = torch.stack([x.flatten(), y.flatten()], dim=1)  # [P, 2]

    height = _seen_from_above(flat, placed, surface)
    cut = torch.where(_closeness(flat, flat.new_zeros(len(flat)), placed) < surface, 0.0, torch.nan)
    images = []
    for third in (height, cut):
        shown = third.isfinite()
        points = frame.back(torch.cat([flat, third[:, None]], dim=1)[shown])
        image = torch.full(third.shape, torch.nan, dtype=torch.float64)
        image[shown] = probe_energies(model, Data(z=z, pos=pos), z_probe, points.to(pos.dtype))
        images.append(image.reshape(pixels, pixels))

    figure = new_figure(9.0, 4.3)
    panels = figure.subplots(1, 2)
    known = torch.cat([image[image.isfinite()] for image in images])
    scale = {"vmin": float(known.min()), "vmax": float(known.max()), "cmap": "viridis"}
    corners = [float(v) for v in (x.min(), x.max(), y.min(), y.max())]
    place = {"extent": corners, "origin": "lower", "interpolation": "none"}
    titles = (rf"on the surface $\Sigma_i d_i^{{-2}}$ = {surface:g} Å$^{{-2}}$", "in the plane")
    for axes, image, title in zip(panels, images, titles):
        mapped = axes.imshow(image.numpy(), **scale, **place)
        axes.set(title=title, xlabel="x [Å]")
        _draw_molecule(axes, z, pos, placed)
    relief = height.reshape(pixels, pixels)
    light = LightSource(315, 45).hillshade(
        relief.nan_to_num(float(relief.nan_to_num(0.0).min())).numpy(),
        dx=float(line[1] - line[0]),
        dy=float(line[1] - line[0]),
    )
    shade = torch.where(relief.isnan(), 0.0, 0.5 * (1.0 - torch.as_tensor(light)))
    dark = torch.zeros(pixels, pixels, 4)
    dark[..., 3] = shade.clamp(0.0, 1.0)
    panels[0].imshow(dark.numpy(), **place)
    panels[0].set_ylabel("y [Å]")
    panels[1].set_yticklabels([])
    label = rf"$\Omega_\mathrm{{{symbol(z_probe)}}}${in_units(model.units)}"
    figure.colorbar(mapped, ax=panels[1], label=label)
    return figure


@torch.no_grad()
def probe_energies(model: "SchNet", data: Data, z_probe: int, points: Tensor) -> Tensor:
    r"""The energy of an atom placed somewhere around a molecule, :math:`\Omega_A(\mathbf{r})`.

    The probe feels the molecule, but the molecule does not feel the probe: edges lead from the
    atoms to the probe and never back, so that the features of the atoms are those of the molecule
    alone. :math:`\Omega` is the contribution that is then read out for the probe, without the
    offsets of its element.

    Args:
        model: Model of energies.
        data: One molecule, ``z`` ``[N]`` and ``pos`` ``[N, 3]`` in angstrom.
        z_probe: Atomic number A of the probe.
        points: Where to place it, ``[P, 3]`` in angstrom.

    Returns:
        ``[P]``, float64, in the unit of the model.

    Raises:
        TypeError: If ``data`` is no ``Data``.
        ValueError: If it is not one molecule, the model does not know the probe or has neighbours
            of its own making, or a point is that of an atom or beyond the range of the filters.
    """
    z, pos = one_molecule(model, data)
    points = points.detach().to(pos)
    if points.dim() != 2 or points.size(1) != 3:
        raise ValueError(f"'points' must have shape [P, 3] (got {list(points.shape)})")
    known = model.species.cpu()
    if not (0 < z_probe < len(known) and known[z_probe]):
        raise ValueError(
            f"the model was not trained on atomic number {z_probe}: choose a 'z_probe' of "
            f"{known[1:].nonzero().flatten().add(1).tolist()}"
        )
    if model.interaction_graph is not None or model.config["max_num_neighbors"] is not None:
        raise ValueError(
            "a probe needs all neighbours within the cutoff: build the model without "
            "'interaction_graph' and 'max_num_neighbors'"
        )
    radius, size = reach(model), len(z)
    on_atoms = (
        torch.cdist(points, pos, compute_mode="donot_use_mm_for_euclid_dist") == 0
    ).nonzero()
    if len(on_atoms) > 0:
        point, atom = on_atoms[0].tolist()
        raise ValueError(f"point {point} is that of atom {atom}: place the probe somewhere else")
    inner = radius_graph(pos, radius)  # [2, E]
    probe = torch.tensor([z_probe])
    offset = offsets_of(model, probe)
    found = []
    for part in points.split(max(1, _MAX_EDGES // size)):
        distance = (part[:, None] - pos).norm(dim=2)  # [P, N]
        target, source = (distance <= radius).nonzero(as_tuple=True)
        outer = torch.stack([source, target + size])
        all_pos = torch.cat([pos, part])
        edges = torch.cat([inner, outer], dim=1)
        system = Data(
            z=torch.cat([z, probe.expand(len(part))]),
            pos=all_pos,
            edge_index=edges,
            edge_weight=(all_pos[edges[0]] - all_pos[edges[1]]).norm(dim=1),
        )
        result = model.predict(system, forces=False, energies=True)["energies"]
        found.append(result[size:].cpu() - offset)
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


class _Frame(NamedTuple):
    """Coordinates along the plane of a molecule and above it."""

    center: Tensor
    axes: Tensor  # in rows, [3, 3]; the last is the normal

    @classmethod
    def of(cls, z: Tensor, pos: Tensor) -> "_Frame":
        heavy = pos[z > 1].double() if int((z > 1).sum()) >= 3 else pos.double()
        center = heavy.mean(dim=0)
        axes = torch.linalg.svd(heavy - center, full_matrices=True)[2][:2]
        largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
        axes = axes * largest.sign()  # else the sign is up to the machine
        return cls(center, torch.cat([axes, torch.linalg.cross(axes[0], axes[1])[None]]))

    def place(self, pos: Tensor) -> Tensor:
        return (pos.double() - self.center) @ self.axes.T

    def back(self, placed: Tensor) -> Tensor:
        return placed @ self.axes + self.center


def _closeness(flat: Tensor, height: Tensor, placed: Tensor) -> Tensor:
    r"""The sum :math:`\sum_i d_i^{-2}` at points of the plane, lifted, ``[P]``."""
    square = torch.cdist(flat, placed[:, :2]).square() + (height[:, None] - placed[:, 2]).square()
    return square.reciprocal().sum(dim=1)


def _seen_from_above(flat: Tensor, placed: Tensor, surface: float) -> Tensor:
    """Height of the upmost point of the surface, ``[P]``, NaN where one looks past it."""
    # Outside of this distance from every atom the sum is smaller.
    far = (len(placed) / surface) ** 0.5
    top, bottom = float(placed[:, 2].max()) + far, float(placed[:, 2].min())
    height = flat.new_full((len(flat),), torch.nan)
    for level in torch.arange(top, bottom - _STEP, -_STEP, dtype=flat.dtype):
        inside = _closeness(flat, level.expand(len(flat)), placed) >= surface
        height = torch.where(height.isnan() & inside, level, height)
    low, high = height, height + _STEP
    for _ in range(20):
        middle = (low + high) / 2
        inside = _closeness(flat, middle, placed) >= surface
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return low


def _draw_molecule(axes: "Axes", z: Tensor, pos: Tensor, placed: Tensor) -> None:
    for pair in bonds_of(connected(z, pos)):
        ends = placed[list(pair)]
        axes.plot(ends[:, 0].numpy(), ends[:, 1].numpy(), color="k", lw=1, zorder=3)
    for i in placed[:, 2].argsort().tolist():  # the upper ones last
        x, y, above = placed[i].tolist()
        axes.text(
            x,
            y,
            symbol(int(z[i])),
            ha="center",
            va="center",
            fontsize=8,
            zorder=4 + above / 100,
            bbox={"boxstyle": "circle,pad=0.15", "fc": "w", "ec": "k", "lw": 0.8},
        )
