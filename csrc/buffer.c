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

static int append_number(th_buffer *buffer, uint64_t value, unsigned base) {
  char digits[LONGEST_NUMBER];
  size_t start = sizeof digits;
  do {
    digits[--start] = "0123456789abcdef"[value % base];
    value /= base;
  } while (value != 0);
  return th_buffer_append(buffer, digits + start, sizeof digits - start);
}

int th_buffer_append_decimal(th_buffer *buffer, uint64_t value) { return append_number(buffer, value, 10); }

int th_buffer_append_hex(th_buffer *buffer, uint64_t value) { return append_number(buffer, value, 16); }
