"""The pictures of `thestral top` in the documentation, and how they are made."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
import screenshots
from screenshots import BACKGROUND, COLOURS, FOREGROUND, IMAGES, PICTURES, svg

TEXT = "{http://www.w3.org/2000/svg}text"


def texts(screen):
    return [(each.text, each.attrib) for each in ET.fromstring(svg(screen, 80, 24)).iter(TEXT)]


def test_looks_of_a_terminal():
    plain, red, bold, title = texts("a <&\x1b[31m b\x1b[39m\x1b[1m c\x1b[0m\n\x1b[7m d \x1b[27m")
    assert [each[0] for each in (plain, red, bold, title)] == ["a <&", " b", " c", " d "]
    assert [each[1]["fill"] for each in (plain, red, bold, title)] == [
        FOREGROUND,
        COLOURS[1],
        FOREGROUND,
        BACKGROUND,
    ]
    assert bold[1]["font-weight"] == "bold"
    assert float(red[1]["x"]) - float(plain[1]["x"]) == pytest.approx(4 * screenshots.WIDTH)
    assert float(title[1]["y"]) - float(plain[1]["y"]) == pytest.approx(screenshots.HEIGHT)


def test_unknown_sequence_is_told():
    with pytest.raises(ValueError, match="SGR 53"):
        svg("\x1b[53ma", 80, 24)


@pytest.mark.parametrize("name", PICTURES)
def test_picture_shows_a_server(name):
    found = ET.fromstring((IMAGES / f"{name}.svg").read_text())
    shown = " ".join(each.text for each in found.iter(TEXT))
    assert "thestral 0." in shown
    assert "serving" in shown
    assert "/reports/" in shown
