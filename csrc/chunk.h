/* What frames the data of a chunked body (RFC 9112 section 7.1): the lines with a chunk's size and its extensions, which
 * are read and passed over, and the CRLF behind its data. The trailer section is llhttp's. */
#ifndef TH_CHUNK_H
#define TH_CHUNK_H

#include "base.h"

typedef struct {
  uint64_t size; /* of the chunk, once its line is read */
  uint8_t state; /* chunk.c's own */
} th_chunk;

enum { TH_CHUNK_LINE = 1 }; /* the line is complete: size bytes of data follow, or for 0 the trailer section */

/* For the first chunk of a body. */
void th_chunk_first(th_chunk *chunk);
/* Behind the data of a chunk. */
void th_chunk_behind(th_chunk *chunk);
/* Reads src[0..n) up to the end of the line, and sets *read. Returns TH_CHUNK_LINE, TH_OK if more is needed, or
 * TH_ECHUNK: then *read ends with the byte at fault. */
int th_chunk_read(th_chunk *chunk, const char *src, size_t n, size_t *read);

#endif
