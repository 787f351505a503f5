#include "websocket.h"

#include <string.h>

enum {
  OPCODE_BITS = 0x0f,
  RESERVED_BITS = 0x30,
  CONTROL_BIT = 0x08,
  MASK_BIT = 0x80,
  LENGTH_BITS = 0x7f,
  KEY_SIZE = 4,
  LONGEST_CONTROL = 125,
  LENGTH_16 = 126, /* the length follows in two bytes */
  LENGTH_64 = 127, /* in eight bytes */
  INFLATE_STEP = 4096, /* bytes to unmask and pass to zlib at once */
  /* Incompressible data grows a little: a compressed message may exceed max_size by an eighth and this many bytes. */
  COMPRESSED_SLACK = 64
};

void th_ws_init(th_ws *ws, uint64_t max_size) {
  memset(ws, 0, sizeof *ws);
  ws->max_size = max_size;
}

void th_ws_free(th_ws *ws) {
  th_inflate_free(&ws->inflater);
  th_buffer_free(&ws->message);
}

void th_ws_feed(th_ws *ws, const char *data, size_t n) {
  ws->next = data;
  ws->end = data + n;
}

size_t th_ws_left(const th_ws *ws) { return (size_t)(ws->end - ws->next); }

int th_ws_is_close_code(int code) {
  if (code < 1000 || code > 4999) return 0;
  return code >= 3000 || (code <= 1014 && code != 1004 && code != 1005 && code != 1006);
}

size_t th_ws_head_size(uint64_t n) { return n < LENGTH_16 ? 2 : n <= UINT16_MAX ? 4 : 10; }

void th_ws_write_head(char *dst, int first, uint64_t n) {
  size_t size = th_ws_head_size(n);
  dst[0] = (char)first;
  dst[1] = (char)(size == 2 ? (int)n : size == 4 ? LENGTH_16 : LENGTH_64);
  for (size_t i = size - 1; i >= 2; i--) {
    dst[i] = (char)n;
    n >>= 8;
  }
}

static int first_byte(const th_ws *ws) { return (uint8_t)ws->header[0]; }
static int opcode_of(const th_ws *ws) { return first_byte(ws) & OPCODE_BITS; }
static int is_control(const th_ws *ws) { return (first_byte(ws) & CONTROL_BIT) != 0; }
static const char *key_of(const th_ws *ws) { return ws->header + ws->header_size - KEY_SIZE; }

/* Checks the first byte: FIN, reserved bits and opcode. */
static int check_first(const th_ws *ws) {
  int opcode = opcode_of(ws);
  int starts = opcode == TH_WS_TEXT || opcode == TH_WS_BINARY;
  if (first_byte(ws) & RESERVED_BITS) return TH_EFRAME_RESERVED;
  /* RFC 7692 section 6: the bit is set only in the first frame of a message. */
  if ((first_byte(ws) & TH_WS_RSV1) && !(ws->deflates && starts)) return TH_EFRAME_RESERVED;
  switch (opcode) {
    case TH_WS_CONTINUATION: return ws->in_message ? TH_OK : TH_EFRAME_ORDER;
    case TH_WS_TEXT:
    case TH_WS_BINARY: return ws->in_message ? TH_EFRAME_ORDER : TH_OK;
    case TH_WS_CLOSE:
    case TH_WS_PING:
    case TH_WS_PONG: return first_byte(ws) & TH_WS_FIN ? TH_OK : TH_EFRAME_CONTROL;
    default: return TH_EFRAME_OPCODE;
  }
}

/* Checks the second byte, mask bit and short length, which determines the size of the head. */
static int check_second(th_ws *ws) {
  int length = (uint8_t)ws->header[1] & LENGTH_BITS;
  if (!((uint8_t)ws->header[1] & MASK_BIT)) return TH_EFRAME_UNMASKED;
  if (is_control(ws) && length > LONGEST_CONTROL) return TH_EFRAME_CONTROL;
  ws->header_size = (uint8_t)(2 + KEY_SIZE + (length == LENGTH_64 ? 8 : length == LENGTH_16 ? 2 : 0));
  return TH_OK;
}

/* Checks the length: it must be in its shortest form, and within the limit of a message. */
static int check_length(th_ws *ws) {
  uint64_t length = (uint8_t)ws->header[1] & LENGTH_BITS;
  int extended = ws->header_size - KEY_SIZE;
  if (extended > 2) {
    uint64_t shortest = length == LENGTH_16 ? LENGTH_16 : UINT64_C(1) << 16;
    length = 0;
    for (int i = 2; i < extended; i++) length = length << 8 | (uint8_t)ws->header[i];
    if (length < shortest || length >> 63) return TH_EFRAME_LENGTH;
  }
  ws->frame_left = length;
  if (is_control(ws)) return TH_OK;
  int opens = opcode_of(ws) != TH_WS_CONTINUATION;
  int compressed = opens ? first_byte(ws) & TH_WS_RSV1 : ws->compressed;
  uint64_t most = compressed ? ws->max_size + ws->max_size / 8 + COMPRESSED_SLACK : ws->max_size;
  uint64_t before = opens ? 0 : ws->wire_size;
  return length > most - before ? TH_EMESSAGE_SIZE : TH_OK;
}

/* Checks a head after each byte. */
static int check_head(th_ws *ws) {
  int status = TH_OK;
  if (ws->header_length == 1) return check_first(ws);
  if (ws->header_length == 2) status = check_second(ws);
  if (status == TH_OK && ws->header_length == ws->header_size - KEY_SIZE) status = check_length(ws);
  return status;
}

