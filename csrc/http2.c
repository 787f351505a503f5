#include "http2.h"

#include <string.h>

static const char PREFACE[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
static const char PING_PAYLOAD[] = "thestral"; /* of our PING frames: 8 bytes */

/* RFC 9113 section 6; PRIORITY_UPDATE: RFC 9218 section 7.1. */
enum frame_type {
  DATA = 0x0,
  HEADERS = 0x1,
  PRIORITY = 0x2,
  RST_STREAM = 0x3,
  SETTINGS = 0x4,
  PUSH_PROMISE = 0x5,
  PING = 0x6,
  GOAWAY = 0x7,
  WINDOW_UPDATE = 0x8,
  CONTINUATION = 0x9,
  PRIORITY_UPDATE = 0x10
};
enum frame_flag { ACK = 0x1, END_STREAM = 0x1, END_HEADERS = 0x4, PADDED = 0x8, HAS_PRIORITY = 0x20 };
/* RFC 9113 section 6.5.2, RFC 8441 section 3, RFC 9218 section 2.1. */
enum setting {
  HEADER_TABLE_SIZE = 0x1,
  ENABLE_PUSH = 0x2,
  MAX_CONCURRENT_STREAMS = 0x3,
  INITIAL_WINDOW_SIZE = 0x4,
  MAX_FRAME_SIZE = 0x5,
  MAX_HEADER_LIST_SIZE = 0x6,
  ENABLE_CONNECT_PROTOCOL = 0x8,
  NO_RFC7540_PRIORITIES = 0x9
};
enum state { READ_PREFACE, READ_FRAME_HEAD, READ_PAYLOAD, READ_PADDING_LENGTH, READ_DATA, READ_PADDING, SKIP_PAYLOAD };

enum {
  FRAME_MAX = 16384,      /* bytes of a received frame: the default of SETTINGS_MAX_FRAME_SIZE */
  OWN_FRAME_MAX = 65536,  /* bytes of a sent frame, if the peer allows it */
  WINDOW_START = 65535,   /* RFC 9113 section 6.9.2 */
  SLOTS_START = 8,
  SETTINGS_MAX = 32,      /* entries of a SETTINGS frame */
  CONTINUATIONS_MAX = 8,
  UPDATES_START = 10,     /* free WINDOW_UPDATE frames, and further ones for each DATA frame that is sent */
  UPDATES_PER_DATA = 5,
  UPDATES_MOST = 100000,  /* for all frames under way: with large windows, thousands of small ones */
  PRIORITIES_START = 16,  /* free PRIORITY frames, and further ones for each stream */
  PRIORITIES_PER_STREAM = 2,
  PRIORITIES_MOST = 1000,
  SMALL_DATA = 64,        /* bytes: sent DATA frames that a window makes smaller than this are counted */
  SMALL_PER_DATA = 1,     /* free small frames for each larger one: streams that share a narrow window cause some */
  SMALL_MOST = 1000
};

/* Budgets for frames that cost the peer little. Useful work refills them, so that no honest client runs out, however
 * long its connection lives. Resets are those of either side: CVE-2023-44487, CVE-2025-8671. Glitches are frames
 * without work (CVE-2019-9512, -9515, -9518), and windows that make this side send little at a time (-9511, -9517). */
static const double RESETS_MOST = 200, RESETS_RATE = 33;
static const double GLITCHES_MOST = 1000, GLITCHES_RATE = 100;
static const double PINGS_MOST = TH_HTTP2_PINGS_HELD, PINGS_RATE = 10;

/* --- Bytes ----------------------------------------------------------------------------------------------------- */

static uint32_t read_u16(const char *src) {
  const unsigned char *byte = (const unsigned char *)src;
  return (uint32_t)byte[0] << 8 | byte[1];
}

static uint32_t read_u32(const char *src) { return read_u16(src) << 16 | read_u16(src + 2); }

static uint32_t read_id(const char *src) { return read_u32(src) & TH_HTTP2_ID_MAX; }

static void put_u32(char *dst, uint32_t value) {
  dst[0] = (char)(value >> 24);
  dst[1] = (char)(value >> 16);
  dst[2] = (char)(value >> 8);
  dst[3] = (char)value;
}

static void put_frame_head(char *dst, size_t length, int type, int flags, uint32_t id) {
  dst[0] = (char)(length >> 16);
  dst[1] = (char)(length >> 8);
  dst[2] = (char)length;
  dst[3] = (char)type;
  dst[4] = (char)flags;
  put_u32(dst + 5, id);
}

/* Appends the head of a frame and makes room for its payload. Returns where that begins, or NULL without memory. */
static char *add_frame(th_buffer *out, size_t length, int type, int flags, uint32_t id) {
  if (th_buffer_reserve(out, TH_HTTP2_FRAME_HEAD + length) < 0) return NULL;
  char *dst = out->data + out->length;
  put_frame_head(dst, length, type, flags, id);
  out->length += TH_HTTP2_FRAME_HEAD + length;
  return dst + TH_HTTP2_FRAME_HEAD;
}

static int add_u32_frame(th_buffer *out, int type, uint32_t id, uint32_t value) {
  char *payload = add_frame(out, 4, type, 0, id);
  if (payload == NULL) return TH_ENOMEM;
  put_u32(payload, value);
  return TH_OK;
}

/* --- Budgets --------------------------------------------------------------------------------------------------- */

/* Takes a token; returns 0 if there is none. */
static int take(th_http2_budget *budget, double now, double most, double rate) {
  double tokens = budget->tokens + (now - budget->at) * rate;
  budget->at = now;
  if (tokens > most) tokens = most;
  int taken = tokens >= 1;
  budget->tokens = taken ? tokens - 1 : tokens;
  return taken;
}

static void give(th_http2_budget *budget, double most) {
  if (budget->tokens < most) budget->tokens += 1;
}

static int glitch(th_http2 *http2) {
  return take(&http2->glitches, http2->now, GLITCHES_MOST, GLITCHES_RATE) ? TH_OK : TH_EGLITCHES;
}

static int count_reset(th_http2 *http2) {
  return take(&http2->resets, http2->now, RESETS_MOST, RESETS_RATE) ? TH_OK : TH_ERESETS;
}

/* Takes one from `allowance`, or a glitch if it is used up. */
static int use_allowance(th_http2 *http2, int32_t *allowance) {
  if (*allowance > 0) {
    *allowance -= 1;
    return TH_OK;
  }
  return glitch(http2);
}

static void allow(int32_t *allowance, int32_t more, int32_t most) {
  *allowance = *allowance > most - more ? most : *allowance + more;
}

/* --- Streams --------------------------------------------------------------------------------------------------- */

static th_http2_stream *slots(const th_http2 *http2) { return (th_http2_stream *)(void *)http2->streams.data; }

static size_t slot_count(const th_http2 *http2) { return http2->streams.length / sizeof(th_http2_stream); }

/* The table is never more than half full, and ids of new streams follow each other, so a search is short. An empty slot
 * has the id 0. */
static th_http2_stream *slot_of(const th_http2 *http2, uint32_t id) {
  size_t mask = slot_count(http2) - 1;
  th_http2_stream *table = slots(http2);
  size_t at = (id >> 1) & mask;
  while (table[at].id != 0 && table[at].id != id) at = (at + 1) & mask;
  return table + at;
}

th_http2_stream *th_http2_find(const th_http2 *http2, uint32_t id) {
  if (http2->open == 0) return NULL;
  th_http2_stream *slot = slot_of(http2, id);
  return slot->id == id ? slot : NULL;
}

static int resize_table(th_http2 *http2, size_t count) {
  th_buffer old = http2->streams;
  th_buffer_init(&http2->streams);
  if (th_buffer_reserve(&http2->streams, count * sizeof(th_http2_stream)) < 0) {
    http2->streams = old;
    return TH_ENOMEM;
  }
  memset(http2->streams.data, 0, count * sizeof(th_http2_stream));
  http2->streams.length = count * sizeof(th_http2_stream);
  const th_http2_stream *table = (const th_http2_stream *)(const void *)old.data;
  for (size_t i = 0; i < old.length / sizeof(th_http2_stream); i++) {
    if (table[i].id != 0) *slot_of(http2, table[i].id) = table[i];
  }
  th_buffer_free(&old);
  return TH_OK;
}

static th_http2_stream *add_stream(th_http2 *http2, uint32_t id) {
  size_t count = slot_count(http2);
  if (2 * (http2->open + 1) > count && resize_table(http2, count ? 2 * count : SLOTS_START) < 0) return NULL;
  th_http2_stream *stream = slot_of(http2, id);
  memset(stream, 0, sizeof *stream);
  stream->id = id;
  stream->urgency = TH_HTTP2_URGENCY;
  stream->window = stream->window_size = WINDOW_START;
  stream->send_window = http2->peer_window;
  stream->left = -1;
  http2->open++;
  return stream;
}

/* Unread bytes still count against the connection's window, because the caller holds them. */
static void remove_stream(th_http2 *http2, th_http2_stream *stream) {
  size_t mask = slot_count(http2) - 1;
  th_http2_stream *table = slots(http2);
  size_t hole = (size_t)(stream - table);
  for (size_t at = (hole + 1) & mask; table[at].id != 0; at = (at + 1) & mask) {
    size_t home = (table[at].id >> 1) & mask;
    /* Move an entry that a search, which ends at the hole, would miss. */
    if (((at - home) & mask) >= ((at - hole) & mask)) {
      table[hole] = table[at];
      hole = at;
    }
  }
  table[hole].id = 0;
  http2->open--;
  if (http2->open == 0 && slot_count(http2) > SLOTS_START) th_buffer_free(&http2->streams);
}

/* Even ids never begin, because the server does not push. */
static int has_bit(const uint64_t *bits, uint32_t id) {
  uint32_t index = (id >> 1) % TH_HTTP2_REMEMBERED;
  return (int)(bits[index / 64] >> (index % 64) & 1);
}

static void set_bit(uint64_t *bits, uint32_t id, int value) {
  uint32_t index = (id >> 1) % TH_HTTP2_REMEMBERED;
  uint64_t bit = (uint64_t)1 << (index % 64);
  bits[index / 64] = value ? bits[index / 64] | bit : bits[index / 64] & ~bit;
}

/* Notes that a stream begins. Lower ids that have not begun never will (RFC 9113 section 5.1.1). */
static void note_begin(th_http2 *http2, uint32_t id) {
  uint32_t first = http2->newest ? http2->newest + 2 : 1;
  if (id - first > 2 * TH_HTTP2_REMEMBERED) first = id - 2 * TH_HTTP2_REMEMBERED;
  for (uint32_t skipped = first; skipped < id; skipped += 2) {
    set_bit(http2->begun, skipped, 0);
    set_bit(http2->dropped, skipped, 0);
  }
  set_bit(http2->begun, id, 1);
  set_bit(http2->dropped, id, 0);
  http2->newest = id;
}

/* Notes that this side has reset the stream. A stream that is too old to be remembered has no bit. */
static void note_dropped(th_http2 *http2, uint32_t id) {
  if (id <= http2->newest && http2->newest - id < 2 * TH_HTTP2_REMEMBERED) set_bit(http2->dropped, id, 1);
}

/* 1 if this side has reset the stream, so that late frames may arrive. Streams that are too old to be remembered count
 * as reset. */
static int was_dropped(const th_http2 *http2, uint32_t id) {
  return http2->newest - id >= 2 * TH_HTTP2_REMEMBERED || has_bit(http2->dropped, id);
}

/* 1 if a stream has never begun, whether or not it still can. */
static int is_idle(const th_http2 *http2, uint32_t id) {
  if (id > http2->newest || id % 2 == 0) return 1;
  return !was_dropped(http2, id) && !has_bit(http2->begun, id);
}

/* Checks a frame with content or fields for a stream that is not open. Returns TH_OK if it is to be ignored. */
static int judge_closed(const th_http2 *http2, uint32_t id) {
  if (is_idle(http2, id)) return TH_ESTREAM_IDLE;
  return was_dropped(http2, id) ? TH_OK : TH_ESTREAM_CLOSED;
}

/* Resets a stream, open or not, for a stream error (RFC 9113 section 5.4.2). Returns TH_HTTP2_RESET, or a connection
 * error if there have been too many. */
static int stream_error(th_http2 *http2, uint32_t id, int status) {
  th_http2_stream *stream = th_http2_find(http2, id);
  int code = th_status_code(status);
  if (stream != NULL) remove_stream(http2, stream);
  note_dropped(http2, id);
  if (add_u32_frame(&http2->out, RST_STREAM, id, (uint32_t)code) < 0) return TH_ENOMEM;
  http2->stream = id;
  http2->status = status;
  http2->code = (uint32_t)code;
  int counted = count_reset(http2);
  return counted < 0 ? counted : TH_HTTP2_RESET;
}

/* --- Receive windows ------------------------------------------------------------------------------------------- */

static int update_window(th_http2 *http2, uint32_t id, int32_t *window, int32_t size, int32_t held) {
  int32_t credit = size - *window - held;
  *window += credit;
  return add_u32_frame(&http2->out, WINDOW_UPDATE, id, (uint32_t)credit);
}

/* 1 if half of a window has been used up and consumed, so that a WINDOW_UPDATE is worth its frame. */
static int is_due(int32_t window, int32_t size, int32_t held) { return size - window - held >= size / 2; }

/* Bytes still to come of the DATA frame that is being read, if it is on this stream (0: on any). They have been taken
 * off the windows, but not been consumed or dropped. */
static int32_t under_way(const th_http2 *http2, uint32_t id) {
  if (http2->state < READ_PADDING_LENGTH || http2->state > READ_PADDING) return 0;
  return id == 0 || id == http2->frame_id ? (int32_t)http2->frame_left : 0;
}

static int give_connection_credit(th_http2 *http2) {
  int32_t held = http2->unread + under_way(http2, 0);
  if (!is_due(http2->window, http2->window_size, held)) return TH_OK;
  return update_window(http2, 0, &http2->window, http2->window_size, held);
}

static int give_stream_credit(th_http2 *http2, th_http2_stream *stream) {
  if (stream->flags & TH_HTTP2_PEER_ENDED) return TH_OK;
  int32_t held = stream->unread + under_way(http2, stream->id);
  if (!is_due(stream->window, stream->window_size, held)) return TH_OK;
  return update_window(http2, stream->id, &stream->window, stream->window_size, held);
}

/* Grows the window of an application that has received everything and waits for more: the window limits the peer. It
 * doubles whenever half of it has arrived since it last grew. */
static void grow_window(const th_http2 *http2, th_http2_stream *stream) {
  int32_t size = stream->window_size;
  int32_t most = (int32_t)http2->limits.stream_window_max;
  if (stream->unread > 0 || size >= most || stream->received - stream->grown_at < (uint64_t)size / 2) return;
  stream->window_size = size > most / 2 ? most : 2 * size;
  stream->grown_at = stream->received;
}

int th_http2_consumed(th_http2 *http2, uint32_t id, size_t n, int waits) {
  http2->unread -= (int32_t)n;
  int status = give_connection_credit(http2);
  th_http2_stream *stream = th_http2_find(http2, id);
  if (stream == NULL || status < 0) return status;
  stream->unread -= (int32_t)n;
  if (waits) grow_window(http2, stream);
  return give_stream_credit(http2, stream);
}

/* --- Requests ------------------------------------------------------------------------------------------------- */

/* A priority that a PRIORITY_UPDATE frame gave to a stream before the stream began. */
typedef struct {
  uint32_t id;
  uint8_t urgency;
  uint8_t incremental;
} idle_priority;

static idle_priority *find_idle(const th_http2 *http2, uint32_t id) {
  idle_priority *idle = (idle_priority *)(void *)http2->idle.data;
  for (size_t i = 0; i < http2->idle.length / sizeof *idle; i++) {
    if (idle[i].id == id) return idle + i;
  }
  return NULL;
}

/* Forgets the priorities of streams that have begun or never will. */
static void drop_idle(th_http2 *http2) {
  idle_priority *idle = (idle_priority *)(void *)http2->idle.data;
  size_t kept = 0;
  for (size_t i = 0; i < http2->idle.length / sizeof *idle; i++) {
    if (idle[i].id > http2->newest) idle[kept++] = idle[i];
  }
  http2->idle.length = kept * sizeof *idle;
  if (kept == 0) th_buffer_free(&http2->idle);
}

static void set_priority(th_http2_stream *stream, uint8_t urgency, uint8_t incremental) {
  stream->urgency = urgency;
  stream->flags = (uint8_t)((stream->flags & ~TH_HTTP2_INCREMENTAL) | (incremental ? TH_HTTP2_INCREMENTAL : 0));
}

static int refuse(th_http2 *http2, th_http2_stream *stream, int status) {
  stream->flags |= TH_HTTP2_REFUSING;
  http2->stream = stream->id;
  http2->status = status;
  return TH_HTTP2_REFUSED;
}

/* RFC 9113 section 8.1.1: DATA frames must add up to Content-Length. */
static int begin_request(th_http2 *http2, uint32_t id, const th_http2_tally *found) {
  th_head *head = &http2->scratch->head;
  int ended = http2->block_flags & END_STREAM;
  int status = th_http2_finish_head(http2->scratch, found);
  if (status == TH_ENOMEM) return status;
  if (th_http2_is_malformed(status)) return stream_error(http2, id, status);
  if (status == TH_OK && ended && head->content_length > 0) return stream_error(http2, id, TH_ELENGTH);
  http2->last_id = id;
  allow(&http2->priorities, PRIORITIES_PER_STREAM, PRIORITIES_MOST);
  th_http2_stream *stream = add_stream(http2, id);
  if (stream == NULL) return TH_ENOMEM;
  set_priority(stream, found->urgency, found->incremental);
  if (http2->idle.length > 0) {
    const idle_priority *earlier = find_idle(http2, id);
    if (earlier != NULL) {
      set_priority(stream, earlier->urgency, earlier->incremental);
    }
    drop_idle(http2);
  }
  if (ended) stream->flags |= TH_HTTP2_PEER_ENDED;
  if (head->websocket) stream->flags |= TH_HTTP2_TUNNEL;
  http2->ended = ended != 0;
  http2->stream = id;
  if (status < 0) return refuse(http2, stream, status);
  if (found->content_lengths > 0) {
    if (head->content_length > INT64_MAX) return refuse(http2, stream, TH_EBODY_SIZE);
    if (http2->limits.body > 0 && head->content_length > http2->limits.body) {
      return refuse(http2, stream, TH_EBODY_SIZE);
    }
    stream->left = (int64_t)head->content_length;
  } else {
    head->chunked = !ended; /* there is content, of unknown length */
  }
  return TH_HTTP2_HEAD;
}

static int end_request(th_http2 *http2, th_http2_stream *stream) {
  if (stream->left > 0) return stream_error(http2, stream->id, TH_ELENGTH);
  stream->flags |= TH_HTTP2_PEER_ENDED;
  http2->stream = stream->id;
  int refusing = stream->flags & TH_HTTP2_REFUSING;
  if (stream->flags & TH_HTTP2_WE_ENDED) remove_stream(http2, stream);
  return refusing ? TH_OK : TH_HTTP2_END;
}

static int on_trailers(th_http2 *http2, uint32_t id, const char *block, size_t n) {
  th_http2_tally found = {0};
  int status = th_http2_read_trailers(&http2->decoder, block, n, &found);
  if (status < 0) return status;
  th_http2_stream *stream = th_http2_find(http2, id);
  if (stream->flags & TH_HTTP2_PEER_ENDED) return stream_error(http2, id, TH_ESTREAM_CLOSED);
  int tunnel = stream->flags & TH_HTTP2_TUNNEL; /* RFC 9113 section 8.5 */
  if (!(http2->block_flags & END_STREAM) || found.malformed < 0 || tunnel) return stream_error(http2, id, TH_ETRAILERS);
  if (found.size <= http2->limits.head || stream->flags & (TH_HTTP2_REFUSING | TH_HTTP2_WE_ENDED)) {
    return end_request(http2, stream);
  }
  stream->flags |= TH_HTTP2_PEER_ENDED;
  http2->ended = 1;
  return refuse(http2, stream, TH_ETRAILER_SIZE);
}

/* Decodes a block only for the sake of the dynamic table. */
static int drop_block(th_http2 *http2, const char *block, size_t n) {
  th_http2_tally found = {0};
  int status = th_http2_read_trailers(&http2->decoder, block, n, &found);
  return status < 0 ? status : glitch(http2);
}

/* Handles a complete field block. */
static int on_block(th_http2 *http2, uint32_t id, const char *block, size_t n) {
  th_http2_tally found = {0};
  found.urgency = TH_HTTP2_URGENCY;
  if (th_http2_find(http2, id) != NULL) return on_trailers(http2, id, block, n);
  if (id <= http2->newest) {
    int status = judge_closed(http2, id);
    /* RFC 9113 section 5.1.1: ids must grow. */
    if (status < 0) return status == TH_ESTREAM_IDLE ? TH_EFRAME_STREAM : status;
    return drop_block(http2, block, n);
  }
  note_begin(http2, id);
  if (http2->draining) {
    note_dropped(http2, id);
    return drop_block(http2, block, n);
  }
  if (http2->open >= http2->limits.streams) {
    int status = th_http2_read_trailers(&http2->decoder, block, n, &found);
    return status < 0 ? status : stream_error(http2, id, TH_EREFUSED);
  }
  int status = th_http2_read_head(http2->scratch, &http2->limits, &http2->decoder, block, n, &found);
  if (status < 0) return status;
  if (http2->block_flags & HAS_PRIORITY && http2->depends_on == id) return stream_error(http2, id, TH_EFRAME_STREAM);
  return begin_request(http2, id, &found);
}

/* --- Frames ---------------------------------------------------------------------------------------------------- */

/* Strips the padding of a HEADERS frame. Returns TH_OK, or the frame's error. */
static int strip_padding(int flags, const char **payload, size_t *n) {
  if (!(flags & PADDED)) return TH_OK;
  if (*n < 1) return TH_EFRAME_SIZE;
  size_t padding = (unsigned char)**payload;
  *payload += 1;
  *n -= 1;
  if (padding > *n) return TH_EPADDING;
  *n -= padding;
  return TH_OK;
}

/* Adds a part of a field block; `last` completes the block. */
static int add_fragment(th_http2 *http2, const char *fragment, size_t n, int last) {
  /* The limit applies to the decoded head; an encoded head that is this much longer cannot be within it. */
  size_t most = (size_t)http2->limits.head + http2->limits.head / 4;
  if (most < FRAME_MAX) most = FRAME_MAX;
  if (http2->block.length + n > most) return TH_EBLOCK_SIZE;
  uint32_t id = http2->block_id;
  if (last && http2->block.length == 0) {
    http2->block_id = 0;
    return on_block(http2, id, fragment, n);
  }
  int status = th_buffer_append(&http2->block, fragment, n);
  if (status < 0 || !last) return status;
  http2->block_id = 0;
  status = on_block(http2, id, http2->block.data, http2->block.length);
  th_buffer_free(&http2->block);
  return status;
}

static int on_headers(th_http2 *http2, const char *payload, size_t n) {
  if (http2->frame_id % 2 == 0) return TH_EFRAME_STREAM;
  int status = strip_padding(http2->flags, &payload, &n);
  if (status < 0) return status;
  if (http2->flags & HAS_PRIORITY) {
    if (n < 5) return TH_EFRAME_SIZE;
    http2->depends_on = read_id(payload);
    payload += 5;
    n -= 5;
  }
  http2->block_id = http2->frame_id;
  http2->block_flags = http2->flags;
  http2->continuations = 0;
  return add_fragment(http2, payload, n, http2->flags & END_HEADERS);
}

static int on_continuation(th_http2 *http2, const char *payload, size_t n) {
  if (http2->block_id == 0) return TH_EBLOCK;
  int last = http2->flags & END_HEADERS;
  if (++http2->continuations > CONTINUATIONS_MAX || (n == 0 && !last)) return TH_EGLITCHES;
  return add_fragment(http2, payload, n, last);
}

/* RFC 7540's priorities are ignored; RFC 9113 section 6.3 keeps the rules for the frame. */
static int on_priority(th_http2 *http2, const char *payload, size_t n) {
  uint32_t id = http2->frame_id;
  if (id == 0) return TH_EFRAME_STREAM;
  int status = n != 5 ? TH_EFRAME_SIZE : read_id(payload) == id ? TH_EFRAME_STREAM : TH_OK;
  if (status < 0) return th_http2_find(http2, id) != NULL ? stream_error(http2, id, status) : status;
  return use_allowance(http2, &http2->priorities);
}

static int on_priority_update(th_http2 *http2, const char *payload, size_t n) {
  if (http2->frame_id != 0) return TH_EFRAME_STREAM;
  if (n < 4) return TH_EFRAME_SIZE;
  uint32_t id = read_id(payload);
  if (id % 2 == 0) return TH_EFRAME_STREAM;
  uint8_t urgency = TH_HTTP2_URGENCY;
  uint8_t incremental = 0;
  th_http2_read_priority(payload + 4, n - 4, &urgency, &incremental);
  th_http2_stream *stream = th_http2_find(http2, id);
  if (stream != NULL) {
    set_priority(stream, urgency, incremental);
    return use_allowance(http2, &http2->priorities);
  }
  if (id <= http2->newest) return use_allowance(http2, &http2->priorities);
  idle_priority *idle = find_idle(http2, id);
  if (idle == NULL) {
    idle_priority added = {id, urgency, incremental};
    if (http2->idle.length / sizeof added + http2->open >= http2->limits.streams) return TH_EPRIORITIES;
    if (th_buffer_append(&http2->idle, (const char *)&added, sizeof added) < 0) return TH_ENOMEM;
  } else {
    idle->urgency = urgency;
    idle->incremental = incremental;
  }
  return use_allowance(http2, &http2->priorities);
}

static int on_reset(th_http2 *http2, const char *payload, size_t n) {
  uint32_t id = http2->frame_id;
  if (id == 0) return TH_EFRAME_STREAM;
  if (n != 4) return TH_EFRAME_SIZE;
  th_http2_stream *stream = th_http2_find(http2, id);
  if (stream == NULL) {
    return is_idle(http2, id) ? TH_ESTREAM_IDLE : glitch(http2);
  }
  remove_stream(http2, stream);
  http2->stream = id;
  http2->status = TH_OK;
  http2->code = read_u32(payload);
  int counted = count_reset(http2);
  return counted < 0 ? counted : TH_HTTP2_RESET;
}

/* RFC 9113 section 6.9.2: the difference applies to all windows. */
static int change_windows(th_http2 *http2, uint32_t size) {
  if (size > TH_HTTP2_ID_MAX) return TH_ESETTING_WINDOW;
  int64_t difference = (int64_t)size - http2->peer_window;
  http2->peer_window = size;
  th_http2_stream *table = slots(http2);
  for (size_t i = 0; http2->open > 0 && i < slot_count(http2); i++) {
    if (table[i].id == 0) continue;
    table[i].send_window += difference;
    if (table[i].send_window > TH_HTTP2_ID_MAX) return TH_ESETTING_WINDOW;
  }
  return TH_OK;
}

static int apply_setting(th_http2 *http2, uint32_t setting, uint32_t value) {
  switch (setting) {
    case HEADER_TABLE_SIZE:
      th_hpack_encoder_resize(&http2->encoder, value);
      return TH_OK;
    case ENABLE_PUSH:
    case ENABLE_CONNECT_PROTOCOL:
      return value > 1 ? TH_ESETTING : TH_OK;
    case NO_RFC7540_PRIORITIES: /* RFC 9218 section 2.1: it must not change */
      if (value > 1 || (http2->has_settings && value != http2->no_priorities)) return TH_ESETTING;
      http2->no_priorities = (uint8_t)value;
      return TH_OK;
    case INITIAL_WINDOW_SIZE:
      return change_windows(http2, value);
    case MAX_FRAME_SIZE:
      if (value < FRAME_MAX || value > 0xffffff) return TH_ESETTING;
      http2->peer_frame_max = value < OWN_FRAME_MAX ? value : OWN_FRAME_MAX;
      return TH_OK;
    default:
      return TH_OK;
  }
}

static int count_ping(th_http2 *http2) {
  return take(&http2->pings, http2->now, PINGS_MOST, PINGS_RATE) ? TH_OK : glitch(http2);
}

static int on_settings(th_http2 *http2, const char *payload, size_t n) {
  if (http2->frame_id != 0) return TH_EFRAME_STREAM;
  if (http2->flags & ACK) {
    if (n != 0) return TH_EFRAME_SIZE;
    http2->settings_acked = 1;
    return TH_OK;
  }
  http2->awaits_settings = 0;
  if (n % 6 != 0) return TH_EFRAME_SIZE;
  if (n / 6 > SETTINGS_MAX) return TH_EGLITCHES;
  for (size_t i = 0; i < n; i += 6) {
    int status = apply_setting(http2, read_u16(payload + i), read_u32(payload + i + 2));
    if (status < 0) return status;
  }
  http2->has_settings = 1;
  http2->acks++;
  int counted = count_ping(http2);
  return counted < 0 || http2->stalled ? counted : th_http2_catch_up(http2);
}

static int on_ping(th_http2 *http2, const char *payload, size_t n) {
  if (http2->frame_id != 0) return TH_EFRAME_STREAM;
  if (n != 8) return TH_EFRAME_SIZE;
  if (http2->flags & ACK) {
    if (!http2->ping_sent || memcmp(payload, PING_PAYLOAD, 8) != 0) return glitch(http2);
    http2->ping_sent = 0;
    return TH_HTTP2_PONG;
  }
  if (http2->pings_held < TH_HTTP2_PINGS_HELD) memcpy(http2->held[http2->pings_held++], payload, 8);
  int counted = count_ping(http2);
  return counted < 0 || http2->stalled ? counted : th_http2_catch_up(http2);
}

/* GOAWAY from a client limits streams that the server begins (RFC 9113 section 6.8): there are none. The client closes
 * the connection itself. */
static int on_goaway(th_http2 *http2, size_t n) {
  if (http2->frame_id != 0) return TH_EFRAME_STREAM;
  return n < 8 ? TH_EFRAME_SIZE : glitch(http2);
}

static int on_window_update(th_http2 *http2, const char *payload, size_t n) {
  if (n != 4) return TH_EFRAME_SIZE;
  uint32_t id = http2->frame_id;
  uint32_t increment = read_id(payload);
  int64_t *window = &http2->send_window;
  if (id != 0) {
    th_http2_stream *stream = th_http2_find(http2, id);
    if (stream == NULL) {
      return is_idle(http2, id) ? TH_ESTREAM_IDLE : use_allowance(http2, &http2->updates);
    }
    window = &stream->send_window;
  }
  int status = increment == 0 ? TH_EINCREMENT : *window + increment > TH_HTTP2_ID_MAX ? TH_EWINDOW : TH_OK;
  if (status < 0) return id != 0 ? stream_error(http2, id, status) : status;
  *window += increment;
  return use_allowance(http2, &http2->updates);
}

static int on_frame(th_http2 *http2, const char *payload, size_t n) {
  switch (http2->type) {
    case HEADERS: return on_headers(http2, payload, n);
    case PRIORITY: return on_priority(http2, payload, n);
    case RST_STREAM: return on_reset(http2, payload, n);
    case SETTINGS: return on_settings(http2, payload, n);
    case PING: return on_ping(http2, payload, n);
    case GOAWAY: return on_goaway(http2, n);
    case WINDOW_UPDATE: return on_window_update(http2, payload, n);
    case CONTINUATION: return on_continuation(http2, payload, n);
    default: return on_priority_update(http2, payload, n);
  }
}

/* --- Reading --------------------------------------------------------------------------------------------------- */

void th_http2_feed(th_http2 *http2, const char *data, size_t n) {
  http2->next = data;
  http2->end = data + n;
}

size_t th_http2_left(const th_http2 *http2) { return (size_t)(http2->end - http2->next); }

int th_http2_is_reading_head(const th_http2 *http2) {
  return http2->block_id != 0 || http2->awaits_settings || (http2->state == READ_PAYLOAD && http2->type == HEADERS);
}

static int read_preface(th_http2 *http2) {
  while (http2->next < http2->end && http2->preface_read < TH_HTTP2_PREFACE_SIZE) {
    if (*http2->next != PREFACE[http2->preface_read]) return TH_EPREFACE;
    http2->next++;
    http2->preface_read++;
  }
  if (http2->preface_read == TH_HTTP2_PREFACE_SIZE) http2->state = READ_FRAME_HEAD;
  return TH_OK;
}

/* Checks a DATA frame's content against limits once its size is known: as a whole, so that the bytes delivered before a
 * refusal do not depend on how the frame was cut. */
static int begin_content(th_http2 *http2) {
  uint32_t n = http2->frame_left - http2->padding;
  http2->state = READ_DATA;
  th_http2_stream *stream = th_http2_find(http2, http2->frame_id);
  if (stream == NULL || stream->flags & TH_HTTP2_REFUSING) return TH_OK;
  stream->received += n;
  if (stream->left >= 0) {
    if (n > stream->left) return stream_error(http2, stream->id, TH_ELENGTH);
    stream->left -= n;
  }
  /* The limit on bodies does not apply to tunnels. */
  uint64_t most = stream->flags & TH_HTTP2_TUNNEL ? 0 : http2->limits.body;
  return most > 0 && stream->received > most ? refuse(http2, stream, TH_EBODY_SIZE) : TH_OK;
}

/* Begins a DATA frame (RFC 9113 sections 6.1 and 6.9), whose bytes are delivered as they arrive. */
static int begin_data(th_http2 *http2) {
  uint32_t id = http2->frame_id;
  int32_t length = (int32_t)http2->frame_left;
  if (id % 2 == 0) return TH_EFRAME_STREAM;
  th_http2_stream *stream = th_http2_find(http2, id);
  if (stream == NULL) {
    int status = judge_closed(http2, id);
    if (status < 0) return status;
  }
  if (length > http2->window) return TH_EWINDOW;
  http2->window -= length;
  http2->state = http2->flags & PADDED ? READ_PADDING_LENGTH : READ_DATA;
  http2->padding = 0;
  if (http2->flags & PADDED && length == 0) return TH_EFRAME_SIZE;
  if (length == 0 && !(http2->flags & END_STREAM)) {
    int counted = glitch(http2);
    if (counted < 0) return counted;
  }
  if (stream == NULL) return TH_OK;
  if (stream->flags & TH_HTTP2_PEER_ENDED) return stream_error(http2, id, TH_ESTREAM_CLOSED);
  if (length > stream->window) return stream_error(http2, id, TH_ESTREAM_WINDOW);
  stream->window -= length;
  return http2->state == READ_DATA ? begin_content(http2) : TH_OK;
}

/* 1 if the head of a frame says that its payload is too long or too short to be read. */
static int begin_frame(th_http2 *http2) {
  const char *head = http2->frame;
  http2->frame_read = 0;
  http2->frame_left = read_u32(head) >> 8;
  http2->type = (uint8_t)head[3];
  http2->flags = (uint8_t)head[4];
  http2->frame_id = read_id(head + 5);
  if (http2->awaits_settings && (http2->type != SETTINGS || http2->flags & ACK)) return TH_EFIRST_FRAME;
  if (http2->frame_left > FRAME_MAX) return TH_EFRAME_SIZE;
  if (http2->block_id != 0 && (http2->type != CONTINUATION || http2->frame_id != http2->block_id)) return TH_EBLOCK;
  if (http2->type == DATA) return begin_data(http2);
  if (http2->type == PUSH_PROMISE) return TH_EPUSH;
  if (http2->type > CONTINUATION && http2->type != PRIORITY_UPDATE) {
    http2->state = SKIP_PAYLOAD;
    return glitch(http2);
  }
  http2->state = READ_PAYLOAD;
  return TH_OK;
}

static int read_frame_head(th_http2 *http2) {
  size_t n = TH_HTTP2_FRAME_HEAD - http2->frame_read;
  if (n > th_http2_left(http2)) n = th_http2_left(http2);
  memcpy(http2->frame + http2->frame_read, http2->next, n);
  http2->next += n;
  http2->frame_read = (uint8_t)(http2->frame_read + n);
  return http2->frame_read == TH_HTTP2_FRAME_HEAD ? begin_frame(http2) : TH_OK;
}

static int read_payload(th_http2 *http2) {
  size_t left = th_http2_left(http2);
  size_t n = http2->frame_left;
  if (http2->pieces.length == 0 && left >= n) {
    const char *payload = http2->next;
    http2->next += n;
    http2->frame_left = 0;
    http2->state = READ_FRAME_HEAD;
    return on_frame(http2, payload, n);
  }
  if (n > left) n = left;
  if (th_buffer_append(&http2->pieces, http2->next, n) < 0) return TH_ENOMEM;
  http2->next += n;
  http2->frame_left -= (uint32_t)n;
  if (http2->frame_left > 0) return TH_OK;
  http2->state = READ_FRAME_HEAD;
  int status = on_frame(http2, http2->pieces.data, http2->pieces.length);
  th_buffer_free(&http2->pieces);
  return status;
}

static int read_padding_length(th_http2 *http2) {
  http2->padding = (unsigned char)*http2->next++;
  http2->frame_left--;
  if (http2->padding > http2->frame_left) return TH_EPADDING;
  /* Much more padding than data is a glitch. */
  uint32_t data = http2->frame_left - http2->padding;
  int status = http2->padding > 16 + 2 * data ? glitch(http2) : TH_OK;
  return status < 0 ? status : begin_content(http2);
}

/* Ends a DATA frame. */
static int end_data(th_http2 *http2) {
  http2->state = READ_FRAME_HEAD;
  int status = give_connection_credit(http2);
  th_http2_stream *stream = th_http2_find(http2, http2->frame_id);
  if (stream == NULL || status < 0) return status;
  if (http2->flags & END_STREAM) return end_request(http2, stream);
  return give_stream_credit(http2, stream);
}

/* Delivers a part of the content. */
static int deliver(th_http2 *http2, th_http2_stream *stream, size_t n) {
  http2->body = http2->next - n;
  http2->body_length = n;
  http2->stream = stream->id;
  stream->unread += (int32_t)n;
  http2->unread += (int32_t)n;
  return TH_HTTP2_BODY;
}

static int read_data(th_http2 *http2) {
  size_t n = http2->frame_left - http2->padding;
  if (n == 0) {
    http2->state = READ_PADDING;
    return TH_OK;
  }
  if (n > th_http2_left(http2)) n = th_http2_left(http2);
  http2->next += n;
  http2->frame_left -= (uint32_t)n;
  th_http2_stream *stream = th_http2_find(http2, http2->frame_id);
  if (stream == NULL || stream->flags & (TH_HTTP2_REFUSING | TH_HTTP2_PEER_ENDED)) return TH_OK;
  return deliver(http2, stream, n);
}

static int skip(th_http2 *http2, uint32_t *left) {
  size_t n = *left;
  if (n > th_http2_left(http2)) n = th_http2_left(http2);
  http2->next += n;
  http2->frame_left -= (uint32_t)n;
  if (left != &http2->frame_left) *left -= (uint32_t)n;
  return *left == 0;
}

static int advance(th_http2 *http2) {
  switch (http2->state) {
    case READ_PREFACE: return read_preface(http2);
    case READ_FRAME_HEAD: return read_frame_head(http2);
    case READ_PAYLOAD: return read_payload(http2);
    case READ_PADDING_LENGTH: return read_padding_length(http2);
    case READ_DATA: return read_data(http2);
    case READ_PADDING: return skip(http2, &http2->padding) ? end_data(http2) : TH_OK;
    default:
      if (skip(http2, &http2->frame_left)) http2->state = READ_FRAME_HEAD;
      return TH_OK;
  }
}

/* 1 if the state can advance without another byte. */
static int needs_no_byte(const th_http2 *http2) {
  switch (http2->state) {
    case READ_PAYLOAD:
    case SKIP_PAYLOAD: return http2->frame_left == 0;
    case READ_DATA: return http2->frame_left == http2->padding;
    case READ_PADDING: return http2->padding == 0;
    default: return 0;
  }
}

int th_http2_next(th_http2 *http2) {
  if (http2->failed < 0) return http2->failed;
  http2->ended = 0;
  while (http2->next < http2->end || needs_no_byte(http2)) {
    int event = advance(http2);
    if (event < 0) {
      http2->failed = event;
      return event;
    }
    if (event > 0) return event;
  }
  return TH_HTTP2_NEED_DATA;
}

/* --- Writing --------------------------------------------------------------------------------------------------- */

size_t th_http2_sendable(const th_http2 *http2, uint32_t id, size_t n) {
  const th_http2_stream *stream = th_http2_find(http2, id);
  if (stream == NULL || stream->flags & TH_HTTP2_WE_ENDED) return 0;
  int64_t size = stream->send_window < http2->send_window ? stream->send_window : http2->send_window;
  /* The rest of the connection's window is not worth a frame: the peer has used up nearly all of it, so it will give
   * more. Otherwise a peer that gives back what each frame has used would get small frames for ever. */
  if (size < SMALL_DATA && size < (int64_t)n && size < stream->send_window) return 0;
  if (size > http2->peer_frame_max) size = http2->peer_frame_max;
  return size > 0 ? (size_t)size : 0;
}

/* Notes that this side has ended the stream. */
static void end_response(th_http2 *http2, th_http2_stream *stream) {
  if (stream->flags & TH_HTTP2_PEER_ENDED) {
    remove_stream(http2, stream);
  } else {
    stream->flags |= TH_HTTP2_WE_ENDED;
  }
}

/* Moves the codec's own frames to `out`. The peer relies on its settings once they are acknowledged (RFC 9113 section
 * 6.5.3), so the acknowledgement must come before frames that make use of them. */
static int move_own(th_http2 *http2, th_buffer *out) {
  if (http2->out.length == 0) return TH_OK;
  if (th_buffer_append(out, http2->out.data, http2->out.length) < 0) return TH_ENOMEM;
  th_buffer_free(&http2->out);
  return TH_OK;
}

int th_http2_begin_headers(th_http2 *http2, th_buffer *out, size_t *mark) {
  if (move_own(http2, out) < 0) return TH_ENOMEM;
  *mark = out->length;
  if (add_frame(out, 0, HEADERS, 0, 0) == NULL) return TH_ENOMEM;
  return th_hpack_encode_begin(&http2->encoder, out);
}

int th_http2_end_headers(th_http2 *http2, th_buffer *out, size_t mark, uint32_t id, int end) {
  size_t most = FRAME_MAX; /* every peer accepts this */
  size_t block = out->length - mark - TH_HTTP2_FRAME_HEAD;
  int flags = end ? END_STREAM : 0;
  th_http2_stream *stream = th_http2_find(http2, id);
  if (end && stream != NULL) end_response(http2, stream);
  if (block <= most) {
    put_frame_head(out->data + mark, block, HEADERS, flags | END_HEADERS, id);
    return TH_OK;
  }
  size_t frames = (block + most - 1) / most;
  if (th_buffer_reserve(out, (frames - 1) * TH_HTTP2_FRAME_HEAD) < 0) return TH_ENOMEM;
  char *first = out->data + mark + TH_HTTP2_FRAME_HEAD;
  for (size_t i = frames; --i > 0;) { /* from the last to the first, so that nothing is overwritten */
    size_t n = i == frames - 1 ? block - i * most : most;
    char *head = first + i * most + (i - 1) * TH_HTTP2_FRAME_HEAD;
    memmove(head + TH_HTTP2_FRAME_HEAD, first + i * most, n);
    put_frame_head(head, n, CONTINUATION, i == frames - 1 ? END_HEADERS : 0, id);
  }
  out->length += (frames - 1) * TH_HTTP2_FRAME_HEAD;
  put_frame_head(out->data + mark, most, HEADERS, flags, id);
  return TH_OK;
}

int th_http2_write_data_head(th_http2 *http2, th_buffer *out, uint32_t id, size_t n, int end) {
  th_http2_stream *stream = th_http2_find(http2, id);
  if (stream == NULL) return TH_ESTREAM_CLOSED;
  if (move_own(http2, out) < 0) return TH_ENOMEM;
  if (add_frame(out, 0, DATA, end ? END_STREAM : 0, id) == NULL) return TH_ENOMEM;
  char *head = out->data + out->length - TH_HTTP2_FRAME_HEAD;
  put_frame_head(head, n, DATA, end ? END_STREAM : 0, id);
  stream->send_window -= (int64_t)n;
  http2->send_window -= (int64_t)n;
  allow(&http2->updates, UPDATES_PER_DATA, UPDATES_MOST);
  if (n >= SMALL_DATA) allow(&http2->small, SMALL_PER_DATA, SMALL_MOST);
  if (end) {
    end_response(http2, stream);
  } else if (n < SMALL_DATA && (stream->send_window <= 0 || http2->send_window <= 0)) {
    /* The connection fails at the peer's next frame, because this response must not be cut in the middle. */
    if (http2->failed == TH_OK && use_allowance(http2, &http2->small) < 0) http2->failed = TH_EGLITCHES;
  }
  return TH_OK;
}

int th_http2_reset(th_http2 *http2, th_buffer *out, uint32_t id, uint32_t code) {
  th_http2_stream *stream = th_http2_find(http2, id);
  if (stream == NULL) return TH_OK;
  remove_stream(http2, stream);
  note_dropped(http2, id);
  return add_u32_frame(out, RST_STREAM, id, code);
}

int th_http2_write_goaway(th_http2 *http2, th_buffer *out, uint32_t last, uint32_t code, const char *text) {
  size_t n = strlen(text);
  char *payload = add_frame(out, 8 + n, GOAWAY, 0, 0);
  if (payload == NULL) return TH_ENOMEM;
  if (last < TH_HTTP2_ID_MAX) http2->draining = 1;
  put_u32(payload, last);
  put_u32(payload + 4, code);
  memcpy(payload + 8, text, n);
  return TH_OK;
}

int th_http2_ping(th_http2 *http2, th_buffer *out) {
  char *payload = add_frame(out, 8, PING, 0, 0);
  if (payload == NULL) return TH_ENOMEM;
  memcpy(payload, PING_PAYLOAD, 8);
  http2->ping_sent = 1;
  return TH_OK;
}

int th_http2_catch_up(th_http2 *http2) {
  for (; http2->acks > 0; http2->acks--) {
    if (add_frame(&http2->out, 0, SETTINGS, ACK, 0) == NULL) return TH_ENOMEM;
  }
  for (int i = 0; i < http2->pings_held; i++) {
    char *payload = add_frame(&http2->out, 8, PING, ACK, 0);
    if (payload == NULL) return TH_ENOMEM;
    memcpy(payload, http2->held[i], 8);
  }
  http2->pings_held = 0;
  return TH_OK;
}

void th_http2_rest(th_http2 *http2) {
  if (http2->open == 0) th_buffer_free(&http2->streams);
  if (http2->block_id == 0) th_hpack_decoder_rest(&http2->decoder);
}

void th_http2_completed(th_http2 *http2) {
  give(&http2->resets, RESETS_MOST);
  give(&http2->glitches, GLITCHES_MOST);
}

/* --- Life ------------------------------------------------------------------------------------------------------ */

static void put_setting(char *dst, int setting, uint32_t value) {
  dst[0] = 0;
  dst[1] = (char)setting;
  put_u32(dst + 2, value);
}

/* Settings that are left out have their defaults. */
static int write_settings(th_http2 *http2) {
  const th_http2_limits *limits = &http2->limits;
  size_t count = limits->websocket ? 4 : 3;
  char *payload = add_frame(&http2->out, 6 * count, SETTINGS, 0, 0);
  if (payload == NULL) return TH_ENOMEM;
  put_setting(payload, MAX_CONCURRENT_STREAMS, limits->streams);
  put_setting(payload + 6, MAX_HEADER_LIST_SIZE, limits->head);
  put_setting(payload + 12, NO_RFC7540_PRIORITIES, 1);
  if (limits->websocket) put_setting(payload + 18, ENABLE_CONNECT_PROTOCOL, 1);
  if (http2->window_size <= WINDOW_START) return TH_OK;
  return update_window(http2, 0, &http2->window, http2->window_size, 0);
}

int th_http2_init(th_http2 *http2, const th_http2_limits *limits, th_http2_scratch *scratch, double now) {
  memset(http2, 0, sizeof *http2);
  http2->limits = *limits;
  http2->scratch = scratch;
  http2->now = now;
  http2->next = http2->end = PREFACE;
  http2->state = READ_PREFACE;
  http2->awaits_settings = 1;
  http2->peer_frame_max = FRAME_MAX;
  http2->peer_window = WINDOW_START;
  http2->send_window = WINDOW_START;
  http2->window = WINDOW_START;
  http2->window_size = (int32_t)limits->connection_window;
  if (http2->window_size < WINDOW_START) http2->window_size = WINDOW_START;
  http2->updates = UPDATES_START;
  http2->priorities = PRIORITIES_START;
  http2->resets = (th_http2_budget){RESETS_MOST, now};
  http2->glitches = (th_http2_budget){GLITCHES_MOST, now};
  http2->pings = (th_http2_budget){PINGS_MOST, now};
  uint64_t string_max = 4 * ((uint64_t)limits->head + FRAME_MAX); /* more than a block within its limit can hold */
  if (string_max > UINT32_MAX) string_max = UINT32_MAX;
  th_hpack_decoder_init(&http2->decoder, TH_HPACK_TABLE_SIZE, (uint32_t)string_max);
  th_hpack_encoder_init(&http2->encoder, TH_HPACK_TABLE_SIZE);
  return write_settings(http2);
}

void th_http2_free(th_http2 *http2) {
  th_hpack_decoder_free(&http2->decoder);
  th_hpack_encoder_free(&http2->encoder);
  th_buffer_free(&http2->out);
  th_buffer_free(&http2->streams);
  th_buffer_free(&http2->pieces);
  th_buffer_free(&http2->block);
  th_buffer_free(&http2->idle);
}
