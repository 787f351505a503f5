#include "proxy.h"

#include <string.h>

/* Section 2.2: chosen to be the start of neither a version 1 head nor a request in any protocol. */
static const char SIGNATURE[] = "\r\n\r\n\0\r\nQUIT\n";
enum {
  SIGNATURE_SIZE = sizeof SIGNATURE - 1,
  FIXED_SIZE = SIGNATURE_SIZE + 4, /* version and command, family, length */
  IPV4_SIZE = 12,
  IPV6_SIZE = 36,
  UNIX_PATH_SIZE = 108,
  UNIX_SIZE = 2 * UNIX_PATH_SIZE,
  TLV_START_SIZE = 3, /* type and length */
  CRC32C_SIZE = 4,
  TLS_START_SIZE = 5 /* client and verify */
};

/* Section 2.2, types of TLVs; those from TLS_VERSION on are nested in the value of TLS. */
enum {
  TYPE_CRC32C = 0x03,
  TYPE_TLS = 0x20,
  TYPE_TLS_VERSION = 0x21,
  TYPE_TLS_NAME = 0x22,
  TYPE_TLS_CIPHER = 0x23
};

/* --- Version 1, section 2.1 ------------------------------------------------------------------------------------ */

static const char LINE_START[] = "PROXY ";
enum { LINE_START_SIZE = sizeof LINE_START - 1 };

/* Reads the word up to the next blank or the end of the line. Exactly one blank separates words. Returns 1, or 0 for an
 * empty word. */
static int next_word(const char *src, size_t end, size_t *pos, th_slice *word) {
  size_t i = *pos;
  while (i < end && src[i] != ' ') i++;
  word->offset = (uint32_t)*pos;
  word->length = (uint32_t)(i - *pos);
  *pos = i < end ? i + 1 : i;
  return word->length > 0;
}

/* A decimal number up to 65535 without leading zeros. */
static int read_port(const char *src, th_slice word, uint16_t *port) {
  uint32_t value = 0;
  if (word.length > 5 || (word.length > 1 && src[word.offset] == '0')) return 0;
  for (uint32_t i = 0; i < word.length; i++) {
    char c = src[word.offset + i];
    if (c < '0' || c > '9') return 0;
    value = value * 10 + (uint32_t)(c - '0');
  }
  *port = (uint16_t)value;
  return value <= UINT16_MAX;
}

static int is_word(const char *src, th_slice word, const char *text) {
  return word.length == strlen(text) && memcmp(src + word.offset, text, word.length) == 0;
}

/* Reads the line src[0..end), without CRLF; 1 if it is valid. */
static int read_words(const char *src, size_t end, th_proxy *out) {
  size_t pos = LINE_START_SIZE;
  th_slice family, source_port, destination_port;
  if (!next_word(src, end, &pos, &family)) return 0;
  if (is_word(src, family, "UNKNOWN")) return 1; /* the rest must be ignored */
  int (*is_address)(const char *, size_t);
  if (is_word(src, family, "TCP4")) {
    out->family = TH_PROXY_IPV4;
    is_address = th_is_ipv4;
  } else if (is_word(src, family, "TCP6")) {
    out->family = TH_PROXY_IPV6;
    is_address = th_is_ipv6;
  } else {
    return 0;
  }
  return next_word(src, end, &pos, &out->source) && is_address(src + out->source.offset, out->source.length) &&
         next_word(src, end, &pos, &out->destination) &&
         is_address(src + out->destination.offset, out->destination.length) &&
         next_word(src, end, &pos, &source_port) && read_port(src, source_port, &out->source_port) &&
         next_word(src, end, &pos, &destination_port) && read_port(src, destination_port, &out->destination_port) &&
         pos == end && src[end - 1] != ' ';
}

static int read_line(const char *src, size_t n, th_proxy *out) {
  size_t seen = n < TH_PROXY_LINE_MAX ? n : TH_PROXY_LINE_MAX;
  if (memcmp(src, LINE_START, seen < LINE_START_SIZE ? seen : LINE_START_SIZE) != 0) return TH_EPROXY;
  const char *newline = memchr(src, '\n', seen);
  if (newline == NULL) return seen < TH_PROXY_LINE_MAX ? 0 : TH_EPROXY_SIZE;
  size_t end = (size_t)(newline - src);
  if (src[end - 1] != '\r') return TH_EPROXY; /* end > 0: LINE_START matched, and has no newline */
  out->version = 1;
  return read_words(src, end - 1, out) ? (int)end + 1 : TH_EPROXY;
}

/* --- Version 2, section 2.2 ------------------------------------------------------------------------------------ */

static uint16_t read_u16(const char *src) {
  return (uint16_t)((unsigned char)src[0] << 8 | (unsigned char)src[1]);
}

static void read_addresses(const char *src, uint32_t size, th_proxy *out) {
  out->source.offset = FIXED_SIZE;
  out->source.length = size;
  out->destination.offset = FIXED_SIZE + size;
  out->destination.length = size;
  out->source_port = read_u16(src + FIXED_SIZE + 2 * size);
  out->destination_port = read_u16(src + FIXED_SIZE + 2 * size + 2);
}

/* Reads a path padded with NUL. An abstract socket's name starts with NUL and counts as empty. */
static th_slice path_at(const char *src, uint32_t offset) {
  const char *nul = memchr(src + offset, '\0', UNIX_PATH_SIZE);
  th_slice path = {offset, nul == NULL ? UNIX_PATH_SIZE : (uint32_t)(nul - src) - offset};
  return path;
}

