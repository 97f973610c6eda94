"""The Python of the README runs, in one namespace from top to bottom."""

import re
from pathlib import Path

import pytest

import pyg_schnet.datasets
from pyg_schnet import SchNet

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_snippets_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # The whole of QM9 and a day of training are stood in for by the sample and one epoch.
    monkeypatch.setattr(
        pyg_schnet.datasets,
        "QM9",
        lambda root, cutoff: pyg_schnet.datasets.QM9Sample(cutoff=cutoff),
    )
    text = README.read_text()
    text = text.replace("[110_462, 1_000, -1]", "[60, 20, 20]")
    assert text.count('max_time="2h"') == 1
    text = text.replace('max_time="2h"', "epochs=1")
    namespace: dict = {}
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for snippet in snippets:
        exec(snippet, namespace)
    assert len(snippets) >= 3
    assert namespace["result"]["energy"].shape == (1,)
    assert namespace["result"]["forces"].shape == (3, 3)
    assert namespace["x"].shape == (3, 32)
    assert namespace["crystal"]["stress"].shape == (1, 3, 3)
    assert namespace["calculator"].model.units == "kcal/mol"
    assert len(namespace["ethanol"]) == 1_000
    assert [data.num_nodes for data in namespace["mine"]] == [9, 12]
    assert float(capsys.readouterr().out) > 0
    assert SchNet.load(tmp_path / "runs" / "mine" / "best.safetensors").units == "eV"
