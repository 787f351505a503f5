#include "ascii.h"

#include <string.h>

/* Bits of a byte's class. */
enum {
  TCHAR = 1,   /* RFC 9110 section 5.6.2 */
  VALUE = 2,   /* RFC 9110 section 5.5: VCHAR, obs-text, SP, HTAB */
  REGNAME = 4, /* RFC 3986 section 3.2.2: unreserved and sub-delims; % is checked separately */
  HEX = 8,
  DIGIT = 16
};

/* Combinations of the classes: digits, hexadecimal letters, other letters and so on. A row of the table is 16 bytes. */
#define DG (TCHAR | VALUE | REGNAME | HEX | DIGIT)
#define HX (TCHAR | VALUE | REGNAME | HEX)
#define LT (TCHAR | VALUE | REGNAME)
#define TV (TCHAR | VALUE)
#define VR (VALUE | REGNAME)
#define VL VALUE
static const uint8_t CLASS[256] = {
    /* 0x00 */ 0, 0, 0, 0, 0, 0, 0, 0, 0, VL, 0, 0, 0, 0, 0, 0,
    /* 0x10 */ 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    /*  !"#$%&'()*+,-./ */ VL, LT, VL, TV, LT, TV, LT, LT, VR, VR, LT, LT, VR, LT, LT, VL,
    /* 0-9:;<=>? */ DG, DG, DG, DG, DG, DG, DG, DG, DG, DG, VL, VR, VL, VR, VL, VL,
    /* @A-O */ VL, HX, HX, HX, HX, HX, HX, LT, LT, LT, LT, LT, LT, LT, LT, LT,
    /* P-Z[\]^_ */ LT, LT, LT, LT, LT, LT, LT, LT, LT, LT, LT, VL, VL, VL, TV, LT,
    /* `a-o */ TV, HX, HX, HX, HX, HX, HX, LT, LT, LT, LT, LT, LT, LT, LT, LT,
    /* p-z{|}~ */ LT, LT, LT, LT, LT, LT, LT, LT, LT, LT, LT, VL, TV, VL, LT, 0,
    /* 0x80, obs-text */ VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL,
    VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL,
    VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL,
    VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL,
    VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL,
    VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL,
    VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL,
    VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL, VL,
};

static uint8_t class_of(char c) { return CLASS[(unsigned char)c]; }

static char lower(char c) { return (c >= 'A' && c <= 'Z') ? (char)(c | 0x20) : c; }

int th_hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = lower(c);
  return (c >= 'a' && c <= 'f') ? c - 'a' + 10 : -1;
}

int th_is_token(const char *src, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (!(class_of(src[i]) & TCHAR)) return 0;
  }
  return n > 0;
}

int th_is_field_value(const char *src, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (!(class_of(src[i]) & VALUE)) return 0;
  }
  return 1;
}

int th_is_visible(const char *src, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (src[i] <= ' ' || src[i] == 0x7f) return 0; /* if char is signed, obs-text is below ' ' */
    if ((unsigned char)src[i] >= 0x80) return 0;
  }
  return 1;
}

int th_field_name_lower(const char *src, size_t n, char *dst) {
  for (size_t i = 0; i < n; i++) {
    if (!(class_of(src[i]) & TCHAR)) return TH_EFIELD_NAME;
    dst[i] = lower(src[i]);
  }
  return (int)n;
}

/* lower() for eight bytes at once. In each byte, bit 7 of from_a says whether the other bits are at least 'A', and bit
 * 7 of above_z whether they are above 'Z'. */
static uint64_t lower_word(uint64_t word) {
  const uint64_t each = 0x0101010101010101u;
  uint64_t low = word & (0x7f * each);
  uint64_t from_a = low + (0x80 - 'A') * each;
  uint64_t above_z = low + (0x7f - 'Z') * each;
  uint64_t upper = (from_a ^ above_z) & ~word & (0x80 * each);
  return word | upper >> 2;
}

int th_equals_lower(const char *a, const char *b, size_t n) {
  uint64_t x, y;
  if (n < sizeof x) {
    for (size_t i = 0; i < n; i++) {
      if (lower(a[i]) != b[i]) return 0;
    }
    return 1;
  }
  for (size_t i = 0; i < n; i += sizeof x) {
    size_t at = i < n - sizeof x ? i : n - sizeof x; /* the last word may overlap the one before */
    memcpy(&x, a + at, sizeof x);
    memcpy(&y, b + at, sizeof y);
    if (lower_word(x) != y) return 0;
  }
  return 1;
}

