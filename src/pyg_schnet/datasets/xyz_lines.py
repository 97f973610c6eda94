r"""Where an XYZ file is broken, which ASE does not tell."""

from itertools import islice
from pathlib import Path


def locate(path: Path, read: int) -> str:
    r"""Says where the first frame is that cannot be read, by number and line.

    Args:
        path: XYZ file, extended or not.
        read: Frames that ASE could read before; none where it could not tell them apart.

    Returns:
        Words for an error; none if it cannot be told.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "two.xyz"
    ...     _ = file.write_text("1\n\nH 0 0 0\n1\n\nH 0 zero 0\n")
    ...     locate(file, 1)
    'frame 1, counted from 0, of lines 4 to 6'
    """
    frames: list[tuple[int, int]] = []  # first and last line of each, from 1
    last = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for header in file:
            first = last + 1
            if header.lstrip().startswith("VEC"):  # of the cell, after the atoms
                last = first
                continue
            if not header.strip():
                break  # ASE ends here too
            if not header.strip().isdecimal():
                return _without_header(header.strip(), first, frames)
            last = first + sum(1 for _ in islice(file, int(header) + 1))
            frames.append((first, last))
    if read >= len(frames):
        return ""
    return f"frame {read}, counted from 0, of lines {frames[read][0]} to {frames[read][1]}"


def stopped_at(path: Path, read: int) -> int | None:
    r"""The blank line between frames at which ASE stopped reading, without a word, if more follows.

    Args:
        path: XYZ file, extended or not, that ASE can read.
        read: Frames that it read.

    Returns:
        Number of the line, from 1.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "two.xyz"
    ...     _ = file.write_text("1\n\nH 0 0 0\n\n1\n\nH 0 0 1\n")
    ...     stopped_at(file, 1)
    4
    """
    last = frames = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for header in file:
            last += 1
            if not header.strip():
                return last if frames == read and any(line.strip() for line in file) else None
            if header.strip().isdecimal():
                last += sum(1 for _ in islice(file, int(header) + 1))
                frames += 1
    return None


def _without_header(header: str, line: int, before: list[tuple[int, int]]) -> str:
    where = f"line {line} should be the number of atoms of frame {len(before)}, counted from 0"
    if before:
        where += f", if that of the frame before, in line {before[-1][0]}, is right"
    return f"{where}, and is '{header[:40]}'"
