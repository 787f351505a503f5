/* The field blocks of HTTP/2 (RFC 9113 section 8) to heads: what of a request is malformed, what is refused, and what
 * its fields mean together. */
#ifndef TH_HTTP2_HEAD_H
#define TH_HTTP2_HEAD_H

#include "base.h"
#include "buffer.h"
#include "head.h"
#include "hpack.h"

enum { TH_HTTP2_URGENCY = 3 }; /* the default: RFC 9218 section 4.1 */

typedef struct {
  uint32_t streams;           /* open at once: SETTINGS_MAX_CONCURRENT_STREAMS */
  uint32_t connection_window; /* bytes of bodies that the peer may send before the application takes them */
  uint32_t stream_window_max; /* bytes; a stream's window begins with 65,535 and grows to this */
  uint32_t head;              /* bytes: SETTINGS_MAX_HEADER_LIST_SIZE, 32 for each field included */
  uint32_t fields;            /* of a head, in which all cookie fields together are one */
  uint64_t body;              /* bytes of content; 0 for no limit */
  uint8_t websocket;          /* accept extended CONNECT: RFC 8441 */
} th_http2_limits;

/* A field of scratch->head: what the caller needs to use its own object of the same field again. */
typedef struct {
  uint32_t serial; /* as in th_hpack_field */
  uint8_t index;   /* as in th_hpack_field */
} th_http2_hint;

/* What is needed only while a head is read. One for all connections of a thread. The head is valid until the next
 * th_http2_read_head(). */
typedef struct {
  th_head head;
  const th_http2_limits *limits;
  th_buffer bytes;   /* what the slices of head point into */
  th_buffer hints;   /* th_http2_hint for each field of head */
  th_buffer cookies; /* the cookie fields, joined by "; " (RFC 9113 section 8.2.3) */
  th_slice scheme;
  th_slice protocol; /* of extended CONNECT */
  th_http2_hint authority; /* of :authority */
} th_http2_scratch;

/* What one pass over the fields of a head finds. */
typedef struct {
  uint64_t size;       /* of the names and values, with 32 for each field */
  int malformed;       /* th_status: the stream is reset; TH_OK if it is not */
  int over;            /* th_status: a limit was exceeded, so that parts of the head are missing; answered as below */
  int refused;         /* th_status: the request is answered in place of the application */
  uint32_t crumbs;     /* cookie fields */
  uint32_t cookie;     /* index of the field that stands for all of them */
  uint8_t seen;        /* pseudo-fields, a bit for each */
  uint8_t regular;     /* a regular field was seen: no pseudo-field may follow */
  uint8_t content_lengths;
  uint8_t hosts;
  th_slice host;
  uint8_t urgency;     /* RFC 9218 section 4 */
  uint8_t incremental;
} th_http2_tally;

void th_http2_scratch_init(th_http2_scratch *scratch);
void th_http2_scratch_free(th_http2_scratch *scratch);

/* Reads a block as the head of a request. All of it is decoded, because the table depends on it, but nothing is kept
 * beyond the limits. Returns TH_OK, or the th_status of a connection error. */
int th_http2_read_head(th_http2_scratch *scratch, const th_http2_limits *limits, th_hpack_decoder *decoder,
                       const char *block, size_t n, th_http2_tally *found);
/* Completes the head. Returns TH_OK, or why the request is malformed (found->malformed, or TH_EPSEUDO) or refused. */
int th_http2_finish_head(th_http2_scratch *scratch, const th_http2_tally *found);
/* 1 if the status of th_http2_finish_head() is that of a malformed request, whose stream is reset (section 8.1.1). */
int th_http2_is_malformed(int status);
/* Reads a block as trailers, which are checked and dropped, or as a head that nobody wants. Results as above. */
int th_http2_read_trailers(th_hpack_decoder *decoder, const char *block, size_t n, th_http2_tally *found);

/* Checks a field of a response. Returns TH_OK, TH_EFIELD_NAME or TH_EFIELD_VALUE, or 1 if the name has upper-case letters
 * or the value blanks at its ends, which HTTP/2 does not allow (RFC 9113 section 8.2). */
int th_http2_check_field(const char *name, size_t name_length, const char *value, size_t value_length);

/* Reads the value of a Priority field (RFC 9218 section 4) into its two parameters; what is malformed is passed over. */
void th_http2_read_priority(const char *src, size_t n, uint8_t *urgency, uint8_t *incremental);

#endif
