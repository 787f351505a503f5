"""Parsing of certificates, compared with the package cryptography."""

from __future__ import annotations

import contextlib
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from thestral.net.certificate import read_certificate

KEY = ec.generate_private_key(ec.SECP256R1())


NEW_YEAR = datetime.datetime(2025, 1, 1)


def der(
    *relative: list[tuple[x509.ObjectIdentifier, str]],
    names=(),
    kind=None,
    begin=NEW_YEAR,
    end=NEW_YEAR,
) -> bytes:
    """A certificate with these relative distinguished names and alternative names, as DER."""
    subject = x509.Name(
        [
            x509.RelativeDistinguishedName(
                [x509.NameAttribute(oid, text, _type=kind) for oid, text in pairs]
            )
            for pairs in relative
        ]
    )
    builder = x509.CertificateBuilder(
        issuer_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")]),
        subject_name=subject,
        public_key=KEY.public_key(),
        serial_number=1,
        not_valid_before=begin,
        not_valid_after=end,
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(KEY, SHA256()).public_bytes(Encoding.DER)


CN, O, OU, C = (  # noqa: E741
    NameOID.COMMON_NAME,
    NameOID.ORGANIZATION_NAME,
    NameOID.ORGANIZATIONAL_UNIT_NAME,
    NameOID.COUNTRY_NAME,
)


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "a, b",
        " leading",
        "trailing ",
        " ",
        "  ",
        "#number",
        "not # first",
        'q"uo+te;<>\\=',
        "Zoë Ωμέγα 猫",
        "nul\0nul",
        "x" * 60,
    ],
)
def test_subject_is_escaped_as_rfc_4514_says(text):
    data = der([(C, "NL")], [(O, "Org")], [(CN, text)])
    expected = x509.load_der_x509_certificate(data).subject.rfc4514_string()
    assert read_certificate(data).subject == expected
    assert expected.endswith(",O=Org,C=NL")


def test_subject_of_every_short_name():
    kinds = [
        (C, "NL"),
        (NameOID.STATE_OR_PROVINCE_NAME, "s"),
        (NameOID.LOCALITY_NAME, "l"),
        (NameOID.STREET_ADDRESS, "street"),
        (O, "o"),
        (OU, "ou"),
        (NameOID.DOMAIN_COMPONENT, "dc"),
        (NameOID.USER_ID, "uid"),
        (CN, "cn"),
    ]
    subject = read_certificate(der(*([pair] for pair in kinds))).subject
    assert subject == "CN=cn,UID=uid,DC=dc,OU=ou,O=o,STREET=street,L=l,ST=s,C=NL"


def test_subject_with_several_values_in_one_part():
    data = der([(CN, "a"), (OU, "b")])
    expected = x509.load_der_x509_certificate(data).subject.rfc4514_string()
    assert read_certificate(data).subject == expected
    assert "+" in expected


def test_attribute_without_short_name_is_in_hexadecimal():
    """RFC 4514 section 2.4: `#` and the encoded value, including its tag and length."""
    subject = read_certificate(der([(NameOID.SERIAL_NUMBER, "AB")], [(CN, "x")])).subject
    assert subject == "CN=x,2.5.4.5=#13024142"


@pytest.mark.parametrize(
    "kind", [_ASN1Type.BMPString, _ASN1Type.UniversalString, _ASN1Type.T61String]
)
def test_old_encodings_of_text(kind):
    assert read_certificate(der([(CN, "abc")], kind=kind)).subject == "CN=abc"


def test_subject_may_be_empty():
    assert read_certificate(der())[:2] == ("", ())


def test_names_are_those_of_the_extension():
    names = [x509.DNSName("A.example"), x509.RFC822Name("a@b"), x509.DNSName("*.b.example")]
    assert read_certificate(der([(CN, "c")], names=names)).names == ("a.example", "*.b.example")


def test_common_name_stands_in_for_the_extension():
    assert read_certificate(der([(O, "o")], [(CN, "C.example")])).names == ("c.example",)


@pytest.mark.parametrize("year", [1950, 1999, 2000, 2026, 2049, 2050, 2051, 9999])
def test_times_in_both_forms(year):
    """RFC 5280 section 4.1.2.5: two digits for the year until 2049."""
    begin = datetime.datetime(1950, 1, 1)
    end = datetime.datetime(year, 12, 31, 23, 59, 58)
    data = der(begin=begin, end=end)
    assert (f"{year}1231235958Z".encode() in data) is (year >= 2050)
    found = read_certificate(data)
    assert found.not_before == begin.replace(tzinfo=datetime.UTC)
    assert found.not_after == end.replace(tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    "text", [b"250101000000+", b"2501010000000", b"251301000000Z", b"25010100006xZ", b"\xb2" * 13]
)
def test_times_in_another_form_are_none(text):
    data = der()
    assert data.count(b"250101000000Z") == 2
    found = read_certificate(data.replace(b"250101000000Z", text))
    assert (found.not_before, found.not_after) == (None, None)


def test_every_cut_is_an_error():
    data = der([(CN, "a")], names=[x509.DNSName("a.example")])
    for size in range(len(data)):
        with pytest.raises(ValueError, match="not a certificate"):
            read_certificate(data[:size])


def test_changed_bytes_are_parsed_or_an_error():
    """Changing any byte raises nothing but ValueError."""
    data = der([(CN, "a")], names=[x509.DNSName("a.example")])
    for position in range(len(data)):
        for value in (0, 0x7F, 0x80, 0x84, 0xFF):
            changed = bytearray(data)
            changed[position] = value
            with contextlib.suppress(ValueError):
                read_certificate(bytes(changed))