/* Reads a frame's head. Returns 1 once it is complete, 0 if more bytes are needed, or a th_status. */
static int read_head(th_ws *ws) {
  while (ws->next < ws->end) {
    ws->header[ws->header_length++] = *ws->next++;
    int status = check_head(ws);
    if (status < 0) return status;
    if (ws->header_length > 1 && ws->header_length == ws->header_size) return 1;
  }
  return 0;
}

static void begin_payload(th_ws *ws) {
  ws->in_payload = 1;
  ws->phase = 0;
  if (is_control(ws)) {
    ws->control_length = 0;
    return;
  }
  if (opcode_of(ws) != TH_WS_CONTINUATION) {
    ws->opcode = (uint8_t)opcode_of(ws);
    ws->compressed = (first_byte(ws) & TH_WS_RSV1) != 0;
    ws->in_message = 1;
    ws->wire_size = 0;
    ws->message.length = 0;
    memset(&ws->utf8, 0, sizeof ws->utf8);
  }
  ws->wire_size += ws->frame_left;
}

/* Checks that message[before..length) continues valid UTF-8, if the message is text. */
static int check_added(th_ws *ws, size_t before) {
  if (ws->opcode != TH_WS_TEXT) return TH_OK;
  return th_utf8_check(&ws->utf8, ws->message.data + before, ws->message.length - before);
}

static int read_compressed(th_ws *ws, const char *src, size_t n) {
  char plain[INFLATE_STEP];
  for (size_t done = 0; done < n;) {
    size_t step = n - done > INFLATE_STEP ? INFLATE_STEP : n - done;
    size_t before = ws->message.length;
    th_mask(plain, src + done, step, key_of(ws), ws->phase + done);
    int status = th_inflate(&ws->inflater, plain, step, &ws->message, ws->max_size);
    int text = check_added(ws, before);
    /* Of two errors report the first one in the data, so that other cuts give the same result. */
    if (text < 0) return text;
    if (status < 0) return status;
    done += step;
  }
  return TH_OK;
}

static int read_payload(th_ws *ws, const char *src, size_t n) {
  int status;
  if (is_control(ws)) {
    th_mask(ws->control + ws->control_length, src, n, key_of(ws), ws->phase);
    ws->control_length = (uint8_t)(ws->control_length + n);
    status = TH_OK;
  } else if (ws->compressed) {
    status = read_compressed(ws, src, n);
  } else {
    size_t before = ws->message.length;
    status = th_buffer_reserve(&ws->message, n);
    if (status < 0) return status;
    th_mask(ws->message.data + before, src, n, key_of(ws), ws->phase);
    ws->message.length += n;
    status = check_added(ws, before);
  }
  ws->phase = (uint8_t)((ws->phase + n) & 3);
  return status;
}

/* RFC 6455 section 5.5.1: the payload is empty, or a code and a reason. */
static int end_close(th_ws *ws) {
  ws->close_code = TH_WS_NO_CODE;
  if (ws->control_length == 1) return TH_ECLOSE;
  if (ws->control_length >= 2) {
    th_utf8 utf8 = {0, 0, 0, 0};
    ws->close_code = (uint16_t)((uint8_t)ws->control[0] << 8 | (uint8_t)ws->control[1]);
    if (!th_ws_is_close_code(ws->close_code)) return TH_ECLOSE;
    ws->control_length = (uint8_t)(ws->control_length - 2);
    memmove(ws->control, ws->control + 2, ws->control_length);
    if (th_utf8_check(&utf8, ws->control, ws->control_length) < 0 || utf8.left > 0) return TH_EUTF8;
  }
  ws->closed = 1;
  return TH_WS_CLOSE_EVENT;
}

static int end_message(th_ws *ws) {
  if (ws->compressed) {
    size_t before = ws->message.length;
    int status = th_inflate_end(&ws->inflater, &ws->message, ws->max_size);
    int text = check_added(ws, before);
    if (text < 0) return text;
    if (status < 0) return status;
  }
  if (ws->opcode == TH_WS_TEXT && ws->utf8.left > 0) return TH_EUTF8;
  ws->in_message = 0;
  return TH_WS_MESSAGE_EVENT;
}

/* Returns an event, TH_WS_NEED_DATA if the frame completes none, or a th_status. */
static int end_frame(th_ws *ws) {
  ws->in_payload = 0;
  ws->header_length = 0;
  switch (opcode_of(ws)) {
    case TH_WS_PING: return TH_WS_PING_EVENT;
    case TH_WS_PONG: return TH_WS_NEED_DATA;
    case TH_WS_CLOSE: return end_close(ws);
    default: return first_byte(ws) & TH_WS_FIN ? end_message(ws) : TH_WS_NEED_DATA;
  }
}

static int next_event(th_ws *ws) {
  while (ws->next < ws->end && !ws->closed) {
    if (!ws->in_payload) {
      int status = read_head(ws);
      if (status < 0) return status;
      if (status == 0) break;
      begin_payload(ws);
    }
    size_t n = th_ws_left(ws) < ws->frame_left ? th_ws_left(ws) : (size_t)ws->frame_left;
    if (n > 0) {
      int status = read_payload(ws, ws->next, n);
      if (status < 0) return status;
      ws->next += n;
      ws->frame_left -= n;
    }
    if (ws->frame_left == 0) {
      int event = end_frame(ws);
      if (event != TH_WS_NEED_DATA) return event;
    }
  }
  ws->next = ws->end;
  return TH_WS_NEED_DATA;
}

int th_ws_next(th_ws *ws) {
  if (ws->failed == TH_OK) {
    int event = next_event(ws);
    if (event >= 0) return event;
    ws->failed = event;
    th_ws_free(ws);
  }
  ws->next = ws->end;
  return ws->failed;
}
