"""docs/troubleshooting.md has each message of the source, and no other."""

from __future__ import annotations

import re

import messages

PAGE = (messages.ROOT / "docs/troubleshooting.md").read_text()
LINE_OF_ACCESS_LOG = '… - "… … HTTP/…" …'  # no problem
ROWS = [line for line in PAGE.splitlines() if line.startswith("| `")]


def explained() -> list[str]:
    """Return the messages of the page; a row has one or several in its first cell."""
    return [text for row in ROWS for text in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


def test_each_message_is_explained():
    missing = messages.collected() - set(explained()) - {LINE_OF_ACCESS_LOG}
    assert not missing


def test_each_explanation_has_a_message():
    assert not set(explained()) - messages.collected()
    assert len(set(explained())) == len(explained())


def test_each_row_has_a_cause_and_a_cure():
    for row in ROWS:
        cells = row.strip("| ").split(" | ")
        assert len(cells) == 3, row
        assert all(cells), row


def test_messages_are_collected_from_all_kinds_of_places():
    found = messages.collected()
    for text in (
        "Exception in ASGI application (…)",  # a log line
        "A worker could not start",  # an exception
        "… is encrypted, and needs --ssl-keyfile-password",  # an option's reason
        "missing Host field",  # csrc
        "The event loop turns again; it was blocked for … s…",  # a variable
    ):
        assert text in found