int th_percent_decode(const char *src, size_t n, char *dst) {
  size_t written = 0;
  for (size_t i = 0; i < n; i++) {
    if (src[i] != '%') {
      dst[written++] = src[i];
      continue;
    }
    if (n - i < 3) return TH_ETARGET;
    int high = th_hex_value(src[i + 1]);
    int low = th_hex_value(src[i + 2]);
    if (high < 0 || low < 0) return TH_ETARGET;
    dst[written++] = (char)(high << 4 | low);
    i += 2;
  }
  return (int)written;
}

int th_is_ipv4(const char *src, size_t n) {
  int parts = 0;
  size_t i = 0;
  for (;;) {
    int value = 0;
    size_t start = i;
    while (i < n && (class_of(src[i]) & DIGIT) && i - start < 3) value = value * 10 + (src[i++] - '0');
    size_t digits = i - start;
    if (digits == 0 || value > 255 || (digits > 1 && src[start] == '0')) return 0;
    if (++parts == 4) return i == n;
    if (i == n || src[i++] != '.') return 0;
  }
}

int th_is_ipv6(const char *src, size_t n) {
  int groups = 0;
  int elided = 0;
  size_t i = 0;
  if (n >= 2 && src[0] == ':' && src[1] == ':') {
    elided = 1;
    i = 2;
  }
  while (i < n) {
    size_t start = i;
    while (i < n && (class_of(src[i]) & HEX)) i++;
    if (i < n && src[i] == '.') {
      groups += 2;
      return th_is_ipv4(src + start, n - start) && (elided ? groups < 8 : groups == 8);
    }
    if (i == start || i - start > 4) return 0;
    groups++;
    if (i == n) break;
    if (src[i++] != ':') return 0;
    if (i < n && src[i] == ':') {
      if (elided) return 0;
      elided = 1;
      i++;
    } else if (i == n) {
      return 0; /* a single colon at the end */
    }
  }
  return elided ? groups < 8 : groups == 8;
}

/* RFC 3986 section 3.2.2: "v" 1*HEXDIG "." 1*( unreserved / sub-delims / ":" ). */
static int is_ip_future(const char *src, size_t n) {
  size_t i = 1;
  if (n == 0 || lower(src[0]) != 'v') return 0;
  while (i < n && (class_of(src[i]) & HEX)) i++;
  if (i == 1 || i + 1 >= n || src[i++] != '.') return 0;
  for (; i < n; i++) {
    if (!(class_of(src[i]) & REGNAME) && src[i] != ':') return 0;
  }
  return 1;
}

int th_is_host(const char *src, size_t n) {
  size_t i = 0;
  if (n > 0 && src[0] == '[') {
    const char *close = memchr(src, ']', n);
    if (close == NULL) return 0;
    size_t inner = (size_t)(close - src) - 1;
    if (!th_is_ipv6(src + 1, inner) && !is_ip_future(src + 1, inner)) return 0;
    i = inner + 2;
  } else {
    for (; i < n && src[i] != ':'; i++) {
      if (src[i] == '%') {
        if (n - i < 3 || th_hex_value(src[i + 1]) < 0 || th_hex_value(src[i + 2]) < 0) return 0;
        i += 2;
      } else if (!(class_of(src[i]) & REGNAME)) {
        return 0;
      }
    }
    if (i == 0) return 0;
  }
  if (i == n) return 1;
  if (src[i++] != ':') return 0;
  uint32_t port = 0;
  for (; i < n; i++) {
    if (!(class_of(src[i]) & DIGIT)) return 0;
    port = port * 10 + (uint32_t)(src[i] - '0');
    if (port > 65535) return 0;
  }
  return 1;
}

int th_list_next(const char *src, size_t n, size_t *pos, th_slice *out) {
  size_t i = *pos;
  while (i < n && (th_is_blank(src[i]) || src[i] == ',')) i++;
  if (i == n) {
    *pos = n;
    return 0;
  }
  size_t start = i;
  while (i < n && src[i] != ',') i++;
  *pos = i;
  while (i > start && th_is_blank(src[i - 1])) i--;
  out->offset = (uint32_t)start;
  out->length = (uint32_t)(i - start);
  return 1;
}
