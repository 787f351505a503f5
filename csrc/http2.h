/* The HTTP/2 codec (RFC 9113): turns bytes into events, and keeps the states, windows and budgets of a connection and
 * its streams. It is for servers only, and never pushes.
 *
 * The caller pulls events: th_http2_feed() lends memory, and th_http2_next() advances to the next event until it
 * returns TH_HTTP2_NEED_DATA. SETTINGS, PING, PRIORITY and WINDOW_UPDATE are handled here and cause no events. Replies
 * to them are appended to `out`, which the caller sends after each read. Whether input is accepted never depends on how
 * its bytes were cut.
 *
 * A stream is open from its HEADERS frame until both sides have ended it, or one has reset it. */
#ifndef TH_HTTP2_H
#define TH_HTTP2_H

#include "base.h"
#include "buffer.h"
#include "hpack.h"
#include "http2_head.h"

enum th_http2_event {
  TH_HTTP2_NEED_DATA = 0, /* everything fed has been read */
  TH_HTTP2_HEAD = 1,      /* a request begins on `stream`; scratch->head has its head, valid until the next call */
  TH_HTTP2_BODY = 2,      /* body[0..body_length) is the next part, valid until the next call */
  TH_HTTP2_END = 3,       /* the request on `stream` is complete */
  TH_HTTP2_RESET = 4,     /* `stream` was reset: by the peer if `status` is TH_OK, else by this codec for `status` */
  TH_HTTP2_REFUSED = 5,   /* the request on `stream` must be answered with the HTTP status of `status` */
  TH_HTTP2_PONG = 6       /* the peer has acknowledged th_http2_ping() */
};

/* Error codes, RFC 9113 section 7. */
enum th_http2_code {
  TH_HTTP2_NO_ERROR = 0x0,
  TH_HTTP2_PROTOCOL_ERROR = 0x1,
  TH_HTTP2_INTERNAL_ERROR = 0x2,
  TH_HTTP2_FLOW_CONTROL_ERROR = 0x3,
  TH_HTTP2_SETTINGS_TIMEOUT = 0x4,
  TH_HTTP2_STREAM_CLOSED = 0x5,
  TH_HTTP2_FRAME_SIZE_ERROR = 0x6,
  TH_HTTP2_REFUSED_STREAM = 0x7,
  TH_HTTP2_CANCEL = 0x8,
  TH_HTTP2_COMPRESSION_ERROR = 0x9,
  TH_HTTP2_CONNECT_ERROR = 0xa,
  TH_HTTP2_ENHANCE_YOUR_CALM = 0xb,
  TH_HTTP2_INADEQUATE_SECURITY = 0xc,
  TH_HTTP2_HTTP_1_1_REQUIRED = 0xd
};

enum {
  TH_HTTP2_PREFACE_SIZE = 24,
  TH_HTTP2_FRAME_HEAD = 9,
  TH_HTTP2_ID_MAX = 0x7fffffff,
  TH_HTTP2_REMEMBERED = 256 /* latest ids whose streams' ends are remembered */
};

enum th_http2_flags {
  TH_HTTP2_PEER_ENDED = 1,  /* the request is complete */
  TH_HTTP2_WE_ENDED = 2,    /* the response is complete */
  TH_HTTP2_INCREMENTAL = 4, /* RFC 9218 section 4.2 */
  TH_HTTP2_REFUSING = 8,    /* the rest of the request is dropped */
  TH_HTTP2_TUNNEL = 16      /* extended CONNECT: there are no trailers */
};

/* How many PINGs are kept while the peer does not read; they are acknowledged when it reads again. Further ones are
 * dropped, and in a burst each of them is a glitch (RFC 9113 section 10.5). */
enum { TH_HTTP2_PINGS_HELD = 10 };

