/* Names, addresses and lists: code that goes word by word agrees with plain loops, and addresses with the C library. */
#include "ascii.h"

#include <arpa/inet.h>
#include <strings.h>

#include "head.h"
#include "target.h"

/* Names in any case, as a request may have the known ones. */
static void names(const char *src, size_t n) {
  char *lower = exactly(src, n);
  int is_name = th_field_name_lower(src, n, lower) >= 0;
  EXPECT(is_name == (n == 0 || th_is_token(src, n)));
  memcpy(lower, src, n);
  for (size_t i = 0; i < n; i++) lower[i] = (char)(lower[i] >= 'A' && lower[i] <= 'Z' ? lower[i] + 32 : lower[i]);
  EXPECT(th_equals_lower(src, lower, n));
  for (size_t i = 0; i < n; i++) { /* one bit is enough to differ */
    lower[i] ^= (char)(1 << (i & 7));
    EXPECT(!th_equals_lower(src, lower, n));
    lower[i] ^= (char)(1 << (i & 7));
  }
  int known = TH_FIELD_OTHER;
  for (int id = 0; id < th_field_count(); id++) {
    if (strlen(th_field_name(id)) == n && memcmp(lower, th_field_name(id), n) == 0) known = id;
  }
  EXPECT(th_field_lookup(src, n) == known);
  free(lower);
}

static void addresses(const char *src, size_t n) {
  char text[64];
  uint8_t address[16];
  if (n >= sizeof text || memchr(src, 0, n) != NULL) {
    EXPECT(!th_is_ipv4(src, n) && !th_is_ipv6(src, n));
    return;
  }
  memcpy(text, src, n);
  text[n] = 0;
  EXPECT(th_is_ipv4(src, n) == inet_pton(AF_INET, text, address));
  EXPECT(th_is_ipv6(src, n) == inet_pton(AF_INET6, text, address));
}

/* Host and port: no byte in it could end the host or begin a path. */
static void host(const char *src, size_t n) {
  if (!th_is_host(src, n)) return;
  EXPECT(n > 0 && src[0] != ':');
  for (size_t i = 0; i < n; i++) EXPECT(src[i] > ' ' && src[i] < 0x7f && strchr("\"#/<>?@\\^`{|}", src[i]) == NULL);
  const char *colon = memrchr(src, ':', n);
  const char *bracket = memrchr(src, ']', n);
  if (colon == NULL || (bracket != NULL && bracket > colon)) return;
  unsigned long port = 0;
  for (const char *at = colon + 1; at < src + n; at++) {
    EXPECT(*at >= '0' && *at <= '9');
    port = port * 10 + (unsigned long)(*at - '0');
    EXPECT(port <= 65535);
  }
}

static void percent(const char *src, size_t n) {
  char *decoded = exactly(src, n);
  int size = th_percent_decode(src, n, decoded);
  size_t at = 0;
  size_t i = 0;
  for (; i < n; i++, at++) {
    char c = src[i];
    if (c == '%') {
      char digits[3] = {i + 1 < n ? src[i + 1] : 'x', i + 2 < n ? src[i + 2] : 'x', 0};
      if (strspn(digits, "0123456789abcdefABCDEF") != 2) break;
      c = (char)strtoul(digits, NULL, 16);
      i += 2;
    }
    EXPECT(size < 0 || decoded[at] == c);
  }
  EXPECT(i >= n ? size == (int)at : size == TH_ETARGET);
  free(decoded);
}

static void list(const char *src, size_t n) {
  size_t pos = 0;
  size_t before = 0;
  th_slice element;
  while (th_list_next(src, n, &pos, &element)) {
    EXPECT(element.length > 0 && element.offset >= before && element.offset + element.length <= pos && pos <= n);
    EXPECT(memchr(src + element.offset, ',', element.length) == NULL);
    for (size_t i = before; i < pos; i++) { /* only blanks and commas are skipped */
      if (i - element.offset < element.length) continue;
      EXPECT(src[i] == ' ' || src[i] == '\t' || src[i] == ',');
    }
    before = pos;
  }
  EXPECT(pos == n);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  if (size == 0) return 0;
  size_t n = size - 1;
  char *data = exactly((const char *)input + 1, n);
  names(data, n);
  addresses(data, n);
  host(data, n);
  percent(data, n);
  list(data, n);
  free(data);
  return 0;
}
