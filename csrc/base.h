/* Shared by every C file: status codes, slices and the clock. */
#ifndef TH_BASE_H
#define TH_BASE_H

#include <stddef.h>
#include <stdint.h>

/* What functions return on failure: statuses are negative, results are >= 0. Each status has one cause:
 * th_status_code() gives the HTTP status, WebSocket close code or HTTP/2 error code to send for it, th_status_text() a
 * description. */
enum th_status {
  TH_OK = 0,
  TH_ENOMEM = -1,
  TH_ESYNTAX = -2,           /* refused by llhttp; th_http1_reason() says why */
  TH_EMETHOD = -3,           /* RFC 9110 section 9.1: unknown method */
  TH_ECONNECT = -4,          /* RFC 9110 section 9.3.6: tunnels are not supported */
  TH_EVERSION = -5,          /* RFC 9110 section 15.6.6 */
  TH_EPROTOCOL = -6,         /* RTSP and ICE, which llhttp also parses */
  TH_ETARGET = -7,           /* RFC 9112 section 3.2 */
  TH_EHOST_MISSING = -8,     /* RFC 9112 section 3.2: an HTTP/1.1 request must have one */
  TH_EHOST_DUPLICATE = -9,   /* the same */
  TH_EHOST_INVALID = -10,    /* RFC 3986 section 3.2, RFC 9110 section 4.2 */
  TH_ECONTENT_LENGTH = -11,  /* RFC 9112 section 6.3 */
  TH_ETRANSFER_ENCODING = -12, /* RFC 9112 section 6.1: invalid framing */
  TH_ETRANSFER_CODING = -13, /* RFC 9112 section 6.1: unsupported coding */
  TH_EEXPECT = -14,          /* RFC 9110 section 10.1.1 */
  TH_ELINE_SIZE = -15,       /* request line over its limit */
  TH_EHEAD_SIZE = -16,       /* field section over its limit */
  TH_EHEAD_COUNT = -17,      /* more fields than the limit */
  TH_ECHUNK_SIZE = -18,      /* chunk lines too long for the data that they carry */
  TH_ETRAILER_SIZE = -19,    /* trailer section over its limit */
  TH_EBODY_SIZE = -20,       /* body over its limit */
  TH_ETLS = -21,             /* a TLS ClientHello on a plain port */
  TH_EHTTP2 = -22,           /* the HTTP/2 connection preface */
  TH_EFIELD_NAME = -23,      /* response: not a token, RFC 9110 section 5.1 */
  TH_EFIELD_VALUE = -24,     /* response: CR, LF, NUL or another control, RFC 9110 section 5.5 */
  TH_EFRAME_RESERVED = -25,  /* WebSocket from here on: RFC 6455 section 5.2, a reserved bit */
  TH_EFRAME_OPCODE = -26,    /* section 5.2 */
  TH_EFRAME_UNMASKED = -27,  /* section 5.1 */
  TH_EFRAME_LENGTH = -28,    /* section 5.2: not the shortest form, or over 2^63 */
  TH_EFRAME_CONTROL = -29,   /* section 5.5: fragmented, or over 125 bytes */
  TH_EFRAME_ORDER = -30,     /* section 5.4 */
  TH_ECLOSE = -31,           /* section 7.4: a close code that must not be sent, or one byte of a code */
  TH_EUTF8 = -32,            /* section 8.1 */
  TH_EDEFLATE = -33,         /* RFC 7692 section 7.2.2: not DEFLATE data */
  TH_EMESSAGE_SIZE = -34,    /* message over its limit */
  TH_EPROXY = -35,           /* PROXY protocol: not a head of version 1 or 2 */
  TH_EPROXY_SIZE = -36,      /* PROXY protocol: head over its limit */
  TH_EBLOCKED = -37,         /* the call would block */
  TH_ESYSTEM = -38,          /* a system call failed, errno says why */
  TH_ECHUNK = -39,           /* RFC 9112 section 7.1: malformed chunk line, or no CRLF after the data */
  TH_EHPACK = -40,           /* HTTP/2 from here on: RFC 7541, not a field block */
  TH_EHPACK_SIZE = -41,      /* a name or value over its limit */
  TH_EPREFACE = -42,         /* RFC 9113 section 3.4: not the connection preface */
  TH_EFIRST_FRAME = -43,     /* section 3.4: the first frame is not SETTINGS */
  TH_EFRAME_SIZE = -44,      /* section 4.2 */
  TH_EFRAME_STREAM = -45,    /* section 5.1.1: a stream id that this frame must not have */
  TH_ESTREAM_IDLE = -46,     /* section 5.1: the stream has not begun */
  TH_ESTREAM_CLOSED = -47,   /* section 5.1: the stream is over */
  TH_EPADDING = -48,         /* section 6.1: padding longer than the frame */
  TH_EBLOCK = -49,           /* section 6.10: a field block is interrupted, or CONTINUATION outside of one */
  TH_ESETTING = -50,         /* section 6.5.2: a setting has an invalid value */
  TH_ESETTING_WINDOW = -51,  /* section 6.5.2: SETTINGS_INITIAL_WINDOW_SIZE, or a window that it makes too large */
  TH_EWINDOW = -52,          /* section 6.9.1: more than a window allows, or a window of more than 2^31-1 */
  TH_EINCREMENT = -53,       /* section 6.9: WINDOW_UPDATE by 0 */
  TH_EPUSH = -54,            /* section 8.4: PUSH_PROMISE from a client */
  TH_EGLITCHES = -55,        /* section 10.5: too many frames that ask for no work */
  TH_ERESETS = -56,          /* the same: too many streams that are reset */
  TH_EBLOCK_SIZE = -57,      /* section 10.5.1: a field block over its limit */
  TH_EPSEUDO = -58,          /* section 8.3: pseudo-fields; from here to TH_EREFUSED: stream errors */
  TH_EFIELD = -59,           /* section 8.2.1: name or value */
  TH_EHOP_BY_HOP = -60,      /* section 8.2.2: a field of the connection */
  TH_ELENGTH = -61,          /* section 8.1.1: the content is not as long as Content-Length */
  TH_ETRAILERS = -62,        /* section 8.1: trailers that do not end the stream, or are malformed */
  TH_ESTREAM_WINDOW = -63,   /* section 6.9.1: more than the stream's window allows */
  TH_EREFUSED = -64,         /* section 5.1.2: more streams than SETTINGS_MAX_CONCURRENT_STREAMS */
  TH_EAUTHORITY = -65,       /* section 8.3.1: Host other than :authority */
  TH_EPRIORITIES = -66       /* RFC 9218 section 7.1: priorities for more streams than may be open */
};

/* Returns the HTTP status to refuse a request with (500 if it is not the peer's fault), the close code to fail a
 * WebSocket connection with (RFC 6455 section 7.4.1), or the error code to end an HTTP/2 connection with (RFC 9113
 * section 7). */
int th_status_code(int status);
/* Returns a short description in English, without a full stop; static. */
const char *th_status_text(int status);
/* Returns the version of llhttp, such as "9.4.3"; static. */
const char *th_llhttp_version(void);

/* A part of a head. The offset counts from the first byte, so it stays valid when a head that arrives in pieces
 * moves. */
typedef struct {
  uint32_t offset;
  uint32_t length;
} th_slice;

/* Returns the time of CLOCK_MONOTONIC in nanoseconds. */
int64_t th_now(void);

#endif
