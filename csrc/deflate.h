/* permessage-deflate (RFC 7692 section 7.2) with zlib, which allocates its own memory.
 *
 * A stream holds no memory before its first message, and without context takeover none between messages. */
#ifndef TH_DEFLATE_H
#define TH_DEFLATE_H

#include "base.h"
#include "buffer.h"

typedef struct {
  th_buffer stream; /* a z_stream, if one is open */
  uint8_t bits;     /* window of 2^bits bytes, 9 to 15 */
  uint8_t takeover; /* context takeover: the window is kept between messages */
  uint8_t level;    /* zlib's, 1 to 9; of a deflater */
  uint8_t memory;   /* zlib's, 1 to 9; of a deflater */
} th_deflate_stream;

/* Free the memory; the settings stay. A deflater may be freed between any two messages: the next one then does not
 * refer to earlier ones. An inflater may be freed only at the end of its connection. */
void th_inflate_free(th_deflate_stream *inflater);
void th_deflate_free(th_deflate_stream *deflater);

/* Inflates src[0..n), a part of a message, and appends the result to out. Returns TH_OK, TH_ENOMEM, TH_EDEFLATE for
 * invalid data, or TH_EMESSAGE_SIZE as soon as out exceeds max bytes: never much more than max is in memory. */
int th_inflate(th_deflate_stream *inflater, const char *src, size_t n, th_buffer *out, uint64_t max);
/* Ends a message by inflating the 4 bytes that its sender removed. Same results; TH_EDEFLATE also for truncated
 * data. */
int th_inflate_end(th_deflate_stream *inflater, th_buffer *out, uint64_t max);

/* Compresses a whole, non-empty message and appends it. Returns TH_OK or TH_ENOMEM. */
int th_deflate(th_deflate_stream *deflater, const char *src, size_t n, th_buffer *out);

#endif
