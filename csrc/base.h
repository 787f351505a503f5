/* Shared by every C file: status codes and slices. */
#ifndef TH_BASE_H
#define TH_BASE_H

#include <stddef.h>
#include <stdint.h>

/* What a function returns when it fails. Statuses are negative, results are >= 0. Each status has one cause:
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
  TH_EHPACK_SIZE = -41       /* a name or value over its limit */
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

#endif
