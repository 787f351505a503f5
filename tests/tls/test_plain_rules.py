"""Runs the tests of plain HTTP/1.1 connections over TLS: this directory's fixture `serve` replaces
the one that they were written for.
"""

# ruff: noqa: F401

import pytest
from leaks import (
    only_ours,
)
from test_endings import (
    test_body_that_ends_with_the_connection_is_not_cut_by_what_is_sent_meanwhile,
    test_client_that_asked_for_the_close_gets_it_at_once,
    test_final_head_without_100_announces_the_close,
    test_requests_behind_a_close_of_the_applications_do_not_cost_its_response,
)
from test_faults import (
    test_body_flows_on_when_the_application_receives_again,
    test_churn_leaves_nothing,
    test_client_is_not_read_from_while_the_application_does_not_receive,
    test_client_that_does_not_read_stops_the_application,
    test_half_close_behind_a_request_still_gets_its_answer,
    test_half_close_behind_pipelined_requests_gets_all_answers,
    test_half_close_within_the_body_is_400_and_a_disconnect,
    test_many_at_once,
    test_pipelining_client_is_not_read_from_while_a_response_is_open,
    test_reset_at_any_point,
    test_reset_while_the_application_writes,
)
from test_http1 import (
    test_1_0_closes_unless_asked,
    test_bad_request_behind_good_ones_does_not_cost_their_answers,
    test_bodies_of_all_sizes_arrive_whole,
    test_body_behind_many_pipelined_requests_is_read_on,
    test_keep_alive_is_the_default_in_1_1,
    test_less_than_content_length_ends_the_connection,
    test_pipelined_requests_are_answered_in_order,
    test_pipelined_requests_wait_for_a_slow_one,
)
from test_time_outs import (
    test_body_that_nobody_takes_cannot_hold_the_connection,
    test_client_that_does_not_read_is_given_up,
    test_complete_response_that_is_not_read_is_given_up,
    test_half_body_is_408_and_a_disconnect,
    test_half_head_is_408,
    test_idle_keep_alive_connection_is_closed,
    test_silent_connection_is_closed_without_a_word,
    test_slow_reader_that_does_read_is_not_given_up,
)
