/* Functions on plain bytes: SIMD agrees with loops, and no forbidden byte gets into a log or a head. */
#include <errno.h>

#include "ascii.h"
#include "chunk.h"
#include "escape.h"
#include "mask.h"
#include "response.h"
#include "target.h"
#include "utf8.h"

static void mask(const char *data, size_t n, size_t phase) {
  static const char key[] = {'\x37', '\xfa', '\x21', '\x3d'};
  char *fast = exactly(data, n);
  char *slow = exactly(data, n);
  th_mask(fast, fast, n, key, phase);
  th_mask_scalar(slow, slow, n, key, phase);
  EXPECT(memcmp(fast, slow, n) == 0);
  th_mask(fast, fast, n, key, phase);
  EXPECT(memcmp(fast, data, n) == 0);
  free(fast);
  free(slow);
}

static void utf8(const char *data, size_t n) {
  for (enum cut cut = WHOLE; cut < CUTS; cut++) {
    knife blade = knife_for(cut, data, n);
    th_utf8 fast = {0, 0, 0, 0};
    th_utf8 slow = {0, 0, 0, 0};
    int status = th_utf8_check_scalar(&slow, data, n);
    int found = TH_OK;
    for (size_t at = 0; at < n && found == TH_OK;) {
      size_t size = next_piece(&blade, n - at);
      char *piece = exactly(data + at, size);
      found = th_utf8_check(&fast, piece, size);
      at += size;
      free(piece);
    }
    int verdict = is_utf8((const uint8_t *)data, n);
    EXPECT(found == status && (status == TH_OK) == (verdict >= 0));
    EXPECT(status != TH_OK || (fast.left == 0) == (verdict == 1));
    EXPECT(status != TH_OK || (fast.left == slow.left && fast.wide == slow.wide));
  }
}

static void escape(const char *data, size_t n) {
  th_buffer line;
  th_buffer json;
  th_buffer_init(&line);
  th_buffer_init(&json);
  EXPECT(th_append_escaped(&line, data, n) == TH_OK && line.length >= n);
  EXPECT(th_append_json(&json, data, n) == TH_OK);
  for (size_t i = 0; i < line.length; i++) EXPECT(line.data[i] >= ' ' && line.data[i] <= '~');
  for (size_t i = 0; i < json.length; i++) EXPECT(json.data[i] >= ' ' && json.data[i] <= '~');
  for (size_t i = 0; i < json.length; i++) {
    EXPECT(json.data[i] != '"');
    if (json.data[i] == '\\') i++;
  }
  /* Escaped data can be restored. */
  size_t at = 0;
  for (size_t i = 0; i < n; i++) {
    unsigned char c = (unsigned char)line.data[at++];
    if (c == '\\') {
      c = (unsigned char)line.data[at++];
      if (c == 'x') {
        c = (unsigned char)(th_hex_value(line.data[at]) << 4 | th_hex_value(line.data[at + 1]));
        at += 2;
      }
    }
    EXPECT(c == (unsigned char)data[i]);
  }
  EXPECT(at == line.length);
  th_buffer_free(&line);
  th_buffer_free(&json);
}

/* A field is one line, whatever name and value an application gives. */
static void field(const char *data, size_t n) {
  size_t name = n > 0 ? (uint8_t)data[0] % (n + 1) : 0;
  char *copy = exactly(data, n);
  th_buffer head;
  th_buffer_init(&head);
  int status = th_write_field(&head, copy, name, copy + name, n - name);
  if (status == TH_OK) {
    EXPECT(name > 0 && head.length >= n + 4);
    EXPECT(memcmp(head.data + head.length - 2, "\r\n", 2) == 0);
    EXPECT(memchr(head.data, '\n', head.length - 1) == NULL && memchr(head.data, '\r', head.length - 2) == NULL);
    EXPECT(memchr(head.data, 0, head.length) == NULL);
    EXPECT(memchr(head.data, ':', name) == NULL);
  } else {
    EXPECT(status == TH_EFIELD_NAME || status == TH_EFIELD_VALUE);
    EXPECT(head.length == 0);
  }
  th_buffer_free(&head);
  free(copy);
}

static void content_length(const char *data, size_t n) {
  uint64_t length = 0;
  char *copy = exactly(data, n);
  if (th_read_content_length(copy, n, &length) == TH_OK) {
    char text[32];
    size_t zeros = 0;
    EXPECT(n > 0);
    while (zeros + 1 < n && data[zeros] == '0') zeros++;
    int size = snprintf(text, sizeof text, "%llu", (unsigned long long)length);
    EXPECT((size_t)size == n - zeros && memcmp(text, data + zeros, n - zeros) == 0);
  }
  free(copy);
}

static void chunk_line(const char *data, size_t n) {
  th_chunk whole;
  size_t end = 0;
  th_chunk_first(&whole);
  int verdict = th_chunk_read(&whole, data, n, &end);
  EXPECT(end <= n && (verdict != TH_OK || end == n));
  if (verdict == TH_CHUNK_LINE) {
    char *line = exactly(data, end);
    char *behind;
    line[end - 1] = 0; /* its LF */
    errno = 0;
    EXPECT(strtoull(line, &behind, 16) == whole.size && errno == 0);
    EXPECT(behind > line && strchr(";\r \t", *behind) != NULL && line[end - 2] == '\r');
    EXPECT(*behind == '\r' ? behind == line + end - 2 : strchr(behind, ';') != NULL);
    free(line);
  }
  for (enum cut cut = BYTEWISE; cut < CUTS; cut++) {
    knife blade = knife_for(cut, data, n);
    th_chunk chunk;
    int status = TH_OK;
    size_t at = 0;
    th_chunk_first(&chunk);
    while (at < n && status == TH_OK) {
      size_t size = next_piece(&blade, n - at);
      size_t read = 0;
      char *piece = exactly(data + at, size);
      status = th_chunk_read(&chunk, piece, size, &read);
      at += read;
      free(piece);
    }
    EXPECT(n == 0 || (status == verdict && at == end));
    EXPECT(verdict != TH_CHUNK_LINE || chunk.size == whole.size);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  if (size == 0) return 0;
  const char *data = (const char *)input + 1;
  size_t n = size - 1;
  mask(data, n, input[0] & 3);
  utf8(data, n);
  escape(data, n);
  field(data, n);
  content_length(data, n);
  chunk_line(data, n);
  return 0;
}
