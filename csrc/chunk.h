/* The framing of a chunked body (RFC 9112 section 7.1): lines with a chunk's size and extensions, which are checked and
 * ignored, and the CRLF after its data. llhttp reads the trailer section. */
#ifndef TH_CHUNK_H
#define TH_CHUNK_H

#include "base.h"

typedef struct {
  uint64_t size; /* of the chunk, once its line is complete */
  uint8_t state; /* private to chunk.c */
} th_chunk;

enum { TH_CHUNK_LINE = 1 }; /* the line is complete: size bytes of data follow, or for 0 the trailer section */

/* Expects the first chunk of a body. */
void th_chunk_first(th_chunk *chunk);
/* Expects the CRLF after a chunk's data, then the next chunk. */
void th_chunk_after_data(th_chunk *chunk);
/* Reads src[0..n) up to the end of the line, and sets *read. Returns TH_CHUNK_LINE, TH_OK if more is needed, or
 * TH_ECHUNK: then the invalid byte is the last one read. */
int th_chunk_read(th_chunk *chunk, const char *src, size_t n, size_t *read);

#endif
