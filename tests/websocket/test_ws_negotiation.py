"""Which offers of permessage-deflate are accepted, with which parameters (RFC 7692 section 7.1)."""

import pytest
from ws_apps import Sessions, echo, shared_server
from ws_client import TEXT, Client, frame, handshake
from ws_deflating import CLIENT_BITS, CLIENT_NO, SERVER_BITS, SERVER_NO, parameters

server = shared_server(Sessions(echo), ws_deflate_min_size=0)
widest = shared_server(
    Sessions(echo),
    ws_deflate_min_size=0,
    ws_deflate_server_window_bits=15,
    ws_deflate_client_window_bits=15,
)


# --- Negotiation: section 7.1 ---------------------------------------------------------------------

D = "permessage-deflate"
# Offer and response, for a server with 12 bits for both sides and takeover (the defaults).
OFFERS = {
    D: {CLIENT_NO: None, SERVER_BITS: "12"},
    f"{D}; {CLIENT_BITS}": {SERVER_BITS: "12", CLIENT_BITS: "12"},
    f"{D}; {CLIENT_BITS}=15": {SERVER_BITS: "12", CLIENT_BITS: "12"},
    f"{D}; {CLIENT_BITS}=12": {SERVER_BITS: "12", CLIENT_BITS: "12"},
    f"{D}; {CLIENT_BITS}=10": {SERVER_BITS: "12", CLIENT_BITS: "10"},
    f"{D}; {CLIENT_BITS}=8": {SERVER_BITS: "12", CLIENT_BITS: "8"},
    f'{D}; {CLIENT_BITS}="10"': {SERVER_BITS: "12", CLIENT_BITS: "10"},
    f"{D}; {SERVER_BITS}=15": {CLIENT_NO: None, SERVER_BITS: "12"},
    f"{D}; {SERVER_BITS}=12": {CLIENT_NO: None, SERVER_BITS: "12"},
    f"{D}; {SERVER_BITS}=9": {CLIENT_NO: None, SERVER_BITS: "9"},
    f"{D}; {SERVER_BITS}=8": {CLIENT_NO: None, SERVER_BITS: "8"},
    f'{D}; {SERVER_BITS}="10"': {CLIENT_NO: None, SERVER_BITS: "10"},
    f"{D}; {SERVER_NO}": {SERVER_NO: None, CLIENT_NO: None, SERVER_BITS: "12"},
    f"{D}; {CLIENT_NO}": {CLIENT_NO: None, SERVER_BITS: "12"},
    f"{D}; {CLIENT_NO}; {CLIENT_BITS}": {CLIENT_NO: None, SERVER_BITS: "12", CLIENT_BITS: "12"},
    f"{D};{SERVER_NO} ;\t{CLIENT_NO};{SERVER_BITS}=10; {CLIENT_BITS}=11": {
        SERVER_NO: None,
        CLIENT_NO: None,
        SERVER_BITS: "10",
        CLIENT_BITS: "11",
    },
    f"{CLIENT_BITS}; {D}": None,
    # of several offers the first acceptable one counts (section 7.1, RFC 6455 section 9.1)
    f"{D}; {SERVER_BITS}=10, {D}": {CLIENT_NO: None, SERVER_BITS: "10"},
    f"{D}; {SERVER_BITS}=7, {D}; {CLIENT_BITS}": {SERVER_BITS: "12", CLIENT_BITS: "12"},
    f"{D}; unknown, {D}; {SERVER_NO}": {SERVER_NO: None, CLIENT_NO: None, SERVER_BITS: "12"},
    f"x-webkit-deflate-frame, foo; bar=1, {D}; {CLIENT_BITS}": {
        SERVER_BITS: "12",
        CLIENT_BITS: "12",
    },
    f"{D}; {SERVER_BITS}=x, {D}; {SERVER_BITS}": None,
}
# Declined: sections 7.1, 7.1.1.1, 7.1.1.2, 7.1.2.1, 7.1.2.2.
OFFERS |= dict.fromkeys(
    [
        "x-webkit-deflate-frame",
        "permessage-bzip2",
        "permessage-deflat",
        "permessage-deflate2",
        f"{D}; unknown",
        f"{D}; unknown=1",
        f"{D}; {SERVER_BITS}",
        f"{D}; {SERVER_BITS}=7",
        f"{D}; {SERVER_BITS}=16",
        f"{D}; {SERVER_BITS}=0",
        f"{D}; {SERVER_BITS}=010",
        f"{D}; {SERVER_BITS}=+9",
        f"{D}; {SERVER_BITS}=-9",
        f"{D}; {SERVER_BITS}=9x",
        f"{D}; {SERVER_BITS}=100",
        f'{D}; {SERVER_BITS}="010"',
        f"{D}; {CLIENT_BITS}=7",
        f"{D}; {CLIENT_BITS}=16",
        f"{D}; {CLIENT_BITS}=08",
        f"{D}; {CLIENT_BITS}=x",
        f"{D}; {SERVER_NO}=1",
        f"{D}; {SERVER_NO}=true",
        f"{D}; {CLIENT_NO}=0",
        f"{D}; {SERVER_NO}; {SERVER_NO}",
        f"{D}; {CLIENT_NO}; {CLIENT_NO}",
        f"{D}; {SERVER_BITS}=10; {SERVER_BITS}=10",
        f"{D}; {CLIENT_BITS}; {CLIENT_BITS}=10",
    ]
)


