/* Whether bytes are UTF-8 (RFC 3629), told as they arrive: WebSocket text may be cut anywhere (RFC 6455 section 8.1). */
#ifndef TH_UTF8_H
#define TH_UTF8_H

#include "base.h"

/* Between two pieces: what the character that is open still needs. All 0 at the start. */
typedef struct {
  uint8_t wide; /* something else than ASCII has come */
  uint8_t left; /* continuation bytes to come */
  uint8_t low;  /* bounds of the next one */
  uint8_t high;
} th_utf8;

/* Goes on with src[0..n). Returns TH_OK, or TH_EUTF8 if no text can begin so; state is then of no use. */
int th_utf8_check(th_utf8 *state, const char *src, size_t n);
/* The same byte by byte: what th_utf8_check is tested against. */
int th_utf8_check_scalar(th_utf8 *state, const char *src, size_t n);

#endif
