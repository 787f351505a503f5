"""Runs the HTTP/1.1 tests of ASGI's extensions over HTTP/2."""

# ruff: noqa: F401

# Left out: test_they_are_announced_where_they_can_be_had, half of which is about HTTP/1.0.

import pytest
from test_extensions import (
    file,
    serve,
    test_a_body_where_trailers_are_due,
    test_a_client_that_leaves_within_it,
    test_a_client_whose_reset_the_kernel_alone_knows,
    test_a_file,
    test_a_file_is_refused_where_it_is_not_offered,
    test_a_file_may_come_after_its_head_has_left,
    test_a_file_shorter_than_announced_is_seen_to_be_cut,
    test_a_relative_path_is_opened_from_the_working_directory,
    test_an_empty_file,
    test_as_much_as_is_announced,
    test_early_hints,
    test_hint_that_fails_reaches_nobody,
    test_hints_behind_start_and_within_the_body,
    test_hints_that_cannot_be_sent,
    test_only_its_head,
    test_others_have_their_turn,
    test_starlettes_file_response,
    test_trailers,
    test_trailers_behind_a_counted_body,
    test_trailers_for_who_does_not_take_them,
    test_trailers_that_may_not_be_sent,
    test_what_cannot_be_sent_leaves_room_for_an_answer,
)
