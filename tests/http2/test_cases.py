"""Checks of the cases themselves: they can be read and sent, and cover every subject of h2spec."""

from __future__ import annotations

import frames
import pytest
from conformance import Expectation, Writer, load, styles

CASES = load()
SERVER = {**frames.DEFAULTS, frames.Setting.MAX_CONCURRENT_STREAMS: 2}
# Number of subjects in each section of h2spec 2.6, by group.
H2SPEC = {
    "generic": {
        "1": 1, "2": 5, "3.1": 3, "3.2": 3, "3.3": 5, "3.4": 1, "3.5": 1, "3.7": 1, "3.8": 1,
        "3.9": 2, "3.10": 2, "4": 4, "5": 15,
    },
    "http2": {
        "3.5": 2, "4.1": 3, "4.2": 3, "4.3": 3, "5.1": 13, "5.1.1": 2, "5.1.2": 1, "5.3.1": 2,
        "5.4.1": 2, "5.5": 2, "6.1": 3, "6.2": 4, "6.3": 2, "6.4": 3, "6.5": 3, "6.5.2": 5,
        "6.5.3": 2, "6.7": 4, "6.8": 1, "6.9": 3, "6.9.1": 3, "6.9.2": 3, "6.10": 6, "7": 2,
        "8.1": 1, "8.1.2": 1, "8.1.2.1": 4, "8.1.2.2": 2, "8.1.2.3": 7, "8.1.2.6": 2, "8.2": 1,
    },
    "hpack": {"2.3.3": 2, "4.2": 1, "5.2": 3, "6.1": 1, "6.3": 1},
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_every_step_can_be_sent_or_expected(scheme):
    writer = Writer(scheme, "localhost:1", SERVER)
    for case in CASES:
        for step in [*case.steps, *([case.strict] if case.strict else [])]:
            if isinstance(step, dict):
                assert writer(step), case
            else:
                assert Expectation.parse(step), case
        assert isinstance(case.steps[-1], str), case


def test_no_subject_of_h2spec_is_left_out():
    covered = {subject for case in CASES for subject in case.h2spec}
    assert covered == {
        f"{group}/{section}/{number}"
        for group, sections in H2SPEC.items()
        for section, count in sections.items()
        for number in range(1, count + 1)
    }


def test_a_case_that_is_made_from_settings_waits_for_them():
    waiting = {case.name for case in CASES if case.greets and "early" not in styles(case)}
    assert "DATA larger than the server's largest frame" in waiting
    assert "window of one byte" not in waiting


def test_frames_are_written_as_the_rfc_has_them():
    assert frames.data(1, b"ab", pad=2) == bytes.fromhex("000005 00 08 00000001 02 6162 0000")
    assert frames.settings((3, 100)) == bytes.fromhex("000006 04 00 00000000 0003 00000064")
    assert frames.integer(1337, 5) == bytes.fromhex("1f9a0a")  # RFC 7541 appendix C.1.2
    assert frames.literal(b"custom-key", b"custom-header", frames.INCREMENTAL) == bytes.fromhex(
        "400a637573746f6d2d6b65790d637573746f6d2d686561646572"  # appendix C.2.1
    )
    assert frames.string(b"www.example.com", huffman=True) == bytes.fromhex(
        "8cf1e3c2e5f23a6ba0ab90f4ff"  # appendix C.4.1
    )
