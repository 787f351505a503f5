#include "escape.h"

#include <string.h>

#include "utf8.h"

/* Most bytes of output per byte of input; the 4 bytes of a character outside the BMP become 12. */
enum { LONGEST_ESCAPED = 4, LONGEST_JSON = 6 };

static const char DIGITS[] = "0123456789abcdef";

static int is_plain(unsigned char c) { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\'; }

static size_t plain_run(const char *src, size_t n) {
  size_t i = 0;
  while (i < n && is_plain((unsigned char)src[i])) i++;
  return i;
}

/* Makes room for n bytes of input, each of which may become `times` bytes. */
static int reserve_times(th_buffer *buffer, size_t n, size_t times) {
  if (n > SIZE_MAX / 16) return TH_ENOMEM;
  return th_buffer_reserve(buffer, n * times);
}

int th_append_escaped(th_buffer *buffer, const char *src, size_t n) {
  if (n == 0) return TH_OK;
  int status = reserve_times(buffer, n, LONGEST_ESCAPED);
  if (status < 0) return status;
  char *dst = buffer->data + buffer->length;
  size_t i = 0;
  for (;;) {
    size_t run = plain_run(src + i, n - i);
    memcpy(dst, src + i, run);
    dst += run;
    i += run;
    if (i == n) break;
    unsigned char c = (unsigned char)src[i++];
    *dst++ = '\\';
    if (c == '"' || c == '\\') {
      *dst++ = (char)c;
    } else {
      *dst++ = 'x';
      *dst++ = DIGITS[c >> 4];
      *dst++ = DIGITS[c & 15];
    }
  }
  buffer->length = (size_t)(dst - buffer->data);
  return TH_OK;
}

static char *write_unit(char *dst, uint32_t unit) {
  *dst++ = '\\';
  *dst++ = 'u';
  for (int shift = 12; shift >= 0; shift -= 4) *dst++ = DIGITS[(unit >> shift) & 15];
  return dst;
}

/* Reads the character at src, which is valid UTF-8 and not ASCII; returns its length. */
static size_t read_character(const char *src, uint32_t *character) {
  unsigned char first = (unsigned char)src[0];
  size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  uint32_t value = first & (0x7fu >> length);
  for (size_t i = 1; i < length; i++) value = value << 6 | ((unsigned char)src[i] & 0x3fu);
  *character = value;
  return length;
}

int th_append_json(th_buffer *buffer, const char *src, size_t n) {
  if (n == 0) return TH_OK;
  int status = reserve_times(buffer, n, LONGEST_JSON);
  if (status < 0) return status;
  th_utf8 state;
  memset(&state, 0, sizeof state);
  int is_utf8 = th_utf8_check(&state, src, n) == TH_OK && state.left == 0;
  char *dst = buffer->data + buffer->length;
  size_t i = 0;
  for (;;) {
    size_t run = plain_run(src + i, n - i);
    memcpy(dst, src + i, run);
    dst += run;
    i += run;
    if (i == n) break;
    unsigned char c = (unsigned char)src[i];
    if (c == '"' || c == '\\') {
      *dst++ = '\\';
      *dst++ = (char)c;
      i++;
    } else if (c < 0x80 || !is_utf8) {
      dst = write_unit(dst, c);
      i++;
    } else {
      uint32_t character;
      i += read_character(src + i, &character);
      if (character >= 0x10000) {
        character -= 0x10000;
        dst = write_unit(dst, 0xd800 | character >> 10);
        character = 0xdc00 | (character & 0x3ff);
      }
      dst = write_unit(dst, character);
    }
  }
  buffer->length = (size_t)(dst - buffer->data);
  return TH_OK;
}
