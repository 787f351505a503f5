/* WebSocket frames (RFC 6455 section 5) of a server: turns bytes into messages, and writes the heads of frames.
 *
 * The caller pulls events, as in http1.h: th_ws_feed() lends memory, and th_ws_next() advances to the next event until
 * it returns TH_WS_NEED_DATA. A message is unmasked, inflated and checked as it arrives, so an error is found at the
 * first invalid byte. The verdict does not depend on how the bytes were cut, with one exception: compressed data that
 * refers back beyond the agreed window is refused only if the reference leaves the data that zlib still has. */
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
  TH_WS_NEED_DATA = 0,     /* everything fed has been read */
  TH_WS_MESSAGE_EVENT = 1, /* message is complete, valid until the next call */
  TH_WS_PING_EVENT = 2,    /* control holds the payload for the Pong */
  TH_WS_CLOSE_EVENT = 3    /* close_code is set, control holds the reason; later data is not read */
};

/* Close codes (RFC 6455 section 7.4.1) that are never sent in a frame. */
enum th_ws_close_code { TH_WS_NO_CODE = 1005 };

typedef struct {
  th_buffer message; /* may be freed once it has been read */
  char control[125]; /* payload of the last control frame */
  uint8_t control_length;
  uint8_t opcode; /* of the message: TH_WS_TEXT or TH_WS_BINARY */
  uint16_t close_code;
  /* The rest is private to websocket.c, except the settings: deflates, inflater and max_size. */
  uint8_t deflates;           /* permessage-deflate was negotiated; inflater has its settings */
  th_deflate_stream inflater;
  uint64_t max_size;          /* bytes of a message */
  uint64_t wire_size;         /* payload bytes of this message's frames so far */
  uint64_t frame_left;        /* payload bytes of this frame still to come */
  const char *next;           /* fed but not yet read: next[0..end - next) */
  const char *end;
  th_utf8 utf8;
  char header[14];
  uint8_t header_length; /* bytes of header read so far */
  uint8_t header_size;
  uint8_t phase; /* position in the masking key */
  uint8_t in_payload;
  uint8_t in_message;
  uint8_t compressed; /* this message is compressed */
  uint8_t closed;
  int32_t failed; /* sticky th_status */
} th_ws;

/* Starts a reader of messages of at most max_size bytes each, without compression. */
void th_ws_init(th_ws *ws, uint64_t max_size);
void th_ws_free(th_ws *ws);
/* Lends data[0..n), which must stay valid until th_ws_next() returns TH_WS_NEED_DATA. All earlier data must have been
 * read. */
void th_ws_feed(th_ws *ws, const char *data, size_t n);
/* Returns how many lent bytes are not read yet. */
size_t th_ws_left(const th_ws *ws);
/* Returns an enum th_ws_event, or a th_status, which later calls return again. */
int th_ws_next(th_ws *ws);

/* Returns the size of the head of an unmasked frame with n bytes of payload: 2, 4 or 10. */
size_t th_ws_head_size(uint64_t n);
/* Writes that head. `first` is opcode and bits. */
void th_ws_write_head(char *dst, int first, uint64_t n);
/* 1 if an endpoint may send the close code: RFC 6455 section 7.4, and IANA's registry. */
int th_ws_is_close_code(int code);

#endif
