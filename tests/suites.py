"""The folder of the benchmarks, which is no package, and the options of its suites."""

import argparse
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[1] / "benchmarks"


def arguments(suite: ModuleType, *words: str) -> argparse.Namespace:
    """What a suite makes of the words of a command."""
    parser = argparse.ArgumentParser()
    suite.add_arguments(parser)
    return parser.parse_args(words)
