/* Checks that bytes are UTF-8 (RFC 3629), as they arrive: WebSocket text may be cut anywhere (RFC 6455 section 8.1). */
#ifndef TH_UTF8_H
#define TH_UTF8_H

#include "base.h"

/* State between two pieces: the bytes that an incomplete character still needs. All 0 at the start. */
typedef struct {
  uint8_t wide; /* there were bytes other than ASCII */
  uint8_t left; /* continuation bytes still to come */
  uint8_t low;  /* range of the next byte: low to high */
  uint8_t high;
} th_utf8;

/* Checks src[0..n), the next piece. Returns TH_OK, or TH_EUTF8 if the text is invalid, whatever follows; the state must
 * not be used after that. */
int th_utf8_check(th_utf8 *state, const char *src, size_t n);
/* The same byte by byte; the reference for tests of th_utf8_check. */
int th_utf8_check_scalar(th_utf8 *state, const char *src, size_t n);

#endif
