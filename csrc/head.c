#include "head.h"

#include <string.h>

#include "llhttp.h"

/* Sorted by length, then by name; enum th_field_id holds indices. */
static const char *const FIELDS[] = {
    /*  2 */ "te",
    /*  3 */ "dnt", "via",
    /*  4 */ "date", "host",
    /*  5 */ "range",
    /*  6 */ "accept", "cookie", "expect", "origin", "pragma", "server",
    /*  7 */ "referer", "upgrade",
    /*  8 */ "priority",
    /*  9 */ "forwarded", "sec-ch-ua", "x-real-ip",
    /* 10 */ "connection", "tracestate", "user-agent",
    /* 11 */ "traceparent",
    /* 12 */ "content-type", "x-request-id",
    /* 13 */ "authorization", "cache-control", "if-none-match",
    /* 14 */ "accept-charset", "content-length", "sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site",
             "sec-fetch-user",
    /* 15 */ "accept-encoding", "accept-language", "x-forwarded-for",
    /* 16 */ "sec-ch-ua-mobile", "x-forwarded-host", "x-forwarded-port", "x-requested-with",
    /* 17 */ "if-modified-since", "sec-websocket-key", "transfer-encoding", "x-forwarded-proto",
    /* 18 */ "sec-ch-ua-platform", "x-forwarded-prefix",
    /* 21 */ "sec-websocket-version",
    /* 22 */ "sec-websocket-protocol",
    /* 24 */ "sec-websocket-extensions",
    /* 25 */ "upgrade-insecure-requests",
};
enum { FIELD_COUNT = sizeof FIELDS / sizeof FIELDS[0], LONGEST_FIELD = 25, FIELDS_KEPT = 32 };
/* START[n] is the index of the first field of length n. */
static const uint8_t START[LONGEST_FIELD + 2] = {
    0, 0, 0, 1, 3, 5, 6, 12, 14, 15, 18, 21, 22, 24, 27, 33, 36, 40, 44, 46, 46, 46, 47, 48, 48, 49, 50,
};

int th_field_count(void) { return FIELD_COUNT; }

const char *th_field_name(int id) { return FIELDS[id]; }

int th_field_lookup(const char *name, size_t n) {
  if (n == 0 || n > LONGEST_FIELD) return TH_FIELD_OTHER;
  char last = (char)(name[n - 1] | 0x20);
  for (int id = START[n]; id < START[n + 1]; id++) {
    if (FIELDS[id][n - 1] == last && th_equals_lower(name, FIELDS[id], n)) return id;
  }
  return TH_FIELD_OTHER;
}

void th_head_init(th_head *head) { memset(head, 0, sizeof *head); }

void th_head_free(th_head *head) {
  th_buffer_free(&head->fields);
  th_head_init(head);
}

void th_head_clear(th_head *head) {
  th_buffer fields = head->fields;
  if (fields.capacity > FIELDS_KEPT * sizeof(th_field)) th_buffer_free(&fields);
  fields.length = 0;
  th_head_init(head);
  head->fields = fields;
}

th_field *th_head_field(const th_head *head, uint32_t index) {
  return (th_field *)(void *)head->fields.data + index;
}

int th_head_add_field(th_head *head) {
  int status = th_buffer_reserve(&head->fields, sizeof(th_field));
  if (status < 0) return status;
  memset(head->fields.data + head->fields.length, 0, sizeof(th_field));
  head->fields.length += sizeof(th_field);
  head->field_count++;
  return TH_OK;
}

/* Splits path from query and checks the path's percent-encodings; `path` is the rest of the target, with the query.
 * Valid bytes are visible ASCII except '#', which starts a fragment and is never sent (RFC 9110 section 4.2.5). */
static int split_path(th_head *head, th_slice path) {
  const char *src = head->data + path.offset;
  uint32_t end = path.length;
  for (uint32_t i = 0; i < path.length; i++) {
    char c = src[i];
    if (c <= ' ' || c == 0x7f || c == '#') return TH_ETARGET; /* obs-text: see th_is_visible */
    if ((unsigned char)c >= 0x80) return TH_ETARGET;
    if (c == '?' && end == path.length) {
      end = i;
    } else if (c == '%' && end == path.length) {
      char decoded[3];
      if (path.length - i < 3 || th_percent_decode(src + i, 3, decoded) < 0) return TH_ETARGET;
      head->path_escaped = 1;
    }
  }
  head->path.offset = path.offset;
  head->path.length = end;
  if (end < path.length) {
    head->query.offset = path.offset + end + 1;
    head->query.length = path.length - end - 1;
  }
  return TH_OK;
}

