/* A growable byte buffer: the only place in csrc that allocates. */
#ifndef TH_BUFFER_H
#define TH_BUFFER_H

#include "base.h"

typedef struct {
  char *data;
  size_t length;
  size_t capacity;
} th_buffer;

/* Makes an empty buffer, which holds no memory. */
void th_buffer_init(th_buffer *buffer);
/* Frees the memory; the buffer is empty afterwards and can be used again. */
void th_buffer_free(th_buffer *buffer);
/* Makes room for n more bytes after length, keeping the content. Returns TH_OK or TH_ENOMEM. */
int th_buffer_reserve(th_buffer *buffer, size_t n);
/* Appends src[0..n). Returns TH_OK, or TH_ENOMEM with nothing appended. */
int th_buffer_append(th_buffer *buffer, const char *src, size_t n);
/* Append value in decimal, or in lower-case hexadecimal. Same results. */
int th_buffer_append_decimal(th_buffer *buffer, uint64_t value);
int th_buffer_append_hex(th_buffer *buffer, uint64_t value);

#endif