def agreed(running, *offers: str):
    """Return the agreed parameters, after checking that the connection works with them."""
    request = handshake(*[f"Sec-WebSocket-Extensions: {offer}" for offer in offers])
    with Client(running, request) as client:
        got = parameters(client.accepted().answer)
        client.send(frame(TEXT, "x"))
        assert client.read().opcode == TEXT
        client.close()
    return got


@pytest.mark.parametrize("offer", OFFERS)
def test_negotiation_7_1(server, offer):
    assert agreed(server, offer) == OFFERS[offer]


def test_offers_in_several_lines_9_1(server):
    assert agreed(server, "foo", f"{D}; {SERVER_BITS}=7", f"{D}; {CLIENT_BITS}=11") == {
        SERVER_BITS: "12",
        CLIENT_BITS: "11",
    }


def test_no_offer_9_1(server):
    assert agreed(server) is None


@pytest.mark.parametrize(
    ("offer", "want"),
    [
        (D, {}),
        (f"{D}; {CLIENT_BITS}", {}),
        (f"{D}; {CLIENT_BITS}=10", {CLIENT_BITS: "10"}),
        (f"{D}; {SERVER_BITS}=14", {SERVER_BITS: "14"}),
        (f"{D}; {SERVER_NO}", {SERVER_NO: None}),
        (f"{D}; {CLIENT_NO}", {CLIENT_NO: None}),
    ],
)
def test_negotiation_with_the_widest_windows_7_1(widest, offer, want):
    got = agreed(widest, offer)
    assert got is not None
    if CLIENT_BITS in offer and got.get(CLIENT_BITS) == "15":
        del got[CLIENT_BITS]  # 15 is the default (section 7.1.2.2)
    assert got == want


def test_offered_server_window_is_answered_7_1_2_1(widest):
    """Some clients insist that an accepted parameter is included, even if its value is 15."""
    assert agreed(widest, f"{D}; {SERVER_BITS}=15") == {SERVER_BITS: "15"}


@pytest.mark.parametrize(
    ("options", "offer", "want"),
    [
        (
            {"ws_deflate_context_takeover": False},
            D,
            {SERVER_NO: None, CLIENT_NO: None, SERVER_BITS: "12"},
        ),
        (
            {"ws_deflate_context_takeover": False},
            f"{D}; {CLIENT_BITS}",
            {SERVER_NO: None, CLIENT_NO: None, SERVER_BITS: "12", CLIENT_BITS: "12"},
        ),
        ({"ws_per_message_deflate": False}, D, None),
        (
            {"ws_deflate_server_window_bits": 9, "ws_deflate_client_window_bits": 14},
            f"{D}; {CLIENT_BITS}",
            {SERVER_BITS: "9", CLIENT_BITS: "14"},
        ),
        (
            {"ws_deflate_server_window_bits": 15, "ws_deflate_client_window_bits": 9},
            D,
            {CLIENT_NO: None},
        ),
    ],
)
def test_negotiation_by_options_7_1(serve, options, offer, want):
    assert agreed(serve(Sessions(echo), **options), offer) == want