typedef struct {
  uint32_t id;
  uint8_t flags;
  uint8_t urgency;        /* RFC 9218 section 4.1: 0 is first, 7 is last */
  int32_t window;         /* bytes that the peer may still send */
  int32_t window_size;    /* value that WINDOW_UPDATE raises `window` to */
  int32_t unread;         /* bytes received, but not consumed yet */
  int64_t send_window;    /* bytes that this side may still send; may be < 0: RFC 9113 section 6.9.2 */
  int64_t left;           /* bytes of content that are still due by Content-Length; -1 without it */
  uint64_t received;      /* bytes of content, including all of the DATA frame that is being read */
  uint64_t grown_at;      /* `received` when the window last grew */
} th_http2_stream;

/* Tokens, which are refilled by time and by useful work up to a maximum. */
typedef struct {
  double tokens;
  double at; /* time of the last refill */
} th_http2_budget;

typedef struct {
  /* The last event. */
  uint32_t stream;
  int32_t status;          /* th_status: the reason of TH_HTTP2_RESET and TH_HTTP2_REFUSED */
  uint32_t code;           /* enum th_http2_code of TH_HTTP2_RESET */
  uint8_t ended;           /* TH_HTTP2_HEAD, TH_HTTP2_REFUSED: the request is complete, without a TH_HTTP2_END */
  const char *body;
  size_t body_length;
  /* For the caller to set. */
  double now;              /* seconds, from any clock that never goes back */
  uint8_t stalled;         /* the peer does not read: acknowledgements are only counted until th_http2_catch_up() */
  uint8_t draining;        /* ignore new streams: the peer has been sent the last GOAWAY */
  /* For the caller to read. */
  th_buffer out;           /* frames to send */
  uint8_t settings_acked;
  uint32_t last_id;        /* highest id of a stream that was processed */
  uint32_t open;           /* number of open streams */
  uint32_t peer_frame_max; /* the peer's SETTINGS_MAX_FRAME_SIZE */
  int64_t send_window;     /* the connection's */
  th_hpack_encoder encoder;
  /* The rest is private to http2.c. */
  th_hpack_decoder decoder;
  th_http2_scratch *scratch;
  th_http2_limits limits;
  const char *next;        /* bytes fed but not read yet: next[0..end - next) */
  const char *end;
  th_buffer streams;       /* th_http2_stream: a hash table by id, whose size is a power of two */
  th_buffer pieces;        /* payload of a frame that arrives in pieces */
  th_buffer block;         /* field block that spans several frames */
  th_buffer idle;          /* priorities of streams that have not begun */
  uint64_t begun[TH_HTTP2_REMEMBERED / 64]; /* by id: whether the stream has begun */
  uint64_t dropped[TH_HTTP2_REMEMBERED / 64]; /* by id: whether this side reset it, so late frames may arrive */
  char frame[TH_HTTP2_FRAME_HEAD];
  uint8_t frame_read;      /* bytes in `frame` */
  uint8_t state;
  uint8_t type;
  uint8_t flags;
  uint8_t preface_read;
  uint8_t awaits_settings; /* the first frame, which must be SETTINGS, is not complete yet */
  uint8_t has_settings;    /* the first SETTINGS has come: some settings must not change afterwards */
  uint8_t no_priorities;   /* the peer's SETTINGS_NO_RFC7540_PRIORITIES */
  uint8_t ping_sent;
  uint8_t pings_held;      /* number of `held`: PINGs that have not been acknowledged yet */
  uint8_t continuations;   /* number of CONTINUATION frames in the block */
  uint8_t block_flags;     /* flags of the block's HEADERS frame */
  char held[TH_HTTP2_PINGS_HELD][8]; /* their payloads */
  uint32_t frame_id;
  uint32_t frame_left;     /* bytes of the payload still to come */
  uint32_t padding;        /* bytes of padding of the DATA frame that is being read */
  uint32_t newest;         /* highest id that the peer has used */
  uint32_t depends_on;     /* stream dependency in the HEADERS frame (RFC 7540) */
  uint32_t block_id;       /* stream of the field block that is being read; 0 if there is none */
  uint32_t acks;           /* SETTINGS frames to acknowledge */
  int32_t window;          /* bytes that the peer may still send on the connection */
  int32_t window_size;
  int32_t unread;          /* bytes received on all streams, but not consumed yet */
  uint32_t peer_window;    /* the peer's SETTINGS_INITIAL_WINDOW_SIZE */
  int32_t failed;          /* sticky th_status */
  int32_t updates;         /* WINDOW_UPDATE frames that the peer may still send for free */
  int32_t priorities;      /* PRIORITY frames that the peer may still send for free */
  int32_t small;           /* small DATA frames that the peer's windows may still cause for free */
  th_http2_budget resets;
  th_http2_budget glitches;
  th_http2_budget pings;
} th_http2;

