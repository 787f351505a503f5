/* WebSocket frames: every cut of the bytes gives the same messages and verdict, within the limit; a plain
 * implementation of the RFC gives the same messages; frames written by FrameWriter's functions are read again. */
#include "target.h"
#include "websocket.h"

/* Up to the limit and one byte more; buffers double their size. */
static int is_bounded(const th_buffer *message, uint64_t max_size) {
  return message->length <= max_size + 1 && message->capacity <= 2 * max_size + 1024;
}

typedef struct {
  uint64_t max_size;
  uint8_t deflates;
  uint8_t bits;
  uint8_t takeover;
} setup;

static void record_message(th_buffer *trace, int opcode, const void *data, size_t n) {
  record_number(trace, 'e', TH_WS_MESSAGE_EVENT);
  record_number(trace, 'o', (uint64_t)opcode);
  record_number(trace, 'm', n);
  if (n > 0) record(trace, data, n);
}

static void record_control(th_buffer *trace, int event, int code, const void *data, size_t n) {
  record_number(trace, 'e', (uint64_t)event);
  if (event == TH_WS_CLOSE_EVENT) record_number(trace, 'c', (uint64_t)code);
  record_number(trace, 'p', n);
  if (n > 0) record(trace, data, n);
}

/* Returns the verdict; `trace` gets the events before it. */
static int run(const char *data, size_t n, const setup *settings, enum cut cut, th_buffer *trace) {
  knife blade = knife_for(cut, data, n);
  th_ws ws;
  int event = TH_WS_NEED_DATA;
  th_ws_init(&ws, settings->max_size);
  ws.deflates = settings->deflates;
  ws.inflater.bits = settings->bits;
  ws.inflater.takeover = settings->takeover;
  for (size_t at = 0; at < n && event >= 0 && event != TH_WS_CLOSE_EVENT;) {
    size_t size = next_piece(&blade, n - at);
    char *piece = exactly(data + at, size);
    size_t left = size;
    at += size;
    th_ws_feed(&ws, piece, size);
    while ((event = th_ws_next(&ws)) > TH_WS_NEED_DATA) {
      EXPECT(th_ws_left(&ws) <= left);
      left = th_ws_left(&ws);
      if (event == TH_WS_MESSAGE_EVENT) {
        EXPECT(ws.opcode == TH_WS_TEXT || ws.opcode == TH_WS_BINARY);
        EXPECT(ws.message.length <= settings->max_size);
        if (ws.opcode == TH_WS_TEXT) EXPECT(is_utf8((const uint8_t *)ws.message.data, ws.message.length) == 1);
        EXPECT(settings->takeover || ws.inflater.stream.data == NULL);
        record_message(trace, ws.opcode, ws.message.data, ws.message.length);
        th_buffer_free(&ws.message); /* as read_message() does */
      } else {
        EXPECT(ws.control_length <= sizeof ws.control);
        if (event == TH_WS_CLOSE_EVENT) {
          EXPECT(ws.close_code == TH_WS_NO_CODE || th_ws_is_close_code(ws.close_code));
        }
        record_control(trace, event, ws.close_code, ws.control, ws.control_length);
        if (event == TH_WS_CLOSE_EVENT) break;
      }
    }
    EXPECT(event != TH_WS_NEED_DATA || th_ws_left(&ws) == 0);
    EXPECT(is_bounded(&ws.message, settings->max_size));
    if (event == TH_WS_NEED_DATA) th_ws_feed(&ws, "", 0);
    free(piece);
  }
  if (event < 0) {
    int code = th_status_code(event);
    EXPECT(code == 1002 || code == 1007 || code == 1009);
    EXPECT(th_ws_next(&ws) == event);
    EXPECT(ws.message.data == NULL && ws.inflater.stream.data == NULL);
  } else if (event == TH_WS_CLOSE_EVENT) {
    EXPECT(th_ws_next(&ws) == TH_WS_NEED_DATA); /* what follows is not read */
  }
  th_ws_free(&ws);
  return event;
}

/* RFC 6455 section 5, frame by frame, for a connection without compression. Returns TH_WS_CLOSE_EVENT, TH_WS_NEED_DATA
 * if the bytes end with a frame, -1 for a whole frame that is invalid, -2 for an incomplete one. */
