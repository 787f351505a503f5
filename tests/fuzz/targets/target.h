/* What the targets share. Each is one LLVMFuzzerTestOneInput(), which libFuzzer (fuzz_c.py) and replay.c call: it drives
 * one part of csrc as thestral/_core does, and aborts where a promise of its header is broken.
 *
 * The first byte of an input chooses settings; the rest is what a peer sends. */
#ifndef TARGET_H
#define TARGET_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buffer.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

#define EXPECT(fact)                                              \
  do {                                                            \
    if (!(fact)) {                                                \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #fact);  \
      abort();                                                    \
    }                                                             \
  } while (0)

/* A copy that ends where its memory does, so that a sanitizer sees the first byte read behind it. */
static inline char *exactly(const char *data, size_t n) {
  char *copy = malloc(n > 0 ? n : 1);
  EXPECT(copy != NULL);
  memcpy(copy, data, n);
  return copy;
}

/* How the bytes are cut. */
enum cut { WHOLE, BYTEWISE, AT_RANDOM, CUTS };

typedef struct {
  enum cut cut;
  uint64_t state;
} knife;

static inline knife knife_for(enum cut cut, const char *data, size_t n) {
  knife made = {cut, 0xcbf29ce484222325u};
  for (size_t i = 0; i < n; i++) made.state = (made.state ^ (uint8_t)data[i]) * 0x100000001b3u;
  made.state |= 1;
  return made;
}

/* The size of the next piece, of n bytes that are left. */
static inline size_t next_piece(knife *blade, size_t n) {
  if (blade->cut == WHOLE) return n;
  if (blade->cut == BYTEWISE) return 1;
  blade->state ^= blade->state << 13;
  blade->state ^= blade->state >> 7;
  blade->state ^= blade->state << 17;
  size_t size = 1 + blade->state % (blade->state & 1024 ? 5 : 60);
  return size < n ? size : n;
}

/* What came out of a parser, as bytes; equal for every cut. */
static inline void record(th_buffer *trace, const void *data, size_t n) {
  EXPECT(th_buffer_append(trace, data, n) == TH_OK);
}

static inline void record_number(th_buffer *trace, char kind, uint64_t value) {
  record(trace, &kind, 1);
  record(trace, &value, sizeof value);
}

static inline void expect_same(const th_buffer *one, const th_buffer *other) {
  EXPECT(one->length == other->length);
  EXPECT(one->length == 0 || memcmp(one->data, other->data, one->length) == 0);
}

#endif
