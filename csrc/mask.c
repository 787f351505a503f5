#include "mask.h"

#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

void th_mask_scalar(char *dst, const char *src, size_t n, const char *key, size_t phase) {
  for (size_t i = 0; i < n; i++) dst[i] = (char)(src[i] ^ key[(phase + i) & 3]);
}

enum { BLOCK = 16 };

void th_mask(char *dst, const char *src, size_t n, const char *key, size_t phase) {
  size_t i = 0;
  if (n >= BLOCK) {
    char repeated[BLOCK];
    for (size_t k = 0; k < BLOCK; k++) repeated[k] = key[(phase + k) & 3];
#if defined(__SSE2__)
    const __m128i keys = _mm_loadu_si128((const __m128i *)(const void *)repeated);
    for (; i + BLOCK <= n; i += BLOCK) {
      __m128i block = _mm_loadu_si128((const __m128i *)(const void *)(src + i));
      _mm_storeu_si128((__m128i *)(void *)(dst + i), _mm_xor_si128(block, keys));
    }
#elif defined(__ARM_NEON)
    const uint8x16_t keys = vld1q_u8((const uint8_t *)repeated);
    for (; i + BLOCK <= n; i += BLOCK) {
      vst1q_u8((uint8_t *)dst + i, veorq_u8(vld1q_u8((const uint8_t *)src + i), keys));
    }
#else
    uint64_t keys;
    memcpy(&keys, repeated, sizeof keys);
    for (; i + sizeof keys <= n; i += sizeof keys) {
      uint64_t word;
      memcpy(&word, src + i, sizeof word);
      word ^= keys;
      memcpy(dst + i, &word, sizeof word);
    }
#endif
  }
  /* i is a multiple of 4, so the phase is still right. */
  th_mask_scalar(dst + i, src + i, n - i, key, phase);
}
