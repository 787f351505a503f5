"""Runs the HTTP/1.1 tests of permessage-deflate over HTTP/2 (RFC 8441)."""

# ruff: noqa: F401

import pytest
from test_ws_deflate import (
    server,
    test_compressed_and_uncompressed_may_be_mixed_6_1,
    test_compressed_frame_of_no_bytes,
    test_compressed_messages_of_the_application_alone,
    test_compressed_text_that_is_not_utf_8_6455_8_1,
    test_corrupt_data_7_4_1,
    test_echo_7_2,
    test_every_split_in_two_fragments_6_1,
    test_examples_of_the_rfc,
    test_final_block_in_every_message_7_2_3_4,
    test_fragments_with_control_frames_between_6_1,
    test_idle_server_may_start_a_new_stream_7_2_1,
    test_levels,
    test_levels_differ,
    test_min_size,
    test_min_size_counts_bytes,
    test_reserved_bits_with_deflate_6_1,
    test_takeover_of_the_server_7_1_1_1,
    test_window_of_a_client_that_does_not_offer_it_7_1_2_2,
    test_window_of_the_client_7_1_2_2,
    test_window_of_the_server_7_1_2_1,
    test_window_of_the_server_of_8_bits_7_1_2_1,
    widest,
)
from test_ws_negotiation import (
    test_negotiation_7_1,
    test_negotiation_by_options_7_1,
    test_negotiation_with_the_widest_windows_7_1,
    test_no_offer_9_1,
    test_offered_server_window_is_answered_7_1_2_1,
    test_offers_in_several_lines_9_1,
)
