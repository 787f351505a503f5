/* The PROXY protocol's head: each beginning of the bytes has the verdict of the whole, or none yet. */
#include "proxy.h"
#include "target.h"

enum { LONGEST = 2 * TH_PROXY_HEAD_MAX };

static int read_head(const char *data, size_t n, th_proxy *proxy) {
  char *copy = exactly(data, n);
  memset(proxy, 0, sizeof *proxy);
  int found = th_proxy_read(copy, n, proxy);
  EXPECT(found <= (int)n);
  EXPECT(found != 0 || n < TH_PROXY_HEAD_MAX);
  EXPECT(found >= 0 || found == TH_EPROXY || found == TH_EPROXY_SIZE);
  if (found > 0) {
    EXPECT(found <= (proxy->version == 1 ? TH_PROXY_LINE_MAX : TH_PROXY_HEAD_MAX));
    EXPECT(proxy->version == 1 || proxy->version == 2);
    EXPECT(proxy->family <= TH_PROXY_UNIX);
    if (proxy->family != TH_PROXY_NONE) {
      EXPECT(proxy->source.offset + proxy->source.length <= (uint32_t)found);
      EXPECT(proxy->destination.offset + proxy->destination.length <= (uint32_t)found);
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
  /* Each beginning of a short one; of a long one those around its head's end, too. */
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
  return 0;
}
