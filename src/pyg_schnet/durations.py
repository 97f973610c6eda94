r"""Lengths of time for people."""


def duration(seconds: float) -> str:
    """A length of time in words, to two units.

    Args:
        seconds: Its length, 0 or more.

    >>> [duration(seconds) for seconds in (0.31, 42.4, 200, 4_325, 187_200)]
    ['0.3 s', '42 s', '3 min 20 s', '1 h 12 min', '2 d 4 h']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    # Rounded to the smaller unit first: 3,599.7 s is one hour, not 59 minutes and 60 seconds.
    if (whole := round(seconds)) < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    if (minutes := round(seconds / 60)) < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3_600)
    return f"{hours // 24} d {hours % 24} h"
