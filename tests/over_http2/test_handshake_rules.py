"""Rules of the opening handshake, as the tests over HTTP/1.1 state them, over HTTP/2 (RFC 8441)."""

# ruff: noqa: F401

# Not here:
# - What means a WebSocket, and what is refused: over HTTP/2 that is extended CONNECT
#   (tests/http2/cases). Fields that both have are in test_ws_accept.py and test_ws_negotiation.py.
# - 426 names HTTP/1.1's Upgrade field: test_other_versions_are_426_4_2_2. Over HTTP/2:
#   test_other_versions_are_426_without_upgrade in test_asgi_over_http2.py.

import pytest
from leaks import (
    only_ours,
)
from test_handshake import (
    server,
    test_bad_frame_behind_the_handshake,
    test_clients_that_leave_behind_the_handshake_are_forgotten,
    test_close_behind_the_handshake,
    test_frames_before_the_application_accepts,
    test_frames_behind_the_handshake,
    test_part_of_a_frame_behind_the_handshake,
    test_several_versions_are_refused_11_3_5,
)
