"""Reads from an X.509 certificate its subject as a string, its host names and its validity.

The ssl module reveals none of these for the server's own certificate, and only some for a client's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

# DER tags (X.690 section 8), including their class bits.
VERSION = 0xA0  # of TBSCertificate: [0]; optional
EXTENSIONS = 0xA3  # of TBSCertificate: [3]
DNS_NAME = 0x82  # of GeneralName: [2]
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
LONG_LENGTH = 0x80

SUBJECT_ALT_NAME = bytes.fromhex("551d11")  # 2.5.29.17
COMMON_NAME = "2.5.4.3"

# Encodings of the strings in a name, by tag.
CHARACTER_SETS = {
    0x0C: "utf-8",
    0x12: "ascii",  # NumericString
    0x13: "ascii",  # PrintableString
    0x14: "latin-1",  # TeletexString, which other software also reads as Latin-1
    0x16: "ascii",  # IA5String
    0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}

# RFC 4514 section 3.
SHORT_NAMES = {
    COMMON_NAME: "CN",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
}
SPECIAL = frozenset('"+,;<>\\')


class Certificate(NamedTuple):
    """The parts of a certificate that the server uses.

    Attributes:
        subject: the subject's distinguished name, as a string of RFC 4514.
        names: host names in lower case, also wildcards such as "*.example.org"; the common names
            if there is no host name in subjectAltName.
        not_before, not_after: the validity period, in UTC; None for a time that is not in the form
            of RFC 5280.
    """

    subject: str
    names: tuple[str, ...]
    not_before: datetime | None
    not_after: datetime | None


class Element(NamedTuple):
    """A DER value: its tag, its content, and its whole encoding (tag, length, content)."""

    tag: int
    content: bytes
    whole: bytes

    def parts(self) -> list[Element]:
        return list(elements(self.content))


# An object identifier and its value.
Attribute = tuple[str, Element]


def elements(data: bytes) -> Iterator[Element]:
    """Yield the consecutive DER values in `data`.

    Raises:
        ValueError: the last one is truncated.
    """
    position = 0
    while position < len(data):
        start = position
        header = data[position : position + 2]
        if len(header) < 2:
            raise ValueError("truncated data")
        tag, length = header
        position += 2
        if length & LONG_LENGTH:
            count = length & ~LONG_LENGTH
            length = int.from_bytes(data[position : position + count], "big")
            position += count
        end = position + length
        if end > len(data):
            raise ValueError("truncated data")
        yield Element(tag, data[position:end], data[start:end])
        position = end


def read_certificate(der: bytes) -> Certificate:
    """Read a certificate (RFC 5280 section 4.1).

    Raises:
        ValueError: `der` is not a certificate.
    """
    try:
        (certificate,) = elements(der)
        fields = certificate.parts()[0].parts()
        if fields[0].tag == VERSION:
            del fields[0]
        subject = [attributes(relative) for relative in fields[4].parts()]
        names = alternative_names(fields[6:])
        begin, end = [time_of(element) for element in fields[3].parts()]
        return Certificate(name_text(subject), names or common_names(subject), begin, end)
    except (IndexError, ValueError) as exc:
        raise ValueError(f"not a certificate: {exc}") from exc


def time_of(element: Element) -> datetime | None:
    """Read a time (RFC 5280 section 4.1.2.5); None if it is in any other form."""
    text = element.content.decode("latin-1")
    if element.tag == UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif element.tag != GENERALIZED_TIME:
        return None
    match = re.fullmatch("([0-9]{4})" + "([0-9]{2})" * 5 + "Z", text)
    if match is None:
        return None
    year, month, day, hour, minute, second = map(int, match.groups())
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None


def alternative_names(fields: list[Element]) -> tuple[str, ...]:
    """Return the dNSNames of subjectAltName (RFC 5280 section 4.2.1.6)."""
    for field in fields:
        if field.tag != EXTENSIONS:
            continue
        for extension in field.parts()[0].parts():
            identifier, *_, value = extension.parts()
            if identifier.content == SUBJECT_ALT_NAME:
                (names,) = elements(value.content)
                return tuple(
                    name.content.decode("latin-1").lower()
                    for name in names.parts()
                    if name.tag == DNS_NAME
                )
    return ()


def attributes(relative: Element) -> list[Attribute]:
    """Return the attributes of a relative distinguished name: usually one."""
    found = []
    for attribute in relative.parts():
        kind, value = attribute.parts()
        found.append((dotted(kind.content), value))
    return found


def common_names(subject: list[list[Attribute]]) -> tuple[str, ...]:
    found = []
    for relative in subject:
        for kind, value in relative:
            text = text_of(value)
            if text is not None and kind == COMMON_NAME:
                found.append(text.lower())
    return tuple(found)


def name_text(subject: list[list[Attribute]]) -> str:
    """Write a distinguished name as a string, its last part first (RFC 4514 section 2.1)."""
    return ",".join(
        "+".join(attribute_text(kind, value) for kind, value in relative)
        for relative in reversed(subject)
    )


def attribute_text(kind: str, value: Element) -> str:
    """Write an attribute (RFC 4514 sections 2.3, 2.4); without a short name, its value in hex."""
    name = SHORT_NAMES.get(kind)
    text = text_of(value)
    if name is None or text is None:
        return f"{name or kind}=#{value.whole.hex()}"
    return f"{name}={escaped(text)}"


def text_of(value: Element) -> str | None:
    """Decode a string value; None if it is not a string, or not valid."""
    try:
        return value.content.decode(CHARACTER_SETS[value.tag])
    except (KeyError, UnicodeDecodeError):
        return None


def escaped(text: str) -> str:
    out = "".join(f"\\{c}" if c in SPECIAL else "\\00" if c == "\0" else c for c in text)
    if out.startswith((" ", "#")):
        out = "\\" + out
    if text.endswith(" ") and len(text) > 1:
        out = out[:-1] + "\\ "
    return out


def dotted(content: bytes) -> str:
    """Return an object identifier in dotted decimal (X.690 section 8.19)."""
    numbers = []
    number = 0
    for byte in content:
        number = number << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(number)
            number = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(str(part) for part in [first, numbers[0] - 40 * first, *numbers[1:]])