/* Reads the TLV at src[*pos..end) and moves *pos past it. Returns its type, or TH_EPROXY if it is truncated. */
static int next_tlv(const char *src, size_t end, size_t *pos, th_slice *value) {
  if (end - *pos < TLV_START_SIZE) return TH_EPROXY;
  int type = (unsigned char)src[*pos];
  size_t length = read_u16(src + *pos + 1);
  *pos += TLV_START_SIZE;
  if (end - *pos < length) return TH_EPROXY;
  value->offset = (uint32_t)*pos;
  value->length = (uint32_t)length;
  *pos += length;
  return type;
}

/* CRC32C (RFC 9260 appendix A) of src[0..n), with the four bytes at `zeros` taken as 0. */
static uint32_t crc32c(const char *src, size_t n, size_t zeros) {
  uint32_t crc = UINT32_MAX;
  for (size_t i = 0; i < n; i++) {
    if (i < zeros || i >= zeros + CRC32C_SIZE) crc ^= (unsigned char)src[i];
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
  }
  return ~crc;
}

/* Reads the value of a TLV of type TLS; 1 if it is valid. */
static int read_tls(const char *src, th_slice value, th_proxy *out) {
  if (value.length < TLS_START_SIZE) return 0;
  size_t pos = value.offset;
  size_t end = pos + value.length;
  out->tls_reported = 1;
  out->tls = (uint8_t)src[pos] & (TH_PROXY_TLS | TH_PROXY_TLS_CERT_CONN | TH_PROXY_TLS_CERT_SESSION);
  out->tls_verify = (uint32_t)read_u16(src + pos + 1) << 16 | read_u16(src + pos + 3);
  pos += TLS_START_SIZE;
  while (pos < end) {
    th_slice part;
    th_slice *place;
    switch (next_tlv(src, end, &pos, &part)) {
      case TH_EPROXY: return 0;
      case TYPE_TLS_VERSION: place = &out->tls_version; break;
      case TYPE_TLS_NAME: place = &out->tls_name; break;
      case TYPE_TLS_CIPHER: place = &out->tls_cipher; break;
      default: continue;
    }
    if (place->offset != 0) return 0;
    *place = part;
  }
  return 1;
}

/* Reads the TLVs in src[pos..end), where end is the head's end; 1 if they are valid. */
static int read_tlvs(const char *src, size_t pos, size_t end, th_proxy *out) {
  int has_crc = 0;
  int has_tls = 0;
  while (pos < end) {
    th_slice value;
    switch (next_tlv(src, end, &pos, &value)) {
      case TH_EPROXY: return 0;
      case TYPE_CRC32C: {
        if (has_crc++ || value.length != CRC32C_SIZE) return 0;
        const char *sum = src + value.offset;
        if (crc32c(src, end, value.offset) != ((uint32_t)read_u16(sum) << 16 | read_u16(sum + 2))) return 0;
        break;
      }
      case TYPE_TLS:
        if (has_tls++ || !read_tls(src, value, out)) return 0;
        break;
      default: break;
    }
  }
  return 1;
}

static int read_binary(const char *src, size_t n, th_proxy *out) {
  if (memcmp(src, SIGNATURE, n < SIGNATURE_SIZE ? n : SIGNATURE_SIZE) != 0) return TH_EPROXY;
  if (n < FIXED_SIZE) return 0;
  unsigned command = (unsigned char)src[SIGNATURE_SIZE];
  unsigned family = (unsigned char)src[SIGNATURE_SIZE + 1];
  size_t length = read_u16(src + SIGNATURE_SIZE + 2);
  size_t least;
  if (command == 0x20) { /* LOCAL: the family is ignored */
    family = 0x00;
  } else if (command != 0x21) {
    return TH_EPROXY;
  }
  switch (family) { /* the lower half says stream or datagram, which does not matter here */
    case 0x00: least = 0; break;
    case 0x11: case 0x12: least = IPV4_SIZE; break;
    case 0x21: case 0x22: least = IPV6_SIZE; break;
    case 0x31: case 0x32: least = UNIX_SIZE; break;
    default: return TH_EPROXY; /* "must be rejected as invalid by receivers" */
  }
  if (length < least) return TH_EPROXY;
  if (length > TH_PROXY_HEAD_MAX - FIXED_SIZE) return TH_EPROXY_SIZE;
  if (n < FIXED_SIZE + length) return 0;
  out->version = 2;
  out->family = (uint8_t)(family >> 4);
  if (out->family == TH_PROXY_IPV4) {
    read_addresses(src, 4, out);
  } else if (out->family == TH_PROXY_IPV6) {
    read_addresses(src, 16, out);
  } else if (out->family == TH_PROXY_UNIX) {
    out->source = path_at(src, FIXED_SIZE);
    out->destination = path_at(src, FIXED_SIZE + UNIX_PATH_SIZE);
  }
  if (family != 0x00 && !read_tlvs(src, FIXED_SIZE + least, FIXED_SIZE + length, out)) return TH_EPROXY;
  return (int)(FIXED_SIZE + length);
}

int th_proxy_read(const char *src, size_t n, th_proxy *out) {
  memset(out, 0, sizeof *out);
  if (n == 0) return 0;
  return src[0] == SIGNATURE[0] ? read_binary(src, n, out) : read_line(src, n, out);
}
