"""Signals, caught between steps."""

import signal
import threading

import pytest
from training_runs import CONFIG, changed, new_model, without_time

from pyg_schnet.training import fit
from pyg_schnet.training.interrupt import stop_on_signal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_for_the_step(number):
    before = signal.getsignal(number)
    with stop_on_signal() as stop:
        assert not stop.is_set()
        signal.raise_signal(number)
        assert stop.is_set()
        signal.raise_signal(signal.SIGTERM)  # again and again, as of schedulers of clusters
    assert signal.getsignal(number) is before


def test_a_second_interrupt_stops_at_once():
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signal():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_have_no_signals():
    seen = []

    def work():
        with stop_on_signal() as stop:
            seen.append(stop.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


@pytest.mark.parametrize("epochs", [1, 2])
def test_interrupted_in_a_validation(parts, tmp_path, epochs):
    """In the first, that is the last one of a run of one epoch."""
    config = changed(CONFIG, epochs=epochs)

    def interrupt(row):
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="stopped by a signal; go on with fit"):
        fit(new_model(), *parts[:2], config, tmp_path, log=interrupt)
    history = fit(new_model(seed=9), *parts[:2], config, tmp_path, resume=True)
    assert without_time(history) == without_time(fit(new_model(), *parts[:2], config))
