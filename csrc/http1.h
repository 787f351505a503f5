/* Requests of HTTP/1.1 (RFC 9112): turns bytes into events, with llhttp.
 *
 * The caller pulls events: th_http1_feed() lends memory, and th_http1_next() advances to the next event until it
 * returns TH_NEED_DATA. Only a head that arrives in pieces is copied from lent memory, up to its limits. The verdict
 * never depends on how the bytes were cut: limits are checked by position, before syntax. */
#ifndef TH_HTTP1_H
#define TH_HTTP1_H

#include "base.h"
#include "buffer.h"
#include "chunk.h"
#include "head.h"
#include "llhttp.h"

enum th_event {
  TH_NEED_DATA = 0, /* everything fed has been read */
  TH_HEAD = 1,      /* head is filled, valid until the next call */
  TH_BODY = 2,      /* body[0..body_length) is the next part, valid until the next call */
  TH_END = 3        /* the message is complete; the next call continues with the next message */
};

/* In bytes, except fields, which is a count. For body, 0 means no limit. */
typedef struct {
  uint32_t request_line; /* without its CRLF */
  uint32_t head;         /* field section with its empty line; also the trailer section */
  uint32_t fields;       /* of a head, and of a trailer section */
  uint64_t body;         /* content, without chunked framing */
} th_http1_limits;

typedef struct {
  th_head head;
  const char *body;
  size_t body_length;
  /* The rest is private to http1.c. */
  llhttp_t parser;
  th_http1_limits limits;
  th_buffer pieces;    /* a head that arrives in pieces; later the data of small chunks, joined */
  const char *next;    /* fed but not yet read: next[0..end - next) */
  const char *end;
  const char *excerpt; /* part of a refused request that may be logged: excerpt_length bytes */
  size_t excerpt_length;
  uint64_t body_left;  /* bytes left of a Content-Length body, or of a chunk */
  uint64_t body_total;
  uint32_t line_length; /* of the request line, once complete */
  uint32_t head_length; /* bytes read of this head so far */
  th_chunk chunk;
  uint32_t overhead;    /* bytes other than data since the last chunk line */
  uint32_t excess;      /* bytes of chunk lines beyond CHUNK_LINE_FREE each, less what data has earned */
  uint32_t trailers;
  int32_t failed;       /* sticky th_status */
  uint8_t state;
  uint8_t in_value;
  uint8_t line_complete;
  uint8_t last_chunk;
} th_http1;

void th_http1_init(th_http1 *http1, const th_http1_limits *limits);
void th_http1_free(th_http1 *http1);
/* Lends data[0..n), which must stay valid until th_http1_next() returns TH_NEED_DATA. All earlier data must have been
 * read. */
void th_http1_feed(th_http1 *http1, const char *data, size_t n);
/* Returns how many lent bytes are not read yet. */
size_t th_http1_left(const th_http1 *http1);
/* 1 between messages, before the first byte of the next one. */
int th_http1_is_idle(const th_http1 *http1);
/* Returns an enum th_event, or a th_status, which later calls return again, but without the excerpt. */
int th_http1_next(th_http1 *http1);
/* 1 if the request being read or refused is a HEAD request, as far as is known: its response has no content. */
int th_http1_is_head(const th_http1 *http1);
/* Returns why the request was refused, from llhttp or th_status_text(); static. */
const char *th_http1_reason(const th_http1 *http1);

/* Returns the name of a request method; static. */
const char *th_method_name(int method);
/* Returns the number of methods. Numbers below it that are not in use have the name "". */
int th_method_count(void);

#endif
