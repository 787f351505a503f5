/* Turns field blocks of HTTP/2 (RFC 9113 section 8) into heads, and decides which requests are malformed or refused. */
#ifndef TH_HTTP2_HEAD_H
#define TH_HTTP2_HEAD_H

#include "base.h"
#include "buffer.h"
#include "head.h"
#include "hpack.h"

enum { TH_HTTP2_URGENCY = 3 }; /* the default: RFC 9218 section 4.1 */

typedef struct {
  uint32_t streams;           /* open at once: SETTINGS_MAX_CONCURRENT_STREAMS */
  uint32_t connection_window; /* bytes of bodies that the peer may send before the application receives them */
  uint32_t stream_window_max; /* bytes; a stream's window begins with 65,535 and grows to this */
  uint32_t head;              /* bytes, including 32 for each field: SETTINGS_MAX_HEADER_LIST_SIZE */
  uint32_t fields;            /* fields of a head; all cookie fields together count as one */
  uint64_t body;              /* bytes of content; 0 for no limit */
  uint8_t websocket;          /* accept extended CONNECT: RFC 8441 */
} th_http2_limits;

/* Identifies a field of scratch->head, so that the caller can reuse the object that it made for the same field. */
typedef struct {
  uint32_t serial; /* as in th_hpack_field */
  uint8_t index;   /* as in th_hpack_field */
} th_http2_hint;

/* State that is needed only while a head is read, shared by all connections of a thread. The head is valid until the
 * next th_http2_read_head(). */
typedef struct {
  th_head head;
  const th_http2_limits *limits;
  th_buffer bytes;   /* the bytes that the slices of head refer to */
  th_buffer hints;   /* th_http2_hint for each field of head */
  th_buffer cookies; /* the cookie fields, joined by "; " (RFC 9113 section 8.2.3) */
  th_slice scheme;
  th_slice protocol; /* of extended CONNECT */
  th_http2_hint authority; /* of :authority */
} th_http2_scratch;

/* The results of one pass over the fields of a head. */
typedef struct {
  uint64_t size;       /* bytes of names and values, plus 32 for each field */
  int malformed;       /* th_status to reset the stream for; TH_OK for none */
  int over;            /* th_status to refuse the request with, since parts of the head are missing: over a limit */
  int refused;         /* th_status to refuse the request with, in place of the application's response */
  uint32_t crumbs;     /* number of cookie fields */
  uint32_t cookie;     /* index of the field that replaces all cookie fields */
  uint8_t seen;        /* pseudo-fields, a bit for each */
  uint8_t regular;     /* a regular field was seen, so no pseudo-field may follow */
  uint8_t content_lengths;
  uint8_t hosts;
  th_slice host;
  uint8_t urgency;     /* RFC 9218 section 4 */
  uint8_t incremental;
} th_http2_tally;

void th_http2_scratch_init(th_http2_scratch *scratch);
void th_http2_scratch_free(th_http2_scratch *scratch);

/* Reads a block as the head of a request. The whole block is decoded, because the table depends on it, but nothing
 * beyond the limits is kept. Returns TH_OK, or the th_status of a connection error. */
int th_http2_read_head(th_http2_scratch *scratch, const th_http2_limits *limits, th_hpack_decoder *decoder,
                       const char *block, size_t n, th_http2_tally *found);
/* Completes the head. Returns TH_OK, or the th_status of a request that is malformed or refused. */
int th_http2_finish_head(th_http2_scratch *scratch, const th_http2_tally *found);
/* 1 if a status from th_http2_finish_head() is for a malformed request, whose stream must be reset (section 8.1.1). */
int th_http2_is_malformed(int status);
/* Reads a block as trailers, which are checked and dropped, or as a head that is not needed. Results as above. */
int th_http2_read_trailers(th_hpack_decoder *decoder, const char *block, size_t n, th_http2_tally *found);

/* Checks a field of a response. Returns TH_OK, TH_EFIELD_NAME or TH_EFIELD_VALUE, or 1 if the caller must first lower
 * the name's case or strip blanks at the value's ends, which HTTP/2 does not allow (RFC 9113 section 8.2). */
int th_http2_check_field(const char *name, size_t name_length, const char *value, size_t value_length);

/* Reads the two parameters in the value of a Priority field (RFC 9218 section 4); malformed members are ignored. */
void th_http2_read_priority(const char *src, size_t n, uint8_t *urgency, uint8_t *incremental);

#endif
