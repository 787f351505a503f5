/* permessage-deflate (RFC 7692 section 7.2): messages through zlib, which allocates for itself.
 *
 * A stream holds no memory before its first message; without context takeover none after it either. */
#ifndef TH_DEFLATE_H
#define TH_DEFLATE_H

#include "base.h"
#include "buffer.h"

typedef struct {
  th_buffer stream; /* a z_stream, while there is one */
  uint8_t bits;     /* window of 2^bits bytes, 9 to 15 */
  uint8_t takeover; /* the window stays from message to message */
  uint8_t level;    /* zlib's, 1 to 9; of a deflater */
  uint8_t memory;   /* zlib's, 1 to 9; of a deflater */
} th_deflate_stream;

/* Give the memory back; the settings stay. A deflater may do so between any two messages: what it sends next does not
 * refer to earlier ones. An inflater may only at a connection's end. */
void th_inflate_free(th_deflate_stream *inflater);
void th_deflate_free(th_deflate_stream *deflater);

/* Appends what src[0..n), a part of a message, inflates to. Returns TH_OK, TH_ENOMEM, TH_EDEFLATE for what is no DEFLATE
 * data, or TH_EMESSAGE_SIZE as soon as out holds more than max bytes; then a little more than max is in memory at most. */
int th_inflate(th_deflate_stream *inflater, const char *src, size_t n, th_buffer *out, uint64_t max);
/* Ends a message, with the 4 bytes that its sender has taken off. Same returns; TH_EDEFLATE also if it breaks off. */
int th_inflate_end(th_deflate_stream *inflater, th_buffer *out, uint64_t max);

/* Appends a whole message, not empty, compressed. Returns TH_OK or TH_ENOMEM. */
int th_deflate(th_deflate_stream *deflater, const char *src, size_t n, th_buffer *out);

#endif
