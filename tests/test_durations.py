import pytest

from pyg_schnet.durations import duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),  # not 60 s
        (3_599.4, "59 min 59 s"),
        (3_599.6, "1 h 0 min"),
        (5_400, "1 h 30 min"),
        (86_369, "23 h 59 min"),
        (86_371, "1 d 0 h"),
        (10 * 86_400 + 5 * 3_600, "10 d 5 h"),
    ],
)
def test_duration(seconds, words):
    assert duration(seconds) == words
