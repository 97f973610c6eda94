r"""Puts the model of a run into the package, with the row of results that tells its errors.

    python benchmarks/publish.py md17-ethanol --run runs/md17/... --json results/md17.json --row KEY

The model is the best one of the run, which is what the row was tested with.
"""

import argparse
import json
import shutil
from pathlib import Path

from pyg_schnet import SchNet
from pyg_schnet.storage import write_atomically

PACKAGE = Path(__file__).parents[1] / "src" / "pyg_schnet" / "pretrained"
# Of a row, what holds no matter which others are in the table.
_LEFT_OUT = ("curve", "mean_predictor", "preset", "name", "frames")


def main(words: list[str] | None = None, package: Path = PACKAGE) -> None:
    """Copies the model and writes its record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="name of the model in SchNet.from_pretrained")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--json", type=Path, required=True, help="file of results")
    parser.add_argument("--row", required=True, help="which of its rows the run is")
    args = parser.parse_args(words)
    rows = json.loads(args.json.read_text())["rows"]
    if args.row not in rows:
        raise SystemExit(f"--row: '{args.json}' has none of this name, but {', '.join(rows)}")
    row = rows[args.row]
    tested = json.loads((args.run / "result.json").read_text())
    if tested.get("test") != row.get("test") or "test" not in row:
        raise SystemExit(f"--row: the errors in '{args.json}' are not those of '{args.run}'")
    model = args.run / "best.safetensors"
    about = {key: value for key, value in row.items() if key not in _LEFT_OUT}
    about["unit"] = SchNet.load(model).units
    package.mkdir(exist_ok=True)
    shutil.copyfile(model, package / f"{args.name}.safetensors")
    text = json.dumps(about, indent=1, sort_keys=True) + "\n"
    write_atomically(package / f"{args.name}.json", text.encode())
    print(f"written: {args.name}, test {row['test']}")


if __name__ == "__main__":
    main()
