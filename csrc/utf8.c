#include "utf8.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#else
#include <string.h>
#endif

enum { BLOCK = 16 };

/* Checks one byte by the ranges of RFC 3629 section 4: no overlong forms, no surrogates, nothing above U+10FFFF. */
static inline int step(th_utf8 *state, uint8_t byte) {
  if (state->left > 0) {
    if (byte < state->low || byte > state->high) return TH_EUTF8;
    state->left--;
    state->low = 0x80;
    state->high = 0xbf;
    return TH_OK;
  }
  if (byte < 0x80) return TH_OK;
  state->wide = 1;
  state->low = 0x80;
  state->high = 0xbf;
  if (byte >= 0xc2 && byte <= 0xdf) {
    state->left = 1;
  } else if (byte >= 0xe0 && byte <= 0xef) {
    state->left = 2;
    if (byte == 0xe0) state->low = 0xa0;
    if (byte == 0xed) state->high = 0x9f;
  } else if (byte >= 0xf0 && byte <= 0xf4) {
    state->left = 3;
    if (byte == 0xf0) state->low = 0x90;
    if (byte == 0xf4) state->high = 0x8f;
  } else {
    return TH_EUTF8;
  }
  return TH_OK;
}

int th_utf8_check_scalar(th_utf8 *state, const char *src, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (step(state, (uint8_t)src[i]) < 0) return TH_EUTF8;
  }
  return TH_OK;
}

/* 1 if src[0..BLOCK) is ASCII. */
static inline int is_ascii_block(const char *src) {
#if defined(__SSE2__)
  return _mm_movemask_epi8(_mm_loadu_si128((const __m128i *)(const void *)src)) == 0;
#elif defined(__ARM_NEON)
  uint64x2_t block = vreinterpretq_u64_u8(vld1q_u8((const uint8_t *)src));
  return ((vgetq_lane_u64(block, 0) | vgetq_lane_u64(block, 1)) & UINT64_C(0x8080808080808080)) == 0;
#else
  uint64_t block[2];
  memcpy(block, src, sizeof block);
  return ((block[0] | block[1]) & UINT64_C(0x8080808080808080)) == 0;
#endif
}

int th_utf8_check(th_utf8 *state, const char *src, size_t n) {
  size_t i = 0;
  while (i < n) {
    if (state->left == 0) {
      while (n - i >= BLOCK && is_ascii_block(src + i)) i += BLOCK;
      if (i == n) break;
    }
    /* Byte by byte for one block, then look for ASCII blocks again. */
    size_t stop = n - i > BLOCK ? i + BLOCK : n;
    if (th_utf8_check_scalar(state, src + i, stop - i) < 0) return TH_EUTF8;
    i = stop;
  }
  return TH_OK;
}
