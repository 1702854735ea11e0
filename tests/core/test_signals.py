"""Which signals interrupt a command."""

import os
import signal

import pytest

from core.signals import INTERRUPTING, handle


@pytest.fixture(autouse=True)
def _as_before():
    before = {number: signal.getsignal(number) for number in INTERRUPTING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_closed_terminal_interrupts():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    found = []
    assert handle(lambda number, frame: found.append(number))[signal.SIGHUP] is signal.SIG_DFL
    for number in INTERRUPTING:
        os.kill(os.getpid(), number)
    assert found == [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def test_nohup_keeps_its_meaning():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert signal.SIGHUP not in handle(lambda number, frame: pytest.fail("called"))
    os.kill(os.getpid(), signal.SIGHUP)
