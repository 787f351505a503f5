/* WebSocket frames: every cut of the bytes gives the same messages and verdict, within the limit. */
#include "target.h"
#include "websocket.h"

typedef struct {
  uint64_t max_size;
  uint8_t deflates;
  uint8_t bits;
  uint8_t takeover;
} setup;

static void run(const char *data, size_t n, const setup *settings, enum cut cut, th_buffer *trace) {
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
      record_number(trace, 'e', (uint64_t)event);
      if (event == TH_WS_MESSAGE_EVENT) {
        th_utf8 utf8 = {0, 0, 0, 0};
        EXPECT(ws.opcode == TH_WS_TEXT || ws.opcode == TH_WS_BINARY);
        EXPECT(ws.message.length <= settings->max_size);
        if (ws.opcode == TH_WS_TEXT) {
          EXPECT(th_utf8_check_scalar(&utf8, ws.message.data, ws.message.length) == TH_OK && utf8.left == 0);
        }
        record_number(trace, 'o', ws.opcode);
        record_number(trace, 'm', ws.message.length);
        if (ws.message.length > 0) record(trace, ws.message.data, ws.message.length);
      } else {
        EXPECT(ws.control_length <= sizeof ws.control);
        if (event == TH_WS_CLOSE_EVENT) {
          EXPECT(ws.close_code == TH_WS_NO_CODE || th_ws_is_close_code(ws.close_code));
          record_number(trace, 'c', ws.close_code);
        }
        record_number(trace, 'p', ws.control_length);
        record(trace, ws.control, ws.control_length);
        if (event == TH_WS_CLOSE_EVENT) break;
      }
    }
    EXPECT(event != TH_WS_NEED_DATA || th_ws_left(&ws) == 0);
    /* A message that is inflated is given up a little above the limit. */
    EXPECT(ws.message.length <= settings->max_size + (64 << 10));
    free(piece);
  }
  if (event < 0) {
    int code = th_status_code(event);
    EXPECT(code == 1002 || code == 1007 || code == 1009);
    EXPECT(th_ws_next(&ws) == event);
  }
  record_number(trace, 'v', (uint64_t)(int64_t)event);
  th_ws_free(&ws);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  if (size == 0) return 0;
  setup settings = {
      .max_size = input[0] & 1 ? 200 : 1 << 20,
      .deflates = (input[0] >> 1) & 1,
      .bits = input[0] & 4 ? 9 : 15,
      .takeover = (input[0] >> 3) & 1,
  };
  th_buffer whole;
  th_buffer_init(&whole);
  run((const char *)input + 1, size - 1, &settings, WHOLE, &whole);
  for (enum cut cut = BYTEWISE; cut < CUTS; cut++) {
    th_buffer trace;
    th_buffer_init(&trace);
    run((const char *)input + 1, size - 1, &settings, cut, &trace);
    /* What refers back further than a small window may be seen or not: websocket.h. */
    if (!settings.deflates || settings.bits == 15) expect_same(&whole, &trace);
    th_buffer_free(&trace);
  }
  th_buffer_free(&whole);
  return 0;
}
