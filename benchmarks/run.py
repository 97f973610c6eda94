r"""Runs the benchmarks: one command for each, results as files.

python benchmarks/run.py list
python benchmarks/run.py speed                 # the whole race, about 15 minutes on 2 cores
python benchmarks/run.py speed --quick         # under a minute, without peers in other environments
python benchmarks/run.py speed --python schnetpack=/path/to/its/python
python benchmarks/run.py scaling               # 100 to 100,000 atoms, about 10 minutes
python benchmarks/run.py scaling --quick       # to 3,000 atoms, under a minute
python benchmarks/run.py loader                # loading of mini-batches, a minute
python benchmarks/run.py loader --root data/QM9
python benchmarks/run.py md17 --root data/MD17 --molecules ethanol --budget 20m
python benchmarks/run.py md17 --root data/MD17 --molecules ethanol --rows dtnn --num-train 50000
python benchmarks/run.py md17 --root data/MD17 --molecules ethanol --rows gdml sgdml \
    --python sgdml=/path/to/its/python
python benchmarks/run.py md17 --quick          # a few steps on the shipped sample
python benchmarks/run.py qm9 --root data/QM9 --rows schnet-fast dtnn --num-train 50000 --budget 1h
python benchmarks/run.py qm9 --quick           # all rows, a few steps on the shipped sample
python benchmarks/run.py iso17 --root data/ISO17 --rows fast --tasks forces --budget 1h
python benchmarks/run.py iso17 --quick         # a few steps on a sample of ISO17-GFN2
python benchmarks/run.py recipes --md17 data/MD17 --qm9 qm9.npz --seconds 150
python benchmarks/run.py filters --data qm9.npz --budget 10m
python benchmarks/run.py convs --root data/QM9 --budget 10m
python benchmarks/run.py md --python schnetpack=...   # dynamics of one molecule, three minutes
python benchmarks/run.py md --quick            # few steps, under half a minute
python benchmarks/run.py epoch                 # what the training loop adds to the steps, a minute
python benchmarks/run.py gpu --data qm9.npz    # on a GPU: tests, then all of the next, in 8 minutes
python benchmarks/run.py epoch --device cuda --data qm9.npz
python benchmarks/run.py speed --device cuda   # beside PyG, eager and compiled; --device cpu, too
python benchmarks/run.py scaling --device cuda # to 1,000,000 atoms
python benchmarks/run.py md --device cuda
python benchmarks/run.py qm9 --device cuda --data qm9.npz --rows schnet-fast --budget 10m
"""

import argparse

import convs
import epoch
import filters
import gpu
import iso17
import loader
import md
import md17
import qm9
import recipes
import scaling
import speed

SUITES = {
    "speed": speed,
    "scaling": scaling,
    "loader": loader,
    "md": md,
    "epoch": epoch,
    "qm9": qm9,
    "md17": md17,
    "iso17": iso17,
    "recipes": recipes,
    "filters": filters,
    "convs": convs,
    "gpu": gpu,
}


def main() -> None:
    """Reads the command line and hands over to a suite."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="suite", required=True)
    commands.add_parser("list", help="what each suite shows")
    for name, suite in SUITES.items():
        suite.add_arguments(commands.add_parser(name, help=suite.SUMMARY))
    args = parser.parse_args()
    if args.suite == "list":
        for name, suite in SUITES.items():
            print(f"{name:12} {suite.SUMMARY}")
    else:
        SUITES[args.suite].run(args)


if __name__ == "__main__":
    main()
