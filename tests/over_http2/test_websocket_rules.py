"""Runs the HTTP/1.1 tests of WebSocket's rules over HTTP/2 (RFC 8441).

test_client_that_takes_nothing_is_dropped is left out, because over HTTP/2 the stream is reset and
not the connection; tests/http2/test_h2_late_clients.py has that.
"""

# ruff: noqa: F401

# Left out:
# - The opening handshake: test_handshake_rules.py. The end of a WebSocket:
#   test_websocket_end_rules.py.
# - Statuses that accept over HTTP/2, in test_websocket_over_http2.py: test_denial_response,
#   test_denial_without_content_9110_6_4_1, test_application_that_does_not_answer_is_500.
# - Values that name the version: test_scope, test_access_line_of_a_websocket,
#   test_access_line_of_a_refusal.
# - `--ws none`, without which extended CONNECT is refused: test_ws_none_leaves_handshakes_to_http.
# - The memory of this process, part of which belongs to the gateway:
#   test_pings_of_a_client_that_does_not_read_5_5_3.
# - Bytes given to the connection past its socket: test_receive_cancelled_as_the_message_comes.

import pytest
from leaks import (
    only_ours,
)
from test_frames import (
    server,
    test_a_ping_within_a_frames_bytes_is_not_one_5_2,
    test_a_pong_does_not_wait_for_the_message_5_4,
    test_close_in_pieces_5_5_1,
    test_close_is_echoed_5_5_1,
    test_close_of_one_byte_5_5_1,
    test_close_within_a_message_5_4,
    test_codes_that_no_close_may_carry_7_4,
    test_continuation_behind_a_complete_message_5_4,
    test_control_frames_are_short_5_5,
    test_control_frames_have_short_lengths_5_5,
    test_echo_of_each_length_form_5_2,
    test_empty_close_is_echoed_empty_5_5_1,
    test_end_within_a_frame_7_1_5,
    test_fragmented_messages_5_4,
    test_lengths_that_are_not_minimal_5_2,
    test_masks_5_3,
    test_messages_before_a_close_are_delivered_7_1_4,
    test_no_pong_behind_a_failure_7_1_7,
    test_nothing_is_read_behind_a_close_5_5_1,
    test_ping_is_answered_5_5_3,
    test_reason_that_is_not_utf_8_5_5_1,
    test_reserved_bits_5_2,
    test_reserved_bits_on_a_continuation_5_2,
    test_ten_pings_in_a_row_5_5_3,
    test_the_client_may_answer_the_verdict_7_1_7,
    test_the_verdict_can_be_read_while_more_is_sent_7_1_7,
    test_unknown_opcodes_5_2,
    test_unknown_opcodes_within_a_message_5_2,
    test_unmasked_continuation_5_1,
    test_unmasked_frames_5_1,
    test_unsolicited_pongs_are_ignored_5_5_3,
    test_wrong_fragments_5_4,
)
from test_limits import (
    small,
    test_100_000_fragments_5_4,
    test_a_full_queue_keeps_the_close_waiting_not_lost,
    test_a_long_queue_is_taken_in_linear_time,
    test_bomb_is_refused_early,
    test_client_of_an_application_that_does_not_receive_waits,
    test_client_that_reads_slowly_is_not_dropped,
    test_compressed_bytes_are_counted_over_fragments,
    test_compressed_bytes_may_exceed_max_size_a_little,
    test_control_frames_do_not_count,
    test_header_alone_is_refused_7_4_1,
    test_header_alone_is_refused_by_default_7_4_1,
    test_header_of_a_continuation_is_refused_7_4_1,
    test_max_size_7_4_1,
    test_one_message_may_be_larger_than_the_queue,
    test_pings_of_a_client_that_reads_are_all_answered_5_5_3,
    test_send_waits_for_a_client_that_does_not_read,
    test_the_limit_is_per_message,
    usual,
)
from test_messages import (
    large_server,
    test_16_mib_in_fragments_5_4,
    test_64_kib_in_fragments_of_1300_bytes_5_4,
    test_binary_is_not_validated_5_6,
    test_each_text_is_validated_by_itself_8_1,
    test_invalid_text_fails_at_the_first_wrong_byte_8_1,
    test_large_messages_5_2,
    test_large_messages_in_fragments_5_4,
    test_many_messages_5_2,
    test_message_in_small_segments_5_2,
    test_text_that_ends_within_a_character_8_1,
    test_valid_text_at_every_split_8_1,
)
from test_ws_accept import (
    test_accept_can_be_tried_again,
    test_accept_needs_no_message_before,
    test_default_fields,
    test_default_fields_can_be_off,
    test_headers_keep_order_and_duplicates,
    test_headers_may_be_any_iterable,
    test_headers_of_a_wrong_shape,
    test_headers_that_may_not_be_sent,
    test_no_frame_overtakes_the_101,
    test_nothing_behind_the_101_is_http,
    test_other_values_of_ws_select_our_implementation,
    test_root_path,
    test_state_is_a_copy_of_the_lifespans,
    test_subprotocol_4_2_2,
    test_subprotocol_that_is_no_str,
    test_subprotocol_that_was_not_offered_4_2_2,
    test_subprotocols_in_the_scope_11_3_4,
    test_subprotocols_that_were_not_offered_are_one_warning,
    test_the_applications_date_and_server_come_first,
)
from test_ws_asgi import (
    test_a_bytearray_may_be_changed_behind_send,
    test_an_enumerations_values_are_text,
    test_close_has_defaults,
    test_codes_of_the_application_7_4,
    test_good_messages_5_6,
    test_message_types_are_exact_5_6,
    test_messages_behind_the_applications_own_close,
    test_receive_behind_the_disconnect,
    test_receive_that_is_cancelled_loses_nothing,
    test_send_from_another_task,
    test_sends_at_once_do_not_mix_5_4,
    test_sent_messages_leave_before_the_close_5_5_1,
    test_two_receive_at_once,
    test_wrong_first_messages,
    test_wrong_messages_change_nothing,
    wrong_server,
)
from test_ws_denial import (
    access,
    test_application_that_ends_within_the_denials_body,
    test_client_gone_within_a_denial,
    test_close_before_accept_is_403,
    test_close_without_receiving_is_403,
    test_denial_body_may_be_omitted,
    test_denial_of_the_wrong_length_9112_6_3,
    test_denial_without_a_body_9112_6_3,
    test_messages_behind_a_refusal,
    test_no_access_line_if_it_is_off,
    test_refusal_can_be_read_while_frames_are_sent,
    test_start_behind_accept,
    test_streamed_denial_9112_7_1,
    test_streamed_denial_leaves_as_it_comes,
    test_wrong_denials_are_500,
)
from test_ws_faults import (
    known,
    one_by_one,
    patient,
    test_all_messages_before_a_fault_are_answered,
    test_application_that_receives_no_more_does_not_keep_the_client,
    test_bytes_behind_the_fault_are_dropped,
    test_client_gone_before_receive_has_the_faults_code,
    test_client_gone_before_the_answer_has_the_faults_code,
    test_fault_in_a_compressed_message,
    test_fault_without_queued_messages_is_closed_at_once_though_the_application_is_busy,
    test_message_before_a_fault_is_answered_at_every_split_7_1_7,
    test_message_before_a_fault_is_answered_by_starlette,
    test_message_that_fills_the_queue_before_a_fault_is_answered_7_1_7,
    test_shutdown_after_the_answer,
    test_shutdown_does_not_wait_for_the_answer,
    test_the_faults_close_follows_the_answer_whatever_the_application_does_next_7_1_7,
)
from test_ws_gone import (
    test_client_gone_while_send_waits,
)