/* RFC 9112 section 3.2.2. The scheme is http or https; the authority ends at the first / or ?, or at the target's
 * end. */
static int split_absolute(th_head *head) {
  const char *src = head->data + head->target.offset;
  uint32_t n = head->target.length;
  uint32_t start = 0;
  if (n > 7 && th_equals_lower(src, "http://", 7)) {
    start = 7;
  } else if (n > 8 && th_equals_lower(src, "https://", 8)) {
    start = 8;
    head->https_target = 1;
  } else {
    return TH_ETARGET;
  }
  uint32_t end = start;
  while (end < n && src[end] != '/' && src[end] != '?') end++;
  if (!th_is_host(src + start, end - start)) return TH_ETARGET;
  head->form = TH_ABSOLUTE_FORM;
  head->authority.offset = head->target.offset + start;
  head->authority.length = end - start;
  th_slice path = {head->target.offset + end, n - end};
  int status = split_path(head, path);
  if (status < 0) return status;
  /* RFC 9112 section 3.2.4: OPTIONS without path and query refers to the server as a whole. */
  if (n == end && head->method == HTTP_OPTIONS) head->form = TH_ASTERISK_FORM;
  return TH_OK;
}

int th_head_split_path(th_head *head) {
  const char *src = head->data + head->target.offset;
  if (head->target.length == 0) return TH_ETARGET;
  if (src[0] == '/') return split_path(head, head->target);
  if (head->target.length > 1 || src[0] != '*' || head->method != HTTP_OPTIONS) return TH_ETARGET;
  head->form = TH_ASTERISK_FORM;
  head->path = head->target;
  return TH_OK;
}

static int split_target(th_head *head) {
  if (head->method == HTTP_CONNECT) return TH_ECONNECT;
  int status = th_head_split_path(head);
  char first = head->target.length ? head->data[head->target.offset] : '*';
  return status == TH_OK || first == '/' || first == '*' ? status : split_absolute(head);
}

/* Facts about all fields of a head, collected in one pass over them. */
typedef struct {
  uint32_t hosts;
  uint32_t content_lengths;
  uint32_t codings;     /* in all Transfer-Encoding lines, which form one list: RFC 9110 section 5.3 */
  uint32_t chunked;
  int last_is_chunked;
  int close;
  int keep_alive;
  int upgrade_token;
  int websocket_upgrade; /* the Upgrade field lists websocket */
  int websocket_key;
} tally;

static void read_connection(const char *src, size_t n, tally *seen) {
  size_t pos = 0;
  th_slice token;
  while (th_list_next(src, n, &pos, &token)) {
    const char *name = src + token.offset;
    if (token.length == 5 && th_equals_lower(name, "close", 5)) seen->close = 1;
    if (token.length == 10 && th_equals_lower(name, "keep-alive", 10)) seen->keep_alive = 1;
    if (token.length == 7 && th_equals_lower(name, "upgrade", 7)) seen->upgrade_token = 1;
  }
}

static void read_upgrade(const char *src, size_t n, tally *seen) {
  size_t pos = 0;
  th_slice protocol;
  while (th_list_next(src, n, &pos, &protocol)) {
    if (protocol.length == 9 && th_equals_lower(src + protocol.offset, "websocket", 9)) seen->websocket_upgrade = 1;
  }
}

static int has_token(const char *src, size_t n, const char *name, size_t length) {
  size_t pos = 0;
  th_slice token;
  while (th_list_next(src, n, &pos, &token)) {
    if (token.length == length && th_equals_lower(src + token.offset, name, length)) return 1;
  }
  return 0;
}

/* Returns the length of the token at the start of a coding; 0 if there is none, or if anything but parameters
 * follows. */
static uint32_t name_length(const char *src, uint32_t n) {
  uint32_t name = 0;
  while (name < n && th_is_token(src + name, 1)) name++;
  uint32_t next = name;
  while (next < n && th_is_blank(src[next])) next++;
  return next == n || src[next] == ';' ? name : 0;
}

/* RFC 9112 section 6.1: with this field the framing of an HTTP/1.0 message is faulty. */
static int read_transfer_encoding(const th_head *head, const char *src, size_t n, tally *seen) {
  if (head->version == 10) return TH_ETRANSFER_ENCODING;
  size_t pos = 0;
  uint32_t before = seen->codings;
  th_slice coding;
  while (th_list_next(src, n, &pos, &coding)) {
    uint32_t name = name_length(src + coding.offset, coding.length);
    if (name == 0) return TH_ETRANSFER_ENCODING;
    seen->last_is_chunked = name == 7 && th_equals_lower(src + coding.offset, "chunked", 7);
    if (seen->last_is_chunked && coding.length > name) return TH_ETRANSFER_ENCODING; /* chunked has no parameters */
    seen->chunked += (uint32_t)seen->last_is_chunked;
    seen->codings++;
  }
  /* A line without codings is refused: a proxy that reads only the last line would see another framing. */
  return seen->codings > before ? TH_OK : TH_ETRANSFER_ENCODING;
}

