/* WebSocket frames (RFC 6455 section 5) of a server: bytes to messages, and the heads of frames to bytes.
 *
 * Reading is pulled, as http1.h's is: th_ws_feed() lends memory, th_ws_next() advances to the next event until it returns
 * TH_WS_NEED_DATA. A message is unmasked, inflated and checked as it arrives, so that what is wrong with it is known at
 * the first byte that is. A verdict never depends on how the bytes were cut, but for one: compressed data that refers back
 * further than the window agreed on is refused only where the reference leaves what zlib still has at hand. */
#ifndef TH_WEBSOCKET_H
#define TH_WEBSOCKET_H

#include "base.h"
#include "buffer.h"
#include "deflate.h"
#include "mask.h"
#include "utf8.h"

enum th_ws_opcode {
  TH_WS_CONTINUATION = 0x0,
  TH_WS_TEXT = 0x1,
  TH_WS_BINARY = 0x2,
  TH_WS_CLOSE = 0x8,
  TH_WS_PING = 0x9,
  TH_WS_PONG = 0xa
};

/* Bits of a frame's first byte. */
enum th_ws_bit { TH_WS_FIN = 0x80, TH_WS_RSV1 = 0x40 };

enum th_ws_event {
  TH_WS_NEED_DATA = 0,     /* what was fed is used up */
  TH_WS_MESSAGE_EVENT = 1, /* message is complete, valid until the next call */
  TH_WS_PING_EVENT = 2,    /* control holds what the Pong must carry */
  TH_WS_CLOSE_EVENT = 3    /* close_code is set, control holds the reason; what follows is not read */
};

/* Close codes (RFC 6455 section 7.4.1) that never stand in a frame. */
enum th_ws_close_code { TH_WS_NO_CODE = 1005 };

typedef struct {
  th_buffer message; /* its memory may be freed once it has been read */
  char control[125]; /* payload of the last control frame */
  uint8_t control_length;
  uint8_t opcode; /* TH_WS_TEXT or TH_WS_BINARY: the message's */
  uint16_t close_code;
  /* The rest is websocket.c's own, but for th_ws_init's settings. */
  uint8_t deflates;           /* permessage-deflate was agreed on: inflater has its settings */
  th_deflate_stream inflater;
  uint64_t max_size;          /* bytes of a message */
  uint64_t wire_size;         /* payload bytes of this message's frames so far */
  uint64_t frame_left;        /* payload bytes of this frame to come */
  const char *next;           /* fed and not yet read: next[0..end - next) */
  const char *end;
  th_utf8 utf8;
  char header[14];
  uint8_t header_length; /* read of it */
  uint8_t header_size;
  uint8_t phase; /* of the mask */
  uint8_t in_payload;
  uint8_t in_message;
  uint8_t compressed; /* this message is */
  uint8_t closed;
  int32_t failed; /* sticky th_status */
} th_ws;

/* A reader of messages of at most max_size bytes each, without compression. */
void th_ws_init(th_ws *ws, uint64_t max_size);
void th_ws_free(th_ws *ws);
/* Lends data[0..n), which must stay until next() says TH_WS_NEED_DATA; anything lent before must be used up. */
void th_ws_feed(th_ws *ws, const char *data, size_t n);
/* Bytes lent and not read yet. */
size_t th_ws_left(const th_ws *ws);
/* Returns an enum th_ws_event, or a th_status that stays. */
int th_ws_next(th_ws *ws);

/* Bytes that the head of an unmasked frame with n bytes of payload takes: 2, 4 or 10. */
size_t th_ws_head_size(uint64_t n);
/* Writes that head. `first` is opcode and bits. */
void th_ws_write_head(char *dst, int first, uint64_t n);
/* 1 if an endpoint may send the close code: RFC 6455 section 7.4, and IANA's registry. */
int th_ws_is_close_code(int code);

#endif