static int read_plainly(const uint8_t *src, size_t n, uint64_t max_size, th_buffer *trace) {
  th_buffer message;
  int open = 0; /* opcode of the message that has begun */
  int verdict = TH_WS_NEED_DATA;
  th_buffer_init(&message);
  for (size_t at = 0; at < n && verdict == TH_WS_NEED_DATA;) {
    verdict = -2;
    if (n - at < 6) break;
    int fin = src[at] >> 7;
    int opcode = src[at] & 15;
    uint64_t length = src[at + 1] & 127;
    size_t extra = length == 126 ? 2 : length == 127 ? 8 : 0;
    int wrong = (src[at] & 0x70) != 0 || !(src[at + 1] >> 7);
    if (n - at < 6 + extra) break;
    if (extra > 0) {
      length = 0;
      for (size_t i = 0; i < extra; i++) length = length * 256 + src[at + 2 + i];
      wrong |= extra == 2 ? length < 126 : length < 65536 || length > INT64_MAX;
    }
    const uint8_t *key = src + at + 2 + extra;
    at += 6 + extra;
    if (length > n - at) break;
    verdict = -1;
    int is_control = opcode >= 8;
    wrong |= is_control ? opcode > 10 || !fin || length > 125 : opcode > 2 || (opcode == 0) == (open == 0);
    if (wrong) break;
    th_buffer control;
    th_buffer_init(&control);
    th_buffer *payload = is_control ? &control : &message;
    for (size_t i = 0; i < length; i++) {
      uint8_t byte = src[at + i] ^ key[i % 4];
      record(payload, &byte, 1);
    }
    at += (size_t)length;
    const uint8_t *text = (const uint8_t *)payload->data;
    if (is_control) {
      int code = length < 2 ? TH_WS_NO_CODE : text[0] << 8 | text[1];
      size_t skip = opcode == TH_WS_CLOSE && length >= 2 ? 2 : 0;
      if (opcode != TH_WS_CLOSE) {
        verdict = TH_WS_NEED_DATA;
        if (opcode == TH_WS_PING) record_control(trace, TH_WS_PING_EVENT, 0, text, (size_t)length);
      } else if (length != 1 && (length == 0 || th_ws_is_close_code(code)) &&
                 (length <= 2 || is_utf8(text + 2, (size_t)length - 2) == 1)) {
        verdict = TH_WS_CLOSE_EVENT;
        record_control(trace, verdict, code, skip == 0 ? text : text + skip, (size_t)length - skip);
      }
    } else {
      if (opcode != 0) open = opcode;
      int is_text = open == TH_WS_TEXT;
      int found = !is_text || message.length == 0 ? 1 : is_utf8(text, message.length);
      if (message.length <= max_size && found >= !!fin) {
        verdict = TH_WS_NEED_DATA;
        if (fin) {
          record_message(trace, open, text, message.length);
          open = 0;
          message.length = 0;
        }
      }
    }
    th_buffer_free(&control);
  }
  th_buffer_free(&message);
  return verdict;
}

static void append_frame(th_buffer *wire, int first, const char *src, size_t n) {
  static const char KEY[] = {'\x37', '\xfa', '\x21', '\x3d'};
  size_t head = th_ws_head_size(n);
  EXPECT(th_buffer_reserve(wire, head + 4 + n) == TH_OK);
  char *at = wire->data + wire->length;
  th_ws_write_head(at, first, n);
  at[1] = (char)(at[1] | 0x80);
  memcpy(at + head, KEY, 4);
  if (n > 0) th_mask_scalar(at + head + 4, src, n, KEY, 0);
  wire->length += head + 4 + n;
}

/* Sends the bytes as two messages, like FrameWriter, but the first in two frames, and reads them: with a limit that
 * they just keep, and with one that they exceed. */
static void send_and_read(const char *data, size_t n, const setup *settings, int level) {
  th_deflate_stream deflater = {.bits = settings->bits, .takeover = settings->takeover, .level = 1, .memory = 1};
  deflater.level = (uint8_t)level;
  deflater.memory = (uint8_t)level;
  th_buffer wire;
  th_buffer trace;
  th_buffer expected;
  th_buffer_init(&wire);
  th_buffer_init(&trace);
  th_buffer_init(&expected);
  for (int round = 0; round < 2; round++) {
    th_buffer packed;
    th_buffer_init(&packed);
    int rsv1 = settings->deflates ? TH_WS_RSV1 : 0;
    EXPECT(th_deflate(&deflater, data, n, &packed) == TH_OK);
    const char *payload = settings->deflates ? packed.data : data;
    size_t size = settings->deflates ? packed.length : n;
    size_t first = round == 0 ? size / 2 : size;
    append_frame(&wire, TH_WS_BINARY | rsv1 | (round == 0 ? 0 : TH_WS_FIN), payload, first);
    if (round == 0) append_frame(&wire, TH_WS_CONTINUATION | TH_WS_FIN, payload + first, size - first);
    record_message(&expected, TH_WS_BINARY, data, n);
    th_buffer_free(&packed);
  }
  th_deflate_free(&deflater);
  setup kept = *settings;
  kept.max_size = n;
  EXPECT(run(wire.data, wire.length, &kept, AT_RANDOM, &trace) >= 0);
  expect_same(&trace, &expected);
  trace.length = 0;
  kept.max_size = n - 1;
  EXPECT(run(wire.data, wire.length, &kept, AS_TOLD, &trace) == TH_EMESSAGE_SIZE && trace.length == 0);
  th_buffer_free(&wire);
  th_buffer_free(&trace);
  th_buffer_free(&expected);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  if (size == 0) return 0;
  setup settings = {
      .max_size = input[0] & 1 ? 200 : 1 << 20,
      .deflates = (input[0] >> 1) & 1,
      .bits = input[0] & 4 ? 9 : 15,
      .takeover = (input[0] >> 3) & 1,
  };
  const char *data = (const char *)input + 1;
  size_t n = size - 1;
  th_buffer whole;
  th_buffer_init(&whole);
  int verdict = run(data, n, &settings, WHOLE, &whole);
  if (!settings.deflates) {
    th_buffer plain;
    th_buffer_init(&plain);
    int found = read_plainly(input + 1, n, settings.max_size, &plain);
    expect_same(&plain, &whole);
    /* Of a frame that is not whole, what has come may be wrong already. */
    EXPECT(found == -2 ? verdict <= 0 : found == -1 ? verdict < 0 : (verdict == TH_WS_CLOSE_EVENT) == (found > 0));
    EXPECT(found < 0 || verdict >= 0);
    th_buffer_free(&plain);
  }
  for (enum cut cut = BYTEWISE; cut < CUTS; cut++) {
    th_buffer trace;
    th_buffer_init(&trace);
    int other = run(data, n, &settings, cut, &trace);
    /* What refers back further than a small window may be seen or not: websocket.h. */
    if (!settings.deflates || settings.bits == 15) {
      expect_same(&whole, &trace);
      EXPECT(other == verdict);
    }
    th_buffer_free(&trace);
  }
  th_buffer_free(&whole);
  if (n > 0) send_and_read(data, n, &settings, 1 + (input[0] >> 4) % 9);
  return 0;
}
