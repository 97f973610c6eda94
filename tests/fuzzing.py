"""Random and malformed input: how much of it there is, and what may come of it.

By default it is the same in every run. ``PYG_SCHNET_FUZZ=10000 pytest tests/fuzz`` tries so many
examples of each kind, others each time; Hypothesis prints those that fail, as small as they get.
"""

import os
import re
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import pyg_schnet

EXAMPLES = int(os.environ.get("PYG_SCHNET_FUZZ", "0"))
_OURS = str(Path(pyg_schnet.__file__).parent)
# Nothing here is large: whatever takes longer, of the time of the processor, hangs. Long runs look
# at it; the default one must not fail of a machine that compiles its first kernels meanwhile.
_SECONDS = 10.0 if EXAMPLES else float("inf")


def fuzz(examples: int) -> settings:
    """Settings for a test with so many examples by default."""
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


def answer(call: Callable[[], Any], *, others: tuple[type[Exception], ...] = ()) -> Any:
    """What a call returns; ``None`` if it refuses its input as it should.

    That is by a ValueError or TypeError that our own code raises, and that says something.
    """
    begin, refusal = time.process_time(), None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            result = call()
    except (ValueError, TypeError, *others) as error:
        result, refusal = None, error
    assert time.process_time() - begin < _SECONDS, "it hangs"
    if refusal is not None:
        place = traceback.extract_tb(refusal.__traceback__)[-1]
        said = f"{type(refusal).__name__} by {place.filename}:{place.lineno}: {refusal}"
        assert place.filename.startswith(_OURS), f"no words of ours: {said}"
        assert len(str(refusal)) > 20, f"few words: {said}"
    return result


# What breaks a text: numbers that are none, too large, too many, and other signs.
WORDS = (
    b"nan",
    b"inf",
    b"-1",
    b"0",
    b"1e300",
    b"1e400",
    b"99999999999999999999",
    b"1.0*^-6",
    b"Xx",
    b"",
)
WORDS += (b"\x00", b"\xff\xfe", b"$$$$", b"\n", b'"', b"V3000", b"M  END", b"Lattice=", b"(" * 50)


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """A file cut short, with other bits, other words, other ends, or with nothing right in it."""
    how = draw(st.sampled_from(("bits", "cut", "words", "lines", "hole", "twice", "noise")))
    place = st.integers(0, max(len(content) - 1, 0))
    if how == "bits":
        changed = bytearray(content)
        for at in draw(st.lists(place, min_size=1, max_size=8)):
            changed[at] ^= 1 << draw(st.integers(0, 7))
        return bytes(changed)
    if how == "cut":
        return content[: draw(place)]
    if how == "words":
        parts = re.split(rb"(\s+)", content)
        for _ in range(draw(st.integers(1, 3))):
            parts[draw(st.integers(0, len(parts) - 1))] = draw(st.sampled_from(WORDS))
        return b"".join(parts)
    if how == "lines":
        return b"\n".join(draw(st.permutations(content.split(b"\n")[:40])))
    if how == "hole":
        start, stop = sorted((draw(place), draw(place)))
        return content[:start] + content[stop:]
    if how == "twice":
        return content + content[draw(place) :]
    return draw(st.binary(max_size=200))
