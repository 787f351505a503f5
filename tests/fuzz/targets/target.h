/* Shared by the targets. Each is one LLVMFuzzerTestOneInput(), which libFuzzer (fuzz_c.py) and replay.c call: it drives
 * one part of csrc as thestral/_core does, and aborts if a promise of its header is broken.
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

/* A copy that ends at the end of its memory, so that a sanitizer detects a read of the first byte beyond. */
static inline char *exactly(const char *data, size_t n) {
  char *copy = malloc(n > 0 ? n : 1);
  EXPECT(copy != NULL);
  memcpy(copy, data, n);
  return copy;
}

/* How the bytes are cut. AS_TOLD: the last bytes are sizes, so a fuzzer can move the cuts without moving the rest. */
enum cut { WHOLE, BYTEWISE, AT_RANDOM, AS_TOLD, CUTS };
enum { CUT_SIZES = 8 };

typedef struct {
  enum cut cut;
  uint64_t state;
  uint8_t sizes[CUT_SIZES];
} knife;

static inline knife knife_for(enum cut cut, const char *data, size_t n) {
  knife made = {cut, 0xcbf29ce484222325u, {0}};
  if (cut == AS_TOLD) {
    made.state = 0;
    for (size_t i = 0; i < CUT_SIZES && i < n; i++) made.sizes[i] = (uint8_t)data[n - 1 - i];
    return made;
  }
  for (size_t i = 0; i < n; i++) made.state = (made.state ^ (uint8_t)data[i]) * 0x100000001b3u;
  made.state |= 1;
  return made;
}

/* The size of the next piece, of n bytes that are left. */
static inline size_t next_piece(knife *blade, size_t n) {
  if (blade->cut == WHOLE) return n;
  if (blade->cut == BYTEWISE) return 1;
  if (blade->cut == AS_TOLD) {
    size_t told = 1 + (blade->sizes[blade->state++ % CUT_SIZES] & 63);
    return told < n ? told : n;
  }
  blade->state ^= blade->state << 13;
  blade->state ^= blade->state >> 7;
  blade->state ^= blade->state << 17;
  size_t size = 1 + blade->state % (blade->state & 1024 ? 5 : 60);
  return size < n ? size : n;
}

/* Records a parser's output as bytes, which must be equal for every cut. */
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

/* RFC 3629, by the value of each character. Returns 1 for whole characters, 0 if the last one is cut, -1 if invalid. */
static inline int is_utf8(const uint8_t *src, size_t n) {
  static const uint32_t LEAST[] = {0, 0, 0x80, 0x800, 0x10000};
  for (size_t i = 0; i < n;) {
    size_t size = src[i] < 0x80 ? 1 : src[i] >> 5 == 6 ? 2 : src[i] >> 4 == 14 ? 3 : src[i] >> 3 == 30 ? 4 : 0;
    if (size == 0) return -1;
    uint32_t least = 0;
    uint32_t most = 0;
    for (size_t k = 0; k < size; k++) { /* least and most: the values that it can still have */
      if (i + k < n && k > 0 && src[i + k] >> 6 != 2) return -1;
      uint32_t bits = i + k >= n ? 0 : k == 0 ? src[i] & (size == 1 ? 0x7fu : 0x7fu >> size) : src[i + k] & 0x3fu;
      least = least << 6 | bits;
      most = most << 6 | (i + k < n ? bits : 0x3fu);
    }
    if (most < LEAST[size] || least > 0x10ffff || (least >= 0xd800 && most <= 0xdfff)) return -1;
    if (i + size > n) return 0;
    i += size;
  }
  return 1;
}

#endif
