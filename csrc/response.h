/* Writes the parts of an HTTP/1.1 response (RFC 9112) as bytes. */
#ifndef TH_RESPONSE_H
#define TH_RESPONSE_H

#include "base.h"
#include "buffer.h"

/* Returns the reason phrase of a status code (IANA registry), "" if it has none; static. */
const char *th_reason_phrase(int code);

/* The th_write_ functions append to the buffer. They return TH_OK or TH_ENOMEM; th_write_field() also TH_EFIELD_NAME or
 * TH_EFIELD_VALUE. */
int th_write_status_line(th_buffer *buffer, int code);
int th_write_field(th_buffer *buffer, const char *name, size_t name_length, const char *value, size_t value_length);
/* Writes a chunk's size and CRLF, to be followed by the data and CRLF. RFC 9112 section 7.1. */
int th_write_chunk_head(th_buffer *buffer, uint64_t size);
/* Writes a whole chunk. n must not be 0, which would make it the last chunk. */
int th_write_chunk(th_buffer *buffer, const char *src, size_t n);
/* Reads 1*DIGIT (RFC 9110 section 8.6). Returns TH_OK or TH_ECONTENT_LENGTH. */
int th_read_content_length(const char *src, size_t n, uint64_t *length);

#endif
