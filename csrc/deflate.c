#include "deflate.h"

#include <limits.h>
#include <string.h>
#include <zlib.h>

/* The empty stored block that ends a flushed stream; a message is sent without these bytes. */
static const char TAIL[] = {0x00, 0x00, (char)0xff, (char)0xff};
/* With less room than this at a flush, zlib may write the tail twice. */
enum { LEAST_ROOM = 16, LARGEST_STEP = 1 << 30 };

/* Bit of z_stream.data_type: the last block has ended, and the next one has not started. */
enum { AT_BLOCK_START = 128 };

static z_stream *stream_of(th_deflate_stream *deflate) { return (z_stream *)(void *)deflate->stream.data; }

/* Makes a zeroed z_stream. It must not move while in use, because zlib keeps a pointer to it. */
static int make_stream(th_deflate_stream *deflate) {
  int status = th_buffer_reserve(&deflate->stream, sizeof(z_stream));
  if (status < 0) return status;
  memset(deflate->stream.data, 0, sizeof(z_stream));
  return TH_OK;
}

void th_inflate_free(th_deflate_stream *inflater) {
  if (inflater->stream.data == NULL) return;
  inflateEnd(stream_of(inflater));
  th_buffer_free(&inflater->stream);
}

void th_deflate_free(th_deflate_stream *deflater) {
  if (deflater->stream.data == NULL) return;
  deflateEnd(stream_of(deflater));
  th_buffer_free(&deflater->stream);
}

static int open_inflater(th_deflate_stream *inflater) {
  int status = make_stream(inflater);
  if (status < 0) return status;
  if (inflateInit2(stream_of(inflater), -inflater->bits) == Z_OK) return TH_OK;
  th_buffer_free(&inflater->stream);
  return TH_ENOMEM;
}

static int open_deflater(th_deflate_stream *deflater) {
  int status = make_stream(deflater);
  if (status < 0) return status;
  if (deflateInit2(stream_of(deflater), deflater->level, Z_DEFLATED, -deflater->bits, deflater->memory,
                   Z_DEFAULT_STRATEGY) == Z_OK) {
    return TH_OK;
  }
  th_buffer_free(&deflater->stream);
  return TH_ENOMEM;
}

/* Lends zlib the free part of out, which grows if there is little. Returns its size, or 0 if memory runs out. */
static uInt lend_room(z_stream *stream, th_buffer *out, uint64_t max) {
  if (th_buffer_reserve(out, LEAST_ROOM) < 0) return 0;
  size_t room = out->capacity - out->length;
  if (room > max - out->length + 1) room = (size_t)(max - out->length) + 1;
  if (room > UINT_MAX) room = UINT_MAX;
  stream->next_out = (Bytef *)out->data + out->length;
  stream->avail_out = (uInt)room;
  return (uInt)room;
}

int th_inflate(th_deflate_stream *inflater, const char *src, size_t n, th_buffer *out, uint64_t max) {
  if (inflater->stream.data == NULL) {
    int status = open_inflater(inflater);
    if (status < 0) return status;
  }
  z_stream *stream = stream_of(inflater);
  size_t left = n;
  do {
    uInt step = left > LARGEST_STEP ? LARGEST_STEP : (uInt)left;
    stream->next_in = (z_const Bytef *)(src + (n - left));
    stream->avail_in = step;
    left -= step;
    do {
      uInt room = lend_room(stream, out, max);
      if (room == 0) return TH_ENOMEM;
      int result = inflate(stream, Z_SYNC_FLUSH);
      out->length += room - stream->avail_out;
      if (out->length > max) return TH_EMESSAGE_SIZE;
      if (result == Z_STREAM_END) {
        /* A block marked as final may be followed by another, with the same window: RFC 7692 section 7.2.3.4. */
        result = inflateResetKeep(stream);
      }
      if (result == Z_MEM_ERROR) return TH_ENOMEM;
      if (result != Z_OK && result != Z_BUF_ERROR) return TH_EDEFLATE;
    } while (stream->avail_in > 0 || stream->avail_out == 0);
  } while (left > 0);
  return TH_OK;
}

int th_inflate_end(th_deflate_stream *inflater, th_buffer *out, uint64_t max) {
  int status = th_inflate(inflater, TAIL, sizeof TAIL, out, max);
  /* The tail must end a block. If it does not, the data was truncated, and the tail was read as content. */
  if (status == TH_OK && !(stream_of(inflater)->data_type & AT_BLOCK_START)) status = TH_EDEFLATE;
  if (!inflater->takeover) th_inflate_free(inflater);
  return status;
}

int th_deflate(th_deflate_stream *deflater, const char *src, size_t n, th_buffer *out) {
  if (deflater->stream.data == NULL) {
    int status = open_deflater(deflater);
    if (status < 0) return status;
  }
  z_stream *stream = stream_of(deflater);
  size_t left = n;
  int status = TH_OK;
  do {
    uInt step = left > LARGEST_STEP ? LARGEST_STEP : (uInt)left;
    stream->next_in = (z_const Bytef *)(src + (n - left));
    stream->avail_in = step;
    left -= step;
    do {
      uInt room = lend_room(stream, out, SIZE_MAX - 1);
      if (room == 0) {
        status = TH_ENOMEM;
        break;
      }
      deflate(stream, left > 0 ? Z_NO_FLUSH : Z_SYNC_FLUSH);
      out->length += room - stream->avail_out;
    } while (stream->avail_out == 0);
  } while (left > 0 && status == TH_OK);
  if (status == TH_OK) out->length -= sizeof TAIL;
  if (status < 0 || !deflater->takeover) th_deflate_free(deflater);
  return status;
}
