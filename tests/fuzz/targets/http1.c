/* Requests: every cut of the bytes gives the same heads, bodies and verdict, within the limits. */
#include "http1.h"
#include "target.h"

static void record_slice(th_buffer *trace, const th_head *head, th_slice slice) {
  record_number(trace, 's', slice.length);
  record(trace, head->data + slice.offset, slice.length);
}

static void record_head(th_buffer *trace, const th_head *head, const th_http1_limits *limits) {
  EXPECT(head->field_count <= limits->fields);
  /* " HTTP/1.1" is behind the target, and what is before it is one blank behind the method. */
  EXPECT(head->target.offset + head->target.length + 9 <= limits->request_line);
  EXPECT(!head->chunked || head->content_length == 0);
  uint8_t facts[] = {head->method,   head->minor,     head->form,         head->keep_alive,
                     head->chunked,  head->upgrade,   head->websocket,    head->expect_continue,
                     head->trailers, head->forwarded, head->https_target, head->path_escaped};
  record(trace, facts, sizeof facts);
  record_number(trace, 'l', head->content_length);
  record_slice(trace, head, head->target);
  record_slice(trace, head, head->path);
  record_slice(trace, head, head->query);
  record_slice(trace, head, head->authority);
  for (uint32_t i = 0; i < head->field_count; i++) {
    const th_field *field = th_head_field(head, i);
    EXPECT(field->id == th_field_lookup(head->data + field->name.offset, field->name.length));
    EXPECT(field->name.length > 0);
    record_slice(trace, head, field->name);
    record_slice(trace, head, field->value);
  }
}

static void run(const char *data, size_t n, const th_http1_limits *limits, enum cut cut, th_buffer *trace) {
  knife blade = knife_for(cut, data, n);
  th_http1 http1;
  int event = TH_NEED_DATA;
  int in_message = 0;
  uint64_t body = 0;
  uint64_t expected = 0;
  th_http1_init(&http1, limits);
  for (size_t at = 0; at < n && event >= 0;) {
    size_t size = next_piece(&blade, n - at);
    char *piece = exactly(data + at, size);
    size_t left = size;
    at += size;
    th_http1_feed(&http1, piece, size);
    while ((event = th_http1_next(&http1)) > TH_NEED_DATA) {
      EXPECT(th_http1_left(&http1) <= left); /* nothing is read twice */
      left = th_http1_left(&http1);
      if (event == TH_HEAD) {
        EXPECT(!in_message);
        in_message = 1;
        body = 0;
        expected = http1.head.chunked ? UINT64_MAX : http1.head.content_length;
        record_number(trace, 'h', 0);
        record_head(trace, &http1.head, limits);
      } else if (event == TH_BODY) {
        EXPECT(in_message && http1.body_length > 0);
        body += http1.body_length;
        EXPECT(body <= expected && (limits->body == 0 || body <= limits->body));
        record(trace, http1.body, http1.body_length);
      } else {
        EXPECT(event == TH_END && in_message);
        EXPECT(expected == UINT64_MAX || body == expected);
        in_message = 0;
        record_number(trace, 'e', body);
      }
    }
    EXPECT(event < 0 || th_http1_left(&http1) == 0);
    EXPECT(event < 0 || !in_message || !th_http1_is_idle(&http1));
    free(piece);
  }
  if (event < 0) {
    int code = th_status_code(event);
    EXPECT(code >= 400 && code < 600 && code != 500);
    EXPECT(th_http1_reason(&http1)[0] != 0);
    char *behind = exactly("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27);
    th_http1_feed(&http1, behind, 27);
    EXPECT(th_http1_next(&http1) == event); /* a refusal stays */
    free(behind);
  }
  record_number(trace, 'v', (uint64_t)(int64_t)event);
  record_number(trace, 'b', in_message ? body : 0);
  th_http1_free(&http1);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  if (size == 0) return 0;
  th_http1_limits limits = {
      .request_line = input[0] & 1 ? 40 : 65536,
      .head = input[0] & 2 ? 100 : 65536,
      .fields = input[0] & 4 ? 3 : 100,
      .body = input[0] & 8 ? 10 : 0,
  };
  th_buffer whole;
  th_buffer_init(&whole);
  run((const char *)input + 1, size - 1, &limits, WHOLE, &whole);
  for (enum cut cut = BYTEWISE; cut < CUTS; cut++) {
    th_buffer trace;
    th_buffer_init(&trace);
    run((const char *)input + 1, size - 1, &limits, cut, &trace);
    expect_same(&whole, &trace);
    th_buffer_free(&trace);
  }
  th_buffer_free(&whole);
  return 0;
}
