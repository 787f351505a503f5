#include "buffer.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 512, LONGEST_NUMBER = 20 };

void th_buffer_init(th_buffer *buffer) { memset(buffer, 0, sizeof *buffer); }

void th_buffer_free(th_buffer *buffer) {
  free(buffer->data);
  th_buffer_init(buffer);
}

int th_buffer_reserve(th_buffer *buffer, size_t n) {
  if (n <= buffer->capacity - buffer->length) return TH_OK;
  if (n > SIZE_MAX / 2 - buffer->length) return TH_ENOMEM;
  size_t capacity = buffer->capacity ? buffer->capacity * 2 : FIRST_CAPACITY;
  if (capacity < buffer->length + n) capacity = buffer->length + n;
  char *data = realloc(buffer->data, capacity);
  if (data == NULL) return TH_ENOMEM;
  buffer->data = data;
  buffer->capacity = capacity;
  return TH_OK;
}

int th_buffer_append(th_buffer *buffer, const char *src, size_t n) {
  if (n == 0) return TH_OK;
  int status = th_buffer_reserve(buffer, n);
  if (status < 0) return status;
  memcpy(buffer->data + buffer->length, src, n);
  buffer->length += n;
  return TH_OK;
}

int th_buffer_append_decimal(th_buffer *buffer, uint64_t value) {
  char digits[LONGEST_NUMBER];
  size_t start = sizeof digits;
  do {
    digits[--start] = (char)('0' + value % 10);
    value /= 10;
  } while (value != 0);
  return th_buffer_append(buffer, digits + start, sizeof digits - start);
}

int th_buffer_append_hex(th_buffer *buffer, uint64_t value) {
  size_t n = 1;
  for (uint64_t rest = value >> 4; rest != 0; rest >>= 4) n++;
  int status = th_buffer_reserve(buffer, n);
  if (status < 0) return status;
  buffer->length += n;
  for (char *at = buffer->data + buffer->length; n > 0; n--, value >>= 4) *--at = "0123456789abcdef"[value & 15];
  return TH_OK;
}
