"""Runs the HTTP/1.1 tests of HTTP's rules over HTTP/2: this directory's fixture `serve` gives
servers whose connections accept HTTP/1.1 from the test and speak HTTP/2.
"""

# ruff: noqa: F401

# Left out:
# - Syntax of HTTP/1.1, and refusals of it: test_date_and_server_can_be_left_out,
#   test_default_fields_stand_in_every_response, test_date_is_an_imf_fixdate_in_every_response,
#   test_refused_head_request_has_no_content, test_head_request_that_does_not_end_has_no_content,
#   test_refusal_behind_a_head_request_has_content. Refusals over HTTP/2: test_abuse_heads.py.
# - Names in upper case, which HTTP/2 does not have: test_order_and_duplicates_of_fields_are_kept.
# - HTTP/1.0 and bodies that end with the connection: test_scope_of_1_0,
#   test_a_body_that_ends_with_the_connection_is_reset_if_it_is_cut,
#   test_body_that_ends_with_the_connection_is_not_cut_by_what_is_sent_meanwhile.
# - `Connection: close`: test_final_head_without_100_announces_the_close,
#   test_requests_behind_a_close_of_the_applications_do_not_cost_its_response.
# - Values that differ: test_scope_has_every_key_with_its_type, which test_asgi_over_http2.py has.

import pytest
from test_asgi import (
    test_any_callable_is_served,
    test_body_comes_in_pieces_as_they_arrive,
    test_body_may_be_any_bytes,
    test_cancelled_receive_loses_nothing,
    test_concurrent_receives_both_wake,
    test_concurrent_receives_share_the_body,
    test_context_is_fresh_for_each_request_and_sees_the_lifespan,
    test_disconnect_when_the_client_leaves,
    test_path_is_decoded_once_and_raw_path_is_what_came,
    test_receive_of_another_task_ends_with_the_response,
    test_request_without_body_is_one_empty_message,
    test_root_path_is_part_of_the_path_and_never_doubled,
    test_state_is_a_shallow_copy_of_the_lifespans,
    test_wrong_message_raises_and_names_the_fault,
)
from test_careless_lives import (
    test_a_function_that_gives_nothing_to_await_is_500,
    test_a_send_that_two_tasks_race_for_is_whole,
    test_a_task_left_running_does_not_keep_the_server,
    test_another_thread_is_told_so,
    test_polling_leaves_no_futures,
    test_raising_at_any_stage_ends_the_request_alone,
    test_raising_with_an_emptied_scope_is_logged,
    test_receive_behind_a_disconnect_says_it_again,
    test_receive_behind_the_response_says_disconnect_again_and_again,
    test_what_a_task_does_behind_the_applications_end_changes_nothing,
    test_what_an_application_does_to_its_scope_stays_there,
    test_what_was_sent_before_the_end_arrives,
)
from test_careless_messages import (
    careless,
    test_names_that_may_be_repeated_keep_their_order,
    test_what_a_value_itself_raises_comes_out_of_send,
    test_what_is_refused_before_the_response_is_500,
    test_what_is_refused_behind_the_response_costs_nothing,
    test_what_is_refused_within_the_body_cuts_it,
    test_what_is_taken,
)
from test_endings import (
    test_client_that_asked_for_the_close_gets_it_at_once,
    test_client_that_sends_no_more_and_has_all_of_a_bodiless_response_is_gone,
    test_early_answer_while_the_body_is_on_its_way,
    test_every_method_is_the_applications,
    test_final_head_behind_a_part_of_the_body_keeps_the_connection,
    test_length_of_a_304_is_not_made_up,
    test_options_without_content_says_so,
    test_response_leaves_before_its_application_returns,
    test_returning_without_a_response_once_the_client_is_gone,
)
from test_failing_applications import (
    test_disconnect_out_of_a_task_group_is_quiet,
    test_ending_within_the_body_closes_the_connection,
    test_other_error_after_the_client_is_gone_is_logged,
    test_raising_after_completion_keeps_the_connection,
    test_raising_before_start_is_500_and_logged,
    test_raising_with_body_unread_is_500_and_in_step,
    test_raising_with_the_head_held_is_500,
    test_returning_without_a_response_is_500,
    test_send_to_a_client_that_is_gone_raises_oserror_and_is_quiet,
)
from test_frameworks import (
    test_background_task_holds_neither_response_nor_connection,
    test_base_http_middleware,
    test_client_gone_between_events_stops_the_generator,
    test_client_gone_mid_stream_stops_the_generator,
    test_contextvars_through_dependencies,
    test_example_application,
    test_file_response,
    test_is_disconnected,
    test_lifespan_state_reaches_requests,
    test_streamed_upload_is_read_as_it_comes,
    test_sync_endpoints_run_in_threads,
    test_timeouts_and_task_groups_of_the_application,
    test_unread_json_body_of_a_404_is_in_step,
    test_upload_file,
)
from test_nobody import (
    test_a_clean_end_of_what_was_cancelled_is_cut,
    test_a_counted_body_that_is_complete_in_time_is_not_cut,
    test_a_length_beyond_belief_that_nobody_gets,
    test_an_error_of_its_own_is_still_logged,
    test_head_on_an_endless_body_ends_with_its_client,
    test_one_that_goes_on_is_told_by_size,
    test_one_that_goes_on_is_told_by_time,
    test_one_that_never_waits_is_told,
    test_one_that_returns_when_its_client_has_left_is_no_error,
    test_version_2_5_raises_at_once,
    test_what_a_request_writes_into_its_scope_is_its_own,
    test_what_finishes_a_response_is_dropped_without_a_word,
)
from test_response_fields import (
    test_application_may_recover_from_a_field_that_cannot_be_sent,
    test_date_and_server_stand_once,
    test_date_goes_on,
    test_date_of_the_application_stands_alone,
    test_field_that_cannot_be_sent_is_500_for_the_client,
    test_header_pairs_may_be_any_iterable,
    test_headers_and_body_may_be_left_out,
    test_server_of_the_application_stands_alone,
    test_status_line_has_the_usual_reason,
    test_status_that_cannot_be_sent_is_500_for_the_client,
)
from test_sending import (
    test_a_wait_for_the_client_can_be_cancelled,
    test_close_ends_it,
    test_it_is_awaitable_and_a_task_may_be_made_of_it,
    test_it_is_awaited_once,
    test_messages_that_are_made_before_any_is_awaited,
    test_nothing_happens_before_it_is_awaited,
    test_one_that_is_never_awaited_is_told_of,
    test_one_that_somebody_keeps_is_not_used_again,
    test_what_is_wrong_is_raised_where_it_is_awaited,
)
