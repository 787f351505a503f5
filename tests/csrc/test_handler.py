"""th_signal_handler, which also finds handlers that Python does not know."""

from __future__ import annotations

import faulthandler
import signal

from thestral._csrc import lib


def test_handlers_of_python_and_of_c():
    number = signal.SIGUSR2
    assert lib.th_signal_handler(number) == 0
    before = signal.signal(number, signal.SIG_IGN)
    try:
        assert lib.th_signal_handler(number) == 1
        signal.signal(number, print)
        pythons = lib.th_signal_handler(number)
        assert pythons > 1
        faulthandler.register(number, chain=False)
        try:
            assert lib.th_signal_handler(number) not in (0, 1, pythons)
            assert signal.getsignal(number) is print
        finally:
            faulthandler.unregister(number)
        assert lib.th_signal_handler(number) == pythons
    finally:
        signal.signal(number, before)
    assert lib.th_signal_handler(number) == 0


def test_no_such_signal():
    assert lib.th_signal_handler(-1) == lib.th_signal_handler(100_000) == 1
