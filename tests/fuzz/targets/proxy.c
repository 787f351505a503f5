/* The PROXY protocol's head: each prefix of the bytes has the verdict of the whole, or none yet; a head written from
 * the result is the one that was read. */
#include "proxy.h"

#include <arpa/inet.h>

#include "target.h"

enum { LONGEST = 2 * TH_PROXY_HEAD_MAX, FIXED = 16, UNIX_PATH = 108 };

/* Section 2.1. */
static void check_line(const char *src, int size, const th_proxy *proxy) {
  char line[256];
  char text[2][64];
  uint8_t address[16];
  const th_slice *ends[] = {&proxy->source, &proxy->destination};
  EXPECT(size <= TH_PROXY_LINE_MAX && memcmp(src + size - 2, "\r\n", 2) == 0);
  if (proxy->family == TH_PROXY_NONE) {
    EXPECT(memcmp(src, "PROXY UNKNOWN", 13) == 0 && (src[13] == ' ' || src[13] == '\r'));
    return;
  }
  EXPECT(proxy->family == TH_PROXY_IPV4 || proxy->family == TH_PROXY_IPV6);
  for (int i = 0; i < 2; i++) {
    EXPECT(ends[i]->length < sizeof text[i]);
    memcpy(text[i], src + ends[i]->offset, ends[i]->length);
    text[i][ends[i]->length] = 0;
    EXPECT(inet_pton(proxy->family == TH_PROXY_IPV4 ? AF_INET : AF_INET6, text[i], address) == 1);
  }
  int n = snprintf(line, sizeof line, "PROXY TCP%c %s %s %d %d\r\n", proxy->family == TH_PROXY_IPV4 ? '4' : '6', text[0],
                   text[1], proxy->source_port, proxy->destination_port);
  EXPECT(n == size && memcmp(line, src, (size_t)n) == 0);
}

static uint32_t number(const uint8_t *src, int size) {
  uint32_t value = 0;
  for (int i = 0; i < size; i++) value = value << 8 | src[i];
  return value;
}

/* TLVs by section 2.2: they must fill src[0..n), and contain what is in `proxy`. */
static void check_tlvs(const uint8_t *head, const uint8_t *src, size_t n, const th_proxy *proxy, int within_tls) {
  const th_slice *texts[] = {&proxy->tls_version, &proxy->tls_name, &proxy->tls_cipher};
  int seen[256] = {0};
  while (n > 0) {
    EXPECT(n >= 3);
    uint8_t type = src[0];
    size_t length = number(src + 1, 2);
    EXPECT(n - 3 >= length);
    seen[type]++;
    if (within_tls && type >= 0x21 && type <= 0x23) {
      EXPECT(texts[type - 0x21]->length == length && head + texts[type - 0x21]->offset == src + 3);
    } else if (!within_tls && type == 0x20) {
      EXPECT(length >= 5 && proxy->tls == (src[3] & 7) && proxy->tls_verify == number(src + 4, 4));
      check_tlvs(head, src + 8, length - 5, proxy, 1);
    }
    src += 3 + length;
    n -= 3 + length;
  }
  for (int type = 0x21; within_tls && type <= 0x23; type++)
    EXPECT(seen[type] <= 1 && (seen[type] == 1 || texts[type - 0x21]->offset == 0));
  if (!within_tls) EXPECT(seen[0x20] <= 1 && seen[0x03] <= 1 && (seen[0x20] == 1 || proxy->tls == 0));
}

/* Section 2.2. */
static void check_binary(const uint8_t *src, int size, const th_proxy *proxy) {
  static const uint32_t SIZES[] = {0, 4, 16, UNIX_PATH};
  uint32_t each = SIZES[proxy->family];
  EXPECT(memcmp(src, "\r\n\r\n\0\r\nQUIT\n", 12) == 0 && (src[12] == 0x20 || src[12] == 0x21));
  EXPECT(size == FIXED + src[14] * 256 + src[15]);
  EXPECT(proxy->family == (src[12] == 0x20 ? 0 : src[13] >> 4));
  if (proxy->family == TH_PROXY_NONE) {
    EXPECT(proxy->tls == 0);
    return;
  }
  int addresses = FIXED + 2 * (int)each + (proxy->family == TH_PROXY_UNIX ? 0 : 4);
  check_tlvs(src, src + addresses, (size_t)(size - addresses), proxy, 0);
  EXPECT(proxy->source.offset == FIXED && proxy->destination.offset == FIXED + each);
  if (proxy->family == TH_PROXY_UNIX) {
    EXPECT(proxy->source.length == strnlen((const char *)src + FIXED, UNIX_PATH));
    EXPECT(proxy->destination.length == strnlen((const char *)src + FIXED + UNIX_PATH, UNIX_PATH));
    return;
  }
  const uint8_t *ports = src + FIXED + 2 * each;
  EXPECT(proxy->source.length == each && proxy->destination.length == each);
  EXPECT(proxy->source_port == ports[0] * 256 + ports[1] && proxy->destination_port == ports[2] * 256 + ports[3]);
}

static int read_head(const char *data, size_t n, th_proxy *proxy) {
  char *copy = exactly(data, n);
  memset(proxy, 0, sizeof *proxy);
  int found = th_proxy_read(copy, n, proxy);
  EXPECT(found <= (int)n);
  EXPECT(found != 0 || n < TH_PROXY_HEAD_MAX);
  EXPECT(found >= 0 || found == TH_EPROXY || found == TH_EPROXY_SIZE);
  if (found > 0) {
    EXPECT(found <= TH_PROXY_HEAD_MAX && proxy->family <= TH_PROXY_UNIX);
    EXPECT(proxy->source.offset + proxy->source.length <= (uint32_t)found);
    EXPECT(proxy->destination.offset + proxy->destination.length <= (uint32_t)found);
    EXPECT(proxy->version == 1 || proxy->version == 2);
    if (proxy->version == 1) {
      check_line(copy, found, proxy);
    } else {
      check_binary((const uint8_t *)copy, found, proxy);
    }
  }
  free(copy);
  return found;
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  if (size == 0 || size > LONGEST) return 0;
  const char *data = (const char *)input + 1;
  size_t n = size - 1;
  th_proxy whole;
  th_proxy part;
  int verdict = read_head(data, n, &whole);
  /* Each prefix of a short input; some of a long one, and those around the end of its head. */
  size_t step = n > 600 ? 37 : 1;
  for (size_t i = 0; i < n; i += step) {
    int found = read_head(data, i, &part);
    EXPECT(found == 0 || found == verdict);
    EXPECT(found <= 0 || memcmp(&part, &whole, sizeof part) == 0);
  }
  if (verdict > 0) {
    EXPECT(read_head(data, (size_t)verdict - 1, &part) == 0);
    EXPECT(read_head(data, (size_t)verdict, &part) == verdict);
  }
  if (verdict == TH_EPROXY_SIZE) {
    /* Only for a line without an end, or for a length over the limit. */
    int is_line = data[0] == 'P';
    EXPECT(is_line ? n >= TH_PROXY_LINE_MAX && memchr(data, '\n', TH_PROXY_LINE_MAX) == NULL
                   : (uint8_t)data[14] * 256 + (uint8_t)data[15] > TH_PROXY_HEAD_MAX - FIXED);
  }
  return 0;
}
