"""How a WebSocket waits and ends, as the tests over HTTP/1.1 state it, over HTTP/2 (RFC 8441)."""

# ruff: noqa: F401

# Not here:
# - What takes seconds: test_shutdown_waits_two_seconds_at_most_for_a_close, which
#   tests/http2/test_h2_late_clients.py has, with a clock of its own.
# - A client that reads nothing at a shutdown: test_shutdown_while_send_waits. What waits for it may
#   be of other streams, so the connection has timeout_write.
# - Thousands of connections: test_window_is_kept_by_few_and_not_by_many, which
#   test_asgi_over_http2.py has on one.
# - Every transport: test_client_gone_while_send_waits, which test_websocket_rules.py has.

import pytest
from leaks import (
    only_ours,
)
from test_ws_deadlines import (
    test_client_is_not_blamed_for_what_the_server_does_not_read,
    test_client_that_answers_a_close_ends_at_once,
    test_client_that_answers_no_ping_5_5_2,
    test_client_that_does_not_answer_a_close,
    test_client_that_goes_on_sending_does_not_put_the_end_off,
    test_end_of_tcp_is_an_answer_as_well,
    test_nothing_is_sent_behind_the_servers_close_5_5_1,
    test_part_of_a_frame_shows_life,
    test_pings_can_be_off,
    test_pings_come_again_and_again_5_5_2,
    test_the_deadline_of_the_head_ends_with_it,
    test_the_wait_for_an_answer_can_be_off,
    test_whatever_comes_shows_life,
)
from test_ws_ends import (
    test_accept_during_the_drain,
    test_accept_then_close_at_once,
    test_application_that_ignores_the_shutdown_is_cancelled,
    test_application_that_raises_7_4_1,
    test_application_that_raises_at_once_behind_accept,
    test_application_that_raises_behind_its_close,
    test_application_that_raises_with_messages_in_the_queue,
    test_application_that_returns_7_4_1,
    test_application_that_returns_behind_its_close,
    test_client_that_closes_during_the_shutdown_ends_it_at_once,
    test_receive_behind_the_applications_close,
    test_send_behind_the_shutdown,
    test_shutdown_7_4_1,
    test_shutdown_does_not_wait_long_for_clients,
)
from test_ws_gone import (
    test_application_that_never_receives_does_not_keep_the_connection,
    test_client_gone_before_the_answer,
    test_client_gone_before_the_answer_is_told_by_receive,
    test_client_gone_behind_the_applications_close,
    test_client_gone_while_the_application_receives,
    test_client_gone_with_a_full_queue,
    test_client_gone_with_a_full_queue_while_the_application_sends,
    test_close_is_dropped_once_the_client_is_gone,
    test_exception_group_of_disconnects_is_not_an_error,
    test_half_close_7_1_5,
    test_other_exceptions_behind_the_disconnect_are_errors,
    test_queued_messages_are_delivered_when_the_client_has_gone,
    test_send_behind_a_failure_of_the_client,
    test_send_raises_once_the_client_is_gone,
    test_send_while_messages_of_a_gone_client_wait_is_not_an_error,
    test_starlettes_disconnect_exception_is_an_error_while_connected,
    test_starlettes_disconnect_exception_is_not_an_error,
)
from test_ws_windows import (
    test_window_is_given_back_when_nothing_was_sent_for_a_ping_interval,
)

# Nothing here depends on the loop, and over HTTP/1.1 both are tried.
pytestmark = pytest.mark.parametrize("serve", ["uvloop"], indirect=True)
