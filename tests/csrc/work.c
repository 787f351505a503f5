/* Counts the work of the parsers on bytes from standard input: basic blocks executed, which the compiler counts
 * (-fsanitize-coverage=trace-pc), and bytes moved or searched by the C library. Unlike times, they repeat exactly.
 *
 *     work http1|ws|deflate|proxy|again STEP
 *
 * feeds STEP bytes at a time and prints the count, or the th_status that refused them. "again" parses each prefix of
 * the input from its start, which none of our parsers may do; it shows that the test would notice. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

#include "http1.h"
#include "proxy.h"
#include "websocket.h"

enum { INPUT_MAX = 1 << 20 };

static uint64_t work;

void __sanitizer_cov_trace_pc(void);
void __sanitizer_cov_trace_pc(void) { work++; }

/* The linker's option --wrap directs every call here. */
#define WRAPPED(result, name, parameters, arguments, bytes) \
  result __real_##name parameters;                          \
  result __wrap_##name parameters;                          \
  result __wrap_##name parameters {                         \
    work += (bytes);                                        \
    return __real_##name arguments;                         \
  }
WRAPPED(void *, memcpy, (void *dst, const void *src, size_t n), (dst, src, n), n)
WRAPPED(void *, memmove, (void *dst, const void *src, size_t n), (dst, src, n), n)
WRAPPED(void *, memset, (void *dst, int c, size_t n), (dst, c, n), n)
WRAPPED(void *, memchr, (const void *src, int c, size_t n), (src, c, n), n)
WRAPPED(int, memcmp, (const void *a, const void *b, size_t n), (a, b, n), n)
WRAPPED(size_t, strlen, (const char *text), (text), __real_strlen(text))
WRAPPED(void *, realloc, (void *old, size_t n), (old, n), old == NULL ? 0 : malloc_usable_size(old))

static int read_http1(const char *data, size_t n, size_t step) {
  th_http1_limits limits = {UINT32_MAX / 4, UINT32_MAX / 4, UINT32_MAX / 4, 0};
  th_http1 http1;
  int event = 0;
  th_http1_init(&http1, &limits);
  for (size_t i = 0; i < n && event >= 0; i += step) {
    th_http1_feed(&http1, data + i, n - i < step ? n - i : step);
    do event = th_http1_next(&http1);
    while (event > 0);
  }
  th_http1_free(&http1);
  return event;
}

static int read_ws(const char *data, size_t n, size_t step, int deflates) {
  th_ws ws;
  int event = 0;
  th_ws_init(&ws, INPUT_MAX);
  ws.deflates = (uint8_t)deflates;
  ws.inflater.bits = 15;
  for (size_t i = 0; i < n && event >= 0; i += step) {
    th_ws_feed(&ws, data + i, n - i < step ? n - i : step);
    do event = th_ws_next(&ws);
    while (event > 0);
  }
  th_ws_free(&ws);
  return event;
}

/* As in protocol/proxy.py: each piece makes it read all bytes so far again. */
static int read_proxy(const char *data, size_t n, size_t step) {
  th_proxy proxy;
  int status = 0;
  for (size_t i = step; i <= n && status == 0; i += step) status = th_proxy_read(data, i, &proxy);
  return status < 0 ? status : 0;
}

static int read_again(const char *data, size_t n, size_t step) {
  int event = 0;
  for (size_t i = step; i <= n && event >= 0; i += step) event = read_http1(data, i, i);
  return event;
}

int main(int argc, char **argv) {
  static char data[INPUT_MAX];
  if (argc != 3) return 2;
  size_t n = fread(data, 1, sizeof data, stdin);
  size_t step = strtoul(argv[2], NULL, 10);
  char kind = argv[1][0];
  work = 0;
  int status = kind == 'h'   ? read_http1(data, n, step)
               : kind == 'p' ? read_proxy(data, n, step)
               : kind == 'a' ? read_again(data, n, step)
                             : read_ws(data, n, step, kind == 'd');
  printf("%lld\n", status < 0 ? (long long)status : (long long)work);
  return 0;
}
