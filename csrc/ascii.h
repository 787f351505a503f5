/* Byte classes of RFC 9110 and RFC 3986, and the loops that check or convert bytes by them, in any locale. */
#ifndef TH_ASCII_H
#define TH_ASCII_H

#include "base.h"

/* 1 for the two characters of optional whitespace (OWS, RFC 9110 section 5.6.3). */
static inline int th_is_blank(char c) { return c == ' ' || c == '\t'; }

/* 1 if src[0..n) is a token (RFC 9110 section 5.6.2): one or more tchar. */
int th_is_token(const char *src, size_t n);

/* 1 if src[0..n) may be a field value (RFC 9110 section 5.5): VCHAR, obs-text, SP and HTAB, so no CR, LF or NUL. */
int th_is_field_value(const char *src, size_t n);

/* 1 if src[0..n) is visible ASCII (0x21 to 0x7e); also for the empty string. */
int th_is_visible(const char *src, size_t n);

/* Lower-cases a field name (RFC 9110 section 5.1) from src[0..n) into dst, which must hold n bytes and may equal src.
 * Returns n, or TH_EFIELD_NAME at the first byte that is not tchar; dst is then partly written. */
int th_field_name_lower(const char *src, size_t n, char *dst);

/* 1 if a[0..n) equals b[0..n), ignoring ASCII case; b must be lower-case. */
int th_equals_lower(const char *a, const char *b, size_t n);

/* Returns the value of a hexadecimal digit, -1 for any other byte. */
int th_hex_value(char c);

/* Decodes %XX (RFC 3986 section 2.1) from src[0..n) into dst, which must hold n bytes.
 * Returns the decoded length, or TH_ETARGET at a % without two hexadecimal digits. */
int th_percent_decode(const char *src, size_t n, char *dst);

/* 1 if src[0..n) is an IPv4 address: four numbers up to 255 without leading zeros (RFC 3986 section 3.2.2). */
int th_is_ipv4(const char *src, size_t n);

/* 1 if src[0..n) is an IPv6 address: eight groups of hexadecimal digits, of which one run of zeros may be "::" and the
 * last two an IPv4 address (RFC 3986 section 3.2.2); without brackets or zone. */
int th_is_ipv6(const char *src, size_t n);

/* 1 if src[0..n) is `uri-host [ ":" port ]` with a non-empty host and a port of 0 to 65535, which may be empty
 * (RFC 9110 section 7.2, RFC 3986 section 3.2); no userinfo. */
int th_is_host(const char *src, size_t n);

/* Finds the next element of a comma-separated list (RFC 9110 section 5.6.1) in src[*pos..n). Blanks around elements are
 * stripped, empty elements skipped. Returns 1 with the element in out and *pos after it, or 0 at the end. */
int th_list_next(const char *src, size_t n, size_t *pos, th_slice *out);

#endif
