/* HTTP/1.1 on the wire (RFC 9112): bytes to events through llhttp, and the parts of a response to bytes.
 *
 * Reading is pulled: th_http1_feed() lends memory, th_http1_next() advances to the next event until it returns
 * TH_NEED_DATA. Nothing is kept of lent memory but a head that arrives in pieces, which is copied and bounded. A verdict
 * never depends on how the bytes were cut: limits are looked at by position, before syntax. */
#ifndef TH_HTTP1_H
#define TH_HTTP1_H

#include "base.h"
#include "buffer.h"
#include "chunk.h"
#include "head.h"
#include "llhttp.h"

enum th_event {
  TH_NEED_DATA = 0, /* what was fed is used up */
  TH_HEAD = 1,      /* head is filled, valid until the next call */
  TH_BODY = 2,      /* body[0..body_length) is the next part, valid until the next call */
  TH_END = 3        /* the message is complete; the next call goes on to the next one */
};

/* Bytes, or a count of fields; body 0 stands for no limit. */
typedef struct {
  uint32_t request_line; /* without its CRLF */
  uint32_t head;         /* field section with its empty line; also each trailer section */
  uint32_t fields;       /* of a head, and of a trailer section */
  uint64_t body;         /* content, without chunked framing */
} th_http1_limits;

typedef struct {
  th_head head;
  const char *body;
  size_t body_length;
  /* The rest is http1.c's own. */
  llhttp_t parser;
  th_http1_limits limits;
  th_buffer pieces;    /* a head in pieces, then the data of small chunks side by side */
  const char *next;    /* fed and not yet read: next[0..end - next) */
  const char *end;
  const char *excerpt; /* what may be shown of a refused request: [excerpt_length] bytes */
  size_t excerpt_length;
  uint64_t body_left;  /* of a Content-Length body, or of a chunk */
  uint64_t body_total;
  uint32_t line_length; /* request line, once complete */
  uint32_t head_length; /* read of this head so far */
  th_chunk chunk;
  uint32_t overhead;    /* bytes since the last chunk header that are not data */
  uint32_t excess;      /* what chunk lines carried beyond need */
  uint32_t trailers;
  int32_t failed;       /* sticky th_status */
  uint8_t state;
  uint8_t in_value;
  uint8_t line_complete;
  uint8_t last_chunk;
} th_http1;

void th_http1_init(th_http1 *http1, const th_http1_limits *limits);
void th_http1_free(th_http1 *http1);
/* Lends data[0..n), which must stay until next() says TH_NEED_DATA; anything lent before must be used up. */
void th_http1_feed(th_http1 *http1, const char *data, size_t n);
/* Bytes lent and not read yet. */
size_t th_http1_left(const th_http1 *http1);
/* 1 between messages: no byte of a next one has come. */
int th_http1_is_idle(const th_http1 *http1);
/* Returns an enum th_event, or a th_status that stays; the excerpt does not. */
int th_http1_next(th_http1 *http1);
/* 1 if what is being read, or was refused, is a HEAD request as far as it has come: its answer has no content. */
int th_http1_is_head(const th_http1 *http1);
/* Why the request was refused, in llhttp's words or th_status_text()'s; static. */
const char *th_http1_reason(const th_http1 *http1);

/* Reason phrase of a status code (IANA registry), "" if it has none; static. */
const char *th_reason_phrase(int code);
/* Name of a request method; static. */
const char *th_method_name(int method);
/* Number of methods known; the numbers below it without a name give "". */
int th_method_count(void);

/* Each appends to the buffer and returns TH_OK, TH_ENOMEM, or what is wrong with the field. */
int th_write_status_line(th_buffer *buffer, int code);
int th_write_field(th_buffer *buffer, const char *name, size_t name_length, const char *value, size_t value_length);
/* "size CRLF", to be followed by the data and CRLF. RFC 9112 section 7.1. */
int th_write_chunk_head(th_buffer *buffer, uint64_t size);
/* The whole chunk; n is not 0, which would be the last one. */
int th_write_chunk(th_buffer *buffer, const char *src, size_t n);
/* Reads 1*DIGIT (RFC 9110 section 8.6). Returns TH_OK or TH_ECONTENT_LENGTH. */
int th_read_content_length(const char *src, size_t n, uint64_t *length);

#endif
