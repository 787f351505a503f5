/* HTTP/2's frames: every cut of the bytes gives the same events, verdict and answers; windows add up; streams are open
 * between their events and at most as many as the limit; memory is bounded. */
#include "http2.h"

#include "target.h"

static const char GREETING[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";
enum { GREETING_SIZE = 24 + 9, OPEN_MAX = 200, BLOCK_MIN = 16384, FRAME_MAX = 16384 };

/* A stream, as known from the events. */
typedef struct {
  uint32_t id;
  uint64_t unread;
  uint64_t delivered;
  int ended;
} stream;

typedef struct {
  th_http2 http2;
  th_http2_scratch scratch;
  th_buffer written; /* what the caller itself sends */
  stream streams[OPEN_MAX];
  size_t count;
  uint32_t newest;
  uint64_t unread;
} connection;

static stream *find(connection *c, uint32_t id) {
  for (size_t i = 0; i < c->count; i++) {
    if (c->streams[i].id == id) return &c->streams[i];
  }
  return NULL;
}

static void begin(connection *c, uint32_t id) {
  EXPECT(id % 2 == 1 && id > c->newest && c->count < OPEN_MAX);
  c->newest = id;
  c->streams[c->count++] = (stream){id, 0, 0, c->http2.ended};
}

/* The stream is over: its delivered content is dropped. */
static void forget(connection *c, stream *over) {
  c->unread -= over->unread;
  EXPECT(th_http2_consumed(&c->http2, over->id, over->unread, 0) == TH_OK);
  *over = c->streams[--c->count];
}

/* Streams with an even half of their id are answered at once, the others never. */
static void answer(connection *c, stream *asked) {
  if (asked->id / 2 % 2 == 1) return;
  size_t mark;
  EXPECT(th_http2_begin_headers(&c->http2, &c->written, &mark) == TH_OK);
  EXPECT(th_hpack_encode_status(&c->http2.encoder, &c->written, 200) == TH_OK);
  EXPECT(th_http2_end_headers(&c->http2, &c->written, mark, asked->id, 1) == TH_OK);
  if (!asked->ended) EXPECT(th_http2_reset(&c->http2, &c->written, asked->id, TH_HTTP2_NO_ERROR) == TH_OK);
  EXPECT(th_http2_find(&c->http2, asked->id) == NULL);
  th_http2_completed(&c->http2);
  forget(c, asked);
}

static void record_slice(th_buffer *trace, const th_buffer *bytes, th_slice slice) {
  EXPECT((size_t)slice.offset + slice.length <= bytes->length);
  record_number(trace, 's', slice.length);
  if (slice.length > 0) record(trace, bytes->data + slice.offset, slice.length);
}

static void record_head(connection *c, th_buffer *trace) {
  const th_head *head = &c->scratch.head;
  EXPECT(head->field_count <= c->http2.limits.fields);
  EXPECT(c->scratch.hints.length == head->field_count * sizeof(th_http2_hint));
  record_number(trace, 'm', head->method);
  record_slice(trace, &c->scratch.bytes, head->path);
  record_slice(trace, &c->scratch.bytes, head->authority);
  for (uint32_t i = 0; i < head->field_count; i++) {
    const th_field *field = th_head_field(head, i);
    if (field->id == TH_FIELD_OTHER) record_slice(trace, &c->scratch.bytes, field->name);
    record_slice(trace, &c->scratch.bytes, field->value);
  }
}

static void expect_sums(const connection *c) {
  const th_http2 *http2 = &c->http2;
  EXPECT(http2->open <= http2->limits.streams && http2->open == c->count);
  EXPECT(http2->unread >= 0 && (uint64_t)http2->unread == c->unread);
  EXPECT(http2->window >= 0 && (int64_t)http2->window + http2->unread <= http2->window_size);
  for (size_t i = 0; i < c->count; i++) {
    const th_http2_stream *open = th_http2_find(http2, c->streams[i].id);
    EXPECT(open != NULL && open->id == c->streams[i].id);
    EXPECT(open->unread >= 0 && (uint64_t)open->unread == c->streams[i].unread);
    EXPECT(open->window >= 0 && (int64_t)open->window + open->unread <= open->window_size);
    EXPECT(!(open->flags & TH_HTTP2_PEER_ENDED) || c->streams[i].ended || open->flags & TH_HTTP2_REFUSING);
    EXPECT(open->send_window <= TH_HTTP2_ID_MAX && open->send_window >= -(int64_t)TH_HTTP2_ID_MAX);
  }
}

/* Records an event. `joins`: the content continues that of the previous event. */
static void follow(connection *c, int event, th_buffer *trace, uint32_t *joins) {
  th_http2 *http2 = &c->http2;
  stream *of = find(c, http2->stream);
  if (event == TH_HTTP2_BODY) {
    EXPECT(of != NULL && !of->ended && http2->body_length > 0);
    of->unread += http2->body_length;
    of->delivered += http2->body_length;
    c->unread += http2->body_length;
    const th_http2_stream *open = th_http2_find(http2, of->id);
    EXPECT(open != NULL && of->delivered <= open->received);
    if (http2->limits.body > 0 && !(open->flags & TH_HTTP2_TUNNEL)) EXPECT(of->delivered <= http2->limits.body);
    if (*joins != of->id) record_number(trace, 'b', of->id);
    *joins = of->id;
    record(trace, http2->body, http2->body_length);
    return;
  }
  *joins = 0;
  record_number(trace, 'e', (uint64_t)event);
  if (event == TH_HTTP2_PONG) return;
  record_number(trace, 'i', http2->stream);
  switch (event) {
    case TH_HTTP2_HEAD:
      begin(c, http2->stream);
      record_head(c, trace);
      if (http2->ended) answer(c, &c->streams[c->count - 1]);
      break;
    case TH_HTTP2_REFUSED: {
      int code = th_status_code(http2->status);
      EXPECT(code >= 400 && code < 600);
      record_number(trace, 'r', (uint64_t)code);
      if (of == NULL) {
        begin(c, http2->stream);
        of = &c->streams[c->count - 1];
      } else if (http2->ended) {
        of->ended = 1;
      }
      answer(c, of);
      break;
    }
    case TH_HTTP2_END:
      EXPECT(of != NULL && !of->ended);
      of->ended = 1;
      answer(c, of);
      break;
    default:
      EXPECT(event == TH_HTTP2_RESET && th_http2_find(http2, http2->stream) == NULL);
      record_number(trace, 'c', http2->code);
      if (of != NULL) forget(c, of);
  }
}

/* Returns the verdict; `trace` gets the events before it, and the bytes that the codec and the caller would send. */
static int run(const char *data, size_t n, const th_http2_limits *limits, int stalled, enum cut cut, th_buffer *trace) {
  knife blade = knife_for(cut, data, n);
  connection *c = calloc(1, sizeof *c);
  EXPECT(c != NULL);
  int event = TH_HTTP2_NEED_DATA;
  uint32_t joins = 0;
  th_http2_scratch_init(&c->scratch);
  EXPECT(th_http2_init(&c->http2, limits, &c->scratch, 0) == TH_OK);
  c->http2.stalled = (uint8_t)stalled;
  for (size_t at = 0; at < n && event >= 0;) {
    size_t size = next_piece(&blade, n - at);
    char *piece = exactly(data + at, size);
    size_t left = size;
    at += size;
    th_http2_feed(&c->http2, piece, size);
    while ((event = th_http2_next(&c->http2)) > TH_HTTP2_NEED_DATA) {
      EXPECT(th_http2_left(&c->http2) <= left);
      left = th_http2_left(&c->http2);
      if (event == TH_HTTP2_BODY) {
        EXPECT(c->http2.body >= piece && c->http2.body + c->http2.body_length <= piece + size);
      }
      follow(c, event, trace, &joins);
      if (cut == WHOLE) expect_sums(c);
    }
    if (event == TH_HTTP2_NEED_DATA) {
      EXPECT(th_http2_left(&c->http2) == 0);
      expect_sums(c);
    }
    size_t most = (size_t)limits->head + limits->head / 4;
    EXPECT(c->http2.block.length <= (most > BLOCK_MIN ? most : BLOCK_MIN));
    EXPECT(c->http2.pieces.length <= FRAME_MAX);
    EXPECT(c->http2.idle.length <= limits->streams * 8);
    EXPECT(c->http2.out.length <= 100 + 3 * at);
    th_http2_feed(&c->http2, "", 0);
    free(piece);
  }
  if (event < 0) {
    EXPECT(th_status_code(event) <= TH_HTTP2_HTTP_1_1_REQUIRED);
    EXPECT(th_http2_next(&c->http2) == event);
  }
  EXPECT(th_http2_catch_up(&c->http2) == TH_OK);
  record_number(trace, 'o', c->http2.out.length);
  record(trace, c->http2.out.data, c->http2.out.length);
  record_number(trace, 'w', c->written.length);
  if (c->written.length > 0) record(trace, c->written.data, c->written.length);
  th_http2_free(&c->http2);
  th_http2_scratch_free(&c->scratch);
  th_buffer_free(&c->written);
  free(c);
  return event;
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  if (size == 0) return 0;
  int small = input[0] & 1;
  th_http2_limits limits = {
      .streams = small ? 3 : 128,
      .connection_window = small ? 65535 : 1 << 20,
      .stream_window_max = 1 << 20,
      .head = small ? 300 : 1 << 16,
      .fields = small ? 4 : 100,
      .body = small ? 20 : 0,
      .websocket = (input[0] >> 1) & 1,
  };
  size_t greeting = input[0] & 4 ? 0 : GREETING_SIZE;
  size_t n = greeting + size - 1;
  char *data = malloc(n > 0 ? n : 1);
  EXPECT(data != NULL);
  memcpy(data, GREETING, greeting);
  memcpy(data + greeting, input + 1, size - 1);
  th_buffer whole;
  th_buffer_init(&whole);
  int stalled = (input[0] >> 3) & 1;
  int verdict = run(data, n, &limits, stalled, WHOLE, &whole);
  for (enum cut cut = BYTEWISE; cut < CUTS; cut++) {
    th_buffer trace;
    th_buffer_init(&trace);
    EXPECT(run(data, n, &limits, stalled, cut, &trace) == verdict);
    expect_same(&whole, &trace);
    th_buffer_free(&trace);
  }
  th_buffer_free(&whole);
  free(data);
  return 0;
}