/* Only a single "chunked" is supported. Without it at the end, the length of the body cannot be determined. */
static int judge_transfer_encoding(const tally *seen) {
  if (!seen->last_is_chunked || seen->chunked != 1 || seen->content_lengths > 0) return TH_ETRANSFER_ENCODING;
  return seen->codings > 1 ? TH_ETRANSFER_CODING : TH_OK;
}

/* RFC 9110 section 10.1.1: a list whose only known member is 100-continue; ignored in HTTP/1.0. */
static int read_expect(th_head *head, const char *src, size_t n) {
  if (head->version == 10) return TH_OK;
  size_t pos = 0;
  th_slice member;
  while (th_list_next(src, n, &pos, &member)) {
    if (member.length != 12 || !th_equals_lower(src + member.offset, "100-continue", 12)) return TH_EEXPECT;
    head->expect_continue = 1;
  }
  return TH_OK;
}

int th_head_read_plain(th_head *head, int id, const char *value, size_t n) {
  switch (id) {
    case TH_FIELD_EXPECT:
      return read_expect(head, value, n);
    case TH_FIELD_FORWARDED:
    case TH_FIELD_X_FORWARDED_FOR:
    case TH_FIELD_X_FORWARDED_HOST:
    case TH_FIELD_X_FORWARDED_PORT:
    case TH_FIELD_X_FORWARDED_PREFIX:
    case TH_FIELD_X_FORWARDED_PROTO:
      head->forwarded = 1;
      return TH_OK;
    default:
      return TH_OK;
  }
}

static int read_field(th_head *head, const th_field *field, tally *seen) {
  const char *value = head->data + field->value.offset;
  size_t n = field->value.length;
  switch (field->id) {
    case TH_FIELD_HOST:
      if (++seen->hosts > 1) return TH_EHOST_DUPLICATE;
      return th_is_host(value, n) ? TH_OK : TH_EHOST_INVALID;
    case TH_FIELD_CONTENT_LENGTH:
      if (++seen->content_lengths > 1 || n == 0) return TH_ECONTENT_LENGTH;
      return TH_OK;
    case TH_FIELD_TRANSFER_ENCODING:
      head->chunked = 1;
      return read_transfer_encoding(head, value, n, seen);
    case TH_FIELD_CONNECTION:
      read_connection(value, n, seen);
      return TH_OK;
    case TH_FIELD_UPGRADE:
      read_upgrade(value, n, seen);
      return TH_OK;
    case TH_FIELD_SEC_WEBSOCKET_KEY:
      seen->websocket_key = 1;
      return TH_OK;
    case TH_FIELD_TE:
      head->trailers |= head->version > 10 && has_token(value, n, "trailers", 8);
      return TH_OK;
    default:
      return th_head_read_plain(head, field->id, value, n);
  }
}

int th_head_finish(th_head *head) {
  tally seen = {0};
  int status = split_target(head);
  if (status < 0) return status;
  int expectation = TH_OK; /* refused only if the message itself is valid */
  for (uint32_t i = 0; i < head->field_count; i++) {
    th_field *field = th_head_field(head, i);
    while (field->value.length > 0 && th_is_blank(head->data[field->value.offset + field->value.length - 1])) {
      field->value.length--; /* RFC 9112 section 5.1: trailing blanks are not part of the value */
    }
    field->id = th_field_lookup(head->data + field->name.offset, field->name.length);
    status = read_field(head, field, &seen);
    if (status == TH_EEXPECT) {
      expectation = status;
    } else if (status < 0) {
      return status;
    }
  }
  if (seen.hosts == 0 && head->version == 11) return TH_EHOST_MISSING;
  if (head->chunked && (status = judge_transfer_encoding(&seen)) < 0) return status;
  if (expectation < 0) return expectation;
  head->keep_alive = !seen.close && (head->version == 11 || seen.keep_alive);
  head->upgrade = head->version == 11 && seen.upgrade_token && seen.websocket_upgrade;
  head->websocket = head->upgrade || seen.websocket_key;
  return TH_OK;
}
