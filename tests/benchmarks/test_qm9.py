"""The benchmark of QM9 splits once, gives each target its readout, and combines ensembles."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from suites import arguments

from pyg_schnet.data.units import BOHR, HARTREE, KCAL_PER_MOL
from pyg_schnet.datasets import QM9Sample
from pyg_schnet.nn import AtomwiseReadout, DipoleReadout


@pytest.fixture
def qm9(load):
    return load("qm9")


@pytest.fixture
def data(load):
    return load("qm9_data")


@pytest.fixture
def small(data, monkeypatch) -> None:
    """Networks that take less time."""
    for name, settings in (
        ("EnnS2S", {"hidden_channels": 8, "num_edge_features": 4}),
        ("SpatialExtentSchNet", {"num_gaussians": 30, "num_interactions": 1}),
        ("SchNet", {"num_gaussians": 30, "num_interactions": 1}),
    ):

        class Small(getattr(data, name)):
            def __init__(self, settings=settings, **given):
                super().__init__(**(given | settings))

        monkeypatch.setattr(data, name, Small)


def saved(path: Path) -> dict[str, dict]:
    return json.loads(path.read_text())["rows"]


def test_quick(qm9, small, tmp_path) -> None:
    path = tmp_path / "qm9.json"
    qm9.run(arguments(qm9, "--quick", "--json", str(path)))
    rows = saved(path)
    assert len(rows) == 4 + len(qm9.ROWS) + 3
    start = "U0, 600 molecules of QM9Sample, N = 100, split 0, "
    for row in rows.values():
        assert row["sizes"] == {"train": 100, "val": 60, "test": 60}
        assert np.isfinite(row["test"]["energy_mae"])
    assert rows[f"{start}dtnn, 10steps, seed 0"]["parameters"] == 13_291
    # The mean of five is at least as good as they are on average.
    five = rows[f"{start}enn-s2s-ens5, 10steps, seed 0"]
    members = [rows[f"{start}enn-s2s, 10steps, seed {seed}"] for seed in range(5)]
    assert five["members"] == [row["test"] for row in members]
    mean = np.mean([row["test"]["energy_mae"] for row in members])
    assert five["test"]["energy_mae"] <= mean + 1e-9
    assert five["step"] == 50
    assert five["parameters"] == 5 * members[0]["parameters"]
    assert rows[f"{start}mean"]["test"]["energy_mae"] > 1e4
    assert rows[f"{start}linear"]["test"]["energy_mae"] < 40
    text = path.with_suffix(".md").read_text()
    assert "| *DTNN, published* | 50,000 | | | | | | *0.94* |" in text
    assert "| DTNN | 50,000 | | | | | | not run |" in text
    assert "| DTNN, seed 0 | 100 | 10steps | 10 |" in text
    assert "| alpha | Bohr^3 | *0.235* | | | | | not run |" in text
    row = rows[start.replace("U0", "gap") + "schnet-fast, 10steps, seed 0"]
    in_mev = 1e3 * KCAL_PER_MOL * row["test"]["energy_mae"]
    line = next(line for line in text.splitlines() if line.startswith("| gap | meV | *63* |"))
    assert line.endswith(f"| 100 | 10steps, 0 | **{in_mev:,.1f}** |")
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_rows_of_a_file(qm9, small, tmp_path, monkeypatch, capsys) -> None:
    """Rows are kept and not run again; ensembles wait for their members."""
    monkeypatch.setattr(qm9, "draw", lambda results: Figure())
    sample = QM9Sample(targets=["U0"], units="Hartree")[:200]
    np.savez(
        tmp_path / "some.npz",
        n_atoms=np.array([data.num_nodes for data in sample]),
        Z=torch.cat([data.z for data in sample]).numpy(),
        R=torch.cat([data.pos for data in sample]).numpy(),
        U0=torch.cat([data.y for data in sample]).numpy()[:, 0],
    )
    path = tmp_path / "out.json"
    words = ["--data", str(tmp_path / "some.npz"), "--json", str(path), "--budget", "2steps"]
    words += ["--directory", str(tmp_path / "runs")]
    qm9.run(arguments(qm9, *words, "--rows", "dtnn", "enn-s2s-ens5", "--num-train", "50", "100"))
    first = saved(path)
    name = "U0, 200 molecules of QM9, N = {}, split 0, dtnn, 2steps, seed 0"
    assert list(first) == [name.format(50), name.format(100)]
    assert (
        "rows are not done: U0_200-molecules-of-QM9_N50_split-0_enn-s2s" in capsys.readouterr().out
    )
    assert str(tmp_path) not in path.read_text()
    qm9.run(arguments(qm9, *words, "--rows", "dtnn", "--num-train", "50", "--lr", "0.001"))
    qm9.run(arguments(qm9, *words, "--rows", "dtnn", "--num-train", "50"))
    rows = saved(path)
    assert rows[name.format(50)] == first[name.format(50)]
    other = rows[name.format(50).replace("2steps", "2steps, lr 0.001")]
    assert [row["config"]["lr"] for row in (rows[name.format(50)], other)] == [2e-3, 1e-3]
    assert "--lr 0.001 --budget 2steps" in other["command"]
    words += ["--rows", "dtnn", "--num-train", "50", "--budget", "4steps", "--after"]
    qm9.run(arguments(qm9, *words, "2steps"))
    longer = saved(path)[name.format(50).replace("2steps", "4steps after 2steps")]
    assert longer["step"] == 4
    assert longer["command"].endswith("--budget 4steps --seed 0 --after 2steps")
    with pytest.raises(SystemExit, match=r"3steps_seed-0' has no run that is done"):
        qm9.run(arguments(qm9, *words, "3steps"))
    capsys.readouterr()
    qm9.run(arguments(qm9, "--json", str(path)))  # tables only
    assert capsys.readouterr().out.startswith(path.with_suffix(".md").read_text())


def test_ensemble_needs_the_same_molecules(qm9, tmp_path) -> None:
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        np.savez(tmp_path / str(i) / "test.npz", predicted=np.ones(3), reference=np.arange(3) + i)
    folders = [tmp_path / "0", tmp_path / "1"]
    assert qm9.combine(folders) is None  # tested, but not done
    for folder in folders:
        (folder / "result.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"1' was tested with other molecules"):
        qm9.combine(folders)
    (tmp_path / "1" / "test.npz").unlink()  # as of one that diverged
    assert qm9.combine(folders) is None


def test_split_is_the_same_for_all_sizes(data) -> None:
    sample = QM9Sample(targets=["U0"])
    few, many = data.split(sample, 100, 3), data.split(sample, None, 3)
    assert many.sizes == {"train": 2352, "val": 293, "test": 293}
    numbers = [
        {molecule.idx.item() for molecule in part}
        for part in (few.train, many.train, few.val, few.test)
    ]
    assert numbers[0] < numbers[1]
    assert len(set.union(*numbers)) == len(sample) == len(numbers[1]) + 2 * 293
    assert numbers[3] == {molecule.idx.item() for molecule in many.test}
    with pytest.raises(SystemExit, match="2,352 of the 2,938 molecules can be trained on"):
        data.split(sample, 2353, 0)


def test_split_of_the_paper(data, monkeypatch) -> None:
    """110,462 molecules to train on, 1,000 to validate, all others to test."""
    asked = []
    monkeypatch.setattr(
        data, "random_split", lambda dataset, sizes, seed: asked.append(sizes) or [dataset] * 3
    )
    data.split(range(130_831), 1000, 0)
    assert asked == [[19_369, 1_000, -1]]


def test_curve(qm9, data) -> None:
    source = data.open_qm9(None, None, "U0")
    assert qm9.sizes_of(arguments(qm9, "--curve"), source) == [1_000, 2_000, 2_352]
    assert qm9.sizes_of(arguments(qm9, "--num-train", "7", "9"), source) == [7, 9]
    assert qm9.sizes_of(arguments(qm9), source) == [None]


def test_units_of_targets(data) -> None:
    """What is read from files is what the sample of the package has."""
    values = {}
    for target in ("U0", "gap", "mu", "Cv"):
        source = data.open_qm9(None, None, target)
        assert source.name == "QM9Sample"
        values[target] = source.dataset[7].y.item(), source.unit
    original = QM9Sample()[7]
    index = QM9Sample().target_index
    kcal = 1 / KCAL_PER_MOL
    assert values["U0"] == (pytest.approx(original.y[0, index("U0")].item() * kcal), "kcal/mol")
    assert values["gap"] == (pytest.approx(original.y[0, index("gap")].item() * kcal), "kcal/mol")
    assert values["mu"] == (original.y[0, index("mu")].item(), "Debye")
    assert values["Cv"] == (original.y[0, index("Cv")].item(), "cal/mol/K")


def test_targets_in_files(data, tmp_path) -> None:
    """Under their original names, in Hartree, without the uncharacterized."""
    np.savez(
        tmp_path / "some.npz",
        n_atoms=np.array([2, 2]),
        Z=np.array([1, 1, 1, 9]),
        R=np.arange(12.0).reshape(4, 3),
        g298=np.array([-1.0, -2.0]),
        r2=np.array([3.0, 4.0]),
        uncharacterized=np.array([True, False]),
    )
    source = data.open_qm9(None, tmp_path / "some.npz", "G")
    assert len(source.dataset) == 1
    assert source.dataset[0].G.item() == pytest.approx(-2.0 * HARTREE / KCAL_PER_MOL)
    assert data.read_file(tmp_path / "some.npz", "r2")[0].r2.item() == 4.0
    with pytest.raises(SystemExit, match="no target 'gap', only n_atoms"):
        data.open_qm9(None, tmp_path / "some.npz", "gap")


def test_networks(data) -> None:
    def network(name: str, target: str):
        return data.network(name, data.Source([], "QM9", target, "x"))

    assert network("schnet-fast", "U0").config == network("schnet-paper", "U0").config
    assert type(network("schnet-fast", "mu").readout) is DipoleReadout
    gap, alpha = network("schnet-fast", "gap"), network("schnet-fast", "alpha")
    assert type(gap.readout) is type(alpha.readout) is AtomwiseReadout
    assert (gap.readout.reduce, alpha.readout.reduce) == ("mean", "sum")
    assert (gap.target, alpha.target, network("dtnn", "U0").target) == ("gap", "alpha", "energy")
    assert network("enn-s2s", "homo").readout.reduce == "mean"
    with pytest.raises(SystemExit, match="dtnn has no readout for 'r2'"):
        network("dtnn", "r2")


def test_fits(qm9, data) -> None:
    """Means and least squares, by NumPy."""
    sample = QM9Sample(targets=["U0"], units="kcal/mol")
    parts = data.Parts(sample[:300], sample[300:310], sample[400:500])
    numbers = [1, 6, 7, 8, 9]

    def arrays(part):
        counts = [[(molecule.z == z).sum().item() for z in numbers] for molecule in part]
        return np.array(counts, float), np.array([molecule.y.item() for molecule in part])

    (counts, energy), (others, wanted) = arrays(parts.train), arrays(parts.test)
    found = qm9.fit_row("mean", parts, "U0")["test"]
    assert found["energy_mae"] == pytest.approx(np.abs(wanted - energy.mean()).mean())
    references = np.linalg.lstsq(counts, energy)[0]
    found = qm9.fit_row("linear", parts, "U0")["test"]
    assert found["energy_mae"] == pytest.approx(np.abs(wanted - others @ references).mean())


def test_spatial_extent(data, tmp_path) -> None:
    """Electrons times squared distances from the centre of mass, in Bohr^2."""
    torch.manual_seed(0)
    model = data.SpatialExtentSchNet.paper(units="Bohr^2", num_gaussians=30)
    with torch.no_grad():
        model.readout.lin2.weight.zero_()
        model.readout.lin2.bias.fill_(0.5)
    z, pos = torch.tensor([8, 1, 1]), torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]])
    mass = torch.tensor([15.999, 1.008, 1.008])
    centre = (mass[:, None] * pos).sum(0) / mass.sum()
    squared = ((pos - centre) ** 2).sum(1) / BOHR**2
    expected = (torch.tensor([8.5, 1.5, 1.5]) * squared).sum().item()
    assert model(z, pos).item() == pytest.approx(expected, rel=1e-4)
    assert model(z, pos + 7.0).item() == pytest.approx(expected, rel=1e-4)
    assert model.target == "r2"
    model.save(tmp_path / "model.safetensors")
    loaded = data.SpatialExtentSchNet.load(tmp_path / "model.safetensors")
    assert loaded(z, pos).item() == pytest.approx(expected, rel=1e-4)


def test_tables_without_rows(qm9, data, tmp_path) -> None:
    """They say what has not been run."""
    path = tmp_path / "none.json"
    qm9.run(arguments(qm9, "--json", str(path)))
    text = path.with_suffix(".md").read_text()
    assert text.count("not run") == 3 * len(qm9.ROWS) + len(data.TARGETS)
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_wrong_arguments(qm9, capsys) -> None:
    for words in (["--rows", "sgdml"], ["--targets", "energy"], ["--budget", "soon"]):
        with pytest.raises(SystemExit):
            arguments(qm9, *words)
    with pytest.raises(SystemExit):
        arguments(qm9, "--curve", "--num-train", "10")
    assert "not allowed with argument" in capsys.readouterr().err
