/* Masking of WebSocket payloads, RFC 6455 section 5.3. Unmasking is the same operation. */
#ifndef TH_MASK_H
#define TH_MASK_H

#include "base.h"

/* dst[i] = src[i] ^ key[(phase + i) % 4] for src[0..n); key has 4 bytes, dst may equal src. Uses SIMD where
 * available. */
void th_mask(char *dst, const char *src, size_t n, const char *key, size_t phase);
/* The same byte by byte; the reference for tests of th_mask. */
void th_mask_scalar(char *dst, const char *src, size_t n, const char *key, size_t phase);

#endif
