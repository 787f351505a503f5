"""Ids, times and the access log's choice of requests, as the tests over HTTP/1.1 state them."""

# ruff: noqa: F401

# Not here: test_refusal_of_a_head_has_an_id and test_excluded_refusal_without_a_path_is_logged,
# which send a malformed head of HTTP/1.1; what needs no server.

import pytest
from test_request_ids import (
    access,
    errors,
    install,
    test_error_names_the_request,
    test_excluded_paths_are_not_logged,
    test_handler_that_is_added_begins_a_log_that_was_off,
    test_id_of_a_trusted_proxy_is_kept,
    test_id_of_anybody_else_is_replaced,
    test_id_that_is_not_sane_is_replaced,
    test_level_is_set_by_either_name,
    test_line_of_json_has_every_id,
    test_log_that_begins_within_a_request_shows_it,
    test_new_id_is_in_state_response_and_line,
    test_records_of_the_application_name_the_request,
    test_refusal_of_a_body_names_the_request,
    test_request_that_is_not_slow,
    test_server_timing,
    test_server_timing_counts_the_applications_time,
    test_server_timing_of_a_refusal,
    test_slow_request_is_a_warning_with_the_log_off_or_excluded,
    test_slow_request_whose_client_has_left,
    test_two_traceparents_are_none,
    test_websocket_has_an_id,
    test_what_the_application_or_header_sets_is_sent_once,
    test_without_options_nothing_is_added,
)