/* Begins a connection, with this side's SETTINGS in `out`. Returns TH_OK or TH_ENOMEM. */
int th_http2_init(th_http2 *http2, const th_http2_limits *limits, th_http2_scratch *scratch, double now);
void th_http2_free(th_http2 *http2);
/* Lends data[0..n), which must stay valid until th_http2_next() returns TH_HTTP2_NEED_DATA. All earlier data must have
 * been read. */
void th_http2_feed(th_http2 *http2, const char *data, size_t n);
size_t th_http2_left(const th_http2 *http2);
/* Returns an enum th_http2_event, or the th_status of a connection error, which later calls return again. The caller
 * then sends GOAWAY with th_status_code() and th_status_text(), and closes. */
int th_http2_next(th_http2 *http2);
/* 1 while a field block, or the first SETTINGS frame, is incomplete. */
int th_http2_is_reading_head(const th_http2 *http2);

/* Returns an open stream, or NULL. The pointer is valid until the next th_http2_next(). */
th_http2_stream *th_http2_find(const th_http2 *http2, uint32_t id);
/* Returns how many of n bytes of content may be sent now on a stream, in one DATA frame; 0 if the stream is not open, or
 * if a larger frame will be possible soon. The result may be more than n. */
size_t th_http2_sendable(const th_http2 *http2, uint32_t id, size_t n);

/* Notes that n bytes of a stream's content were received by the application or dropped; the stream may have ended.
 * `waits`: the application waits for more and none is left, so that a used-up window may grow. */
int th_http2_consumed(th_http2 *http2, uint32_t id, size_t n, int waits);

/* Begins a HEADERS frame in `out`, after all frames that the codec itself has to send. The caller appends a field block
 * from the encoder. Returns TH_OK or TH_ENOMEM; *mark is for th_http2_end_headers(). */
int th_http2_begin_headers(th_http2 *http2, th_buffer *out, size_t *mark);
/* Completes the frame, with CONTINUATION frames if the block is long. `end`: the block ends the response. */
int th_http2_end_headers(th_http2 *http2, th_buffer *out, size_t mark, uint32_t id, int end);
/* Writes the head of a DATA frame, after all frames that the codec itself has to send. The caller appends n bytes, at
 * most th_http2_sendable(). */
int th_http2_write_data_head(th_http2 *http2, th_buffer *out, uint32_t id, size_t n, int end);
/* Writes RST_STREAM and forgets the stream; does nothing if it is not open. */
int th_http2_reset(th_http2 *http2, th_buffer *out, uint32_t id, uint32_t code);
/* Writes GOAWAY. With TH_HTTP2_ID_MAX as `last`, new streams are still accepted. */
int th_http2_write_goaway(th_http2 *http2, th_buffer *out, uint32_t last, uint32_t code, const char *text);
/* Writes a PING, whose acknowledgement causes TH_HTTP2_PONG. */
int th_http2_ping(th_http2 *http2, th_buffer *out);
/* Appends to `out` the acknowledgements that were held back while `stalled` was set. */
int th_http2_catch_up(th_http2 *http2);
/* Frees memory that is needed only while a request is read or a stream is open; it is allocated again on demand. To be
 * called at the end of a read, when no stream is open and no field block is incomplete. */
void th_http2_rest(th_http2 *http2);
/* Notes that a response was completed, which refills budgets. */
void th_http2_completed(th_http2 *http2);

#endif
