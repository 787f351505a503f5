#include "http2_head.h"

#include <string.h>

#include "ascii.h"
#include "http1.h"
#include "response.h"

enum { CRUMBS_MAX = 512 }; /* most cookie fields in a head */

void th_http2_scratch_init(th_http2_scratch *scratch) { memset(scratch, 0, sizeof *scratch); }

void th_http2_scratch_free(th_http2_scratch *scratch) {
  th_head_free(&scratch->head);
  th_buffer_free(&scratch->bytes);
  th_buffer_free(&scratch->hints);
  th_buffer_free(&scratch->cookies);
}

static void clear(th_http2_scratch *scratch) {
  th_head_clear(&scratch->head);
  scratch->head.version = 20;
  scratch->bytes.length = scratch->hints.length = scratch->cookies.length = 0;
  scratch->scheme.length = scratch->protocol.length = 0;
}

/* The result of checking a field, kept with its entry in the dynamic table. */
enum note { CHECKED = 1, MALFORMED = 2, KIND_SHIFT = 2, ID_SHIFT = 8 };
enum kind { REGULAR, METHOD, SCHEME, PATH, AUTHORITY, PROTOCOL, COOKIE, UNKNOWN_PSEUDO, HOP_BY_HOP };

static int equals(const char *a, size_t n, const char *b, size_t m) { return n == m && memcmp(a, b, n) == 0; }

static int kind_of_pseudo(const char *name, size_t n) {
  switch (n) {
    case 5: return equals(name, n, ":path", 5) ? PATH : UNKNOWN_PSEUDO;
    case 7:
      if (equals(name, n, ":method", 7)) return METHOD;
      return equals(name, n, ":scheme", 7) ? SCHEME : UNKNOWN_PSEUDO;
    case 9: return equals(name, n, ":protocol", 9) ? PROTOCOL : UNKNOWN_PSEUDO;
    case 10: return equals(name, n, ":authority", 10) ? AUTHORITY : UNKNOWN_PSEUDO;
    default: return UNKNOWN_PSEUDO;
  }
}

/* RFC 9113 section 8.2.2. */
static int is_hop_by_hop(int id, const char *name, size_t n) {
  return id == TH_FIELD_CONNECTION || id == TH_FIELD_TRANSFER_ENCODING || id == TH_FIELD_UPGRADE ||
         equals(name, n, "keep-alive", 10) || equals(name, n, "proxy-connection", 16);
}

static int has_upper_case(const char *src, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (src[i] >= 'A' && src[i] <= 'Z') return 1;
  }
  return 0;
}

static int has_blank_end(const char *src, size_t n) { return n > 0 && (th_is_blank(src[0]) || th_is_blank(src[n - 1])); }

/* RFC 9113 sections 8.2.1 and 8.3: names are lower-case tokens, values have no control characters and no blanks at
 * their ends. */
static uint32_t examine(const th_hpack_field *field) {
  const char *name = field->name;
  const char *value = field->value;
  size_t n = field->name_length;
  size_t m = field->value_length;
  int pseudo = n > 0 && name[0] == ':';
  int id = TH_FIELD_OTHER;
  int kind = REGULAR;
  if (pseudo) {
    kind = kind_of_pseudo(name, n);
  } else {
    if (!th_is_token(name, n) || has_upper_case(name, n)) return CHECKED | MALFORMED;
    id = th_field_lookup(name, n);
    if (id == TH_FIELD_COOKIE) kind = COOKIE;
    if (is_hop_by_hop(id, name, n)) kind = HOP_BY_HOP;
  }
  if (!th_is_field_value(value, m)) return CHECKED | MALFORMED;
  if (has_blank_end(value, m)) return CHECKED | MALFORMED;
  return CHECKED | (uint32_t)kind << KIND_SHIFT | (uint32_t)(id + 1) << ID_SHIFT;
}

static uint32_t note_of(const th_hpack_field *field) {
  if (field->note == NULL) return examine(field);
  if (*field->note == 0) *field->note = examine(field);
  return *field->note;
}

static void note_malformed(th_http2_tally *found, int status) {
  if (found->malformed == TH_OK) found->malformed = status;
}

static void note_refused(th_http2_tally *found, int status) {
  if (found->refused == TH_OK) found->refused = status;
}

/* The first limit that was exceeded decides; an incomplete head is not checked any further. */
static void note_over(th_http2_tally *found, int status) {
  if (found->over == TH_OK) found->over = status;
}

static int keep_bytes(th_http2_scratch *scratch, const char *src, size_t n, th_slice *slice) {
  slice->offset = (uint32_t)scratch->bytes.length;
  slice->length = (uint32_t)n;
  return th_buffer_append(&scratch->bytes, src, n);
}

static int method_of(const char *name, size_t n) {
  for (int method = 0; method < th_method_count(); method++) {
    const char *known = th_method_name(method);
    if (strlen(known) == n && memcmp(known, name, n) == 0) return method;
  }
  return -1;
}

static int read_pseudo(th_http2_scratch *scratch, const th_hpack_field *field, int kind, th_http2_tally *found) {
  uint8_t bit = (uint8_t)(1 << kind);
  if (kind == UNKNOWN_PSEUDO || found->regular || found->seen & bit || (kind == PROTOCOL && !scratch->limits->websocket)) {
    note_malformed(found, TH_EPSEUDO);
    return TH_OK;
  }
  found->seen |= bit;
  if (kind == METHOD) {
    if (!th_is_token(field->value, field->value_length)) note_malformed(found, TH_EPSEUDO);
    int method = method_of(field->value, field->value_length);
    /* PRI is not a method but a part of the preface. */
    if (method < 0 || method == HTTP_PRI) note_refused(found, TH_EMETHOD);
    scratch->head.method = method < 0 ? 0 : (uint8_t)method;
    return TH_OK;
  }
  th_slice *slice = kind == SCHEME      ? &scratch->scheme
                    : kind == PATH      ? &scratch->head.target
                    : kind == AUTHORITY ? &scratch->head.authority
                                        : &scratch->protocol;
  if (kind == AUTHORITY) scratch->authority = (th_http2_hint){field->serial, field->index};
  return keep_bytes(scratch, field->value, field->value_length, slice);
}

static int keep_crumb(th_http2_scratch *scratch, const th_hpack_field *field, th_http2_tally *found) {
  th_buffer *cookies = &scratch->cookies;
  if (++found->crumbs > CRUMBS_MAX) {
    note_over(found, TH_EHEAD_COUNT);
    return TH_OK;
  }
  if (found->crumbs > 1 && th_buffer_append(cookies, "; ", 2) < 0) return TH_ENOMEM;
  return th_buffer_append(cookies, field->value, field->value_length);
}

/* Reads the fields that the server itself uses. */
static int read_meaning(th_http2_scratch *scratch, int id, const char *value, size_t n, th_http2_tally *found) {
  th_head *head = &scratch->head;
  switch (id) {
    case TH_FIELD_CONTENT_LENGTH:
      if (found->content_lengths++ > 0 || th_read_content_length(value, n, &head->content_length) < 0) {
        note_refused(found, TH_ECONTENT_LENGTH);
      }
      return TH_OK;
    case TH_FIELD_TE:
      if (!(n == 8 && th_equals_lower(value, "trailers", 8))) note_malformed(found, TH_EHOP_BY_HOP);
      return TH_OK;
    case TH_FIELD_PRIORITY:
      th_http2_read_priority(value, n, &found->urgency, &found->incremental);
      return TH_OK;
    default: {
      int status = th_head_read_plain(head, id, value, n);
      if (status < 0) note_refused(found, status);
      return TH_OK;
    }
  }
}

static int keep_field(th_http2_scratch *scratch, const th_hpack_field *field, int id, int kind, th_http2_tally *found) {
  th_head *head = &scratch->head;
  if (kind == COOKIE) {
    int status = keep_crumb(scratch, field, found);
    if (status < 0 || found->crumbs != 1) return status;
    found->cookie = head->field_count;
  } else if (id == TH_FIELD_HOST) {
    if (++found->hosts > 1) note_refused(found, TH_EHOST_DUPLICATE);
    if (found->seen & 1 << AUTHORITY) return keep_bytes(scratch, field->value, field->value_length, &found->host);
  }
  if (head->field_count >= scratch->limits->fields) {
    note_over(found, TH_EHEAD_COUNT);
    return TH_OK;
  }
  th_http2_hint hint = {field->serial, field->index};
  if (th_buffer_append(&scratch->hints, (const char *)&hint, sizeof hint) < 0) return TH_ENOMEM;
  if (th_head_add_field(head) < 0) return TH_ENOMEM;
  th_field *kept = th_head_field(head, head->field_count - 1);
  kept->id = id;
  if (id == TH_FIELD_OTHER && keep_bytes(scratch, field->name, field->name_length, &kept->name) < 0) return TH_ENOMEM;
  if (kind == COOKIE) return TH_OK; /* its value is complete only at the end */
  if (keep_bytes(scratch, field->value, field->value_length, &kept->value) < 0) return TH_ENOMEM;
  if (id == TH_FIELD_HOST) found->host = kept->value;
  return id == TH_FIELD_OTHER ? TH_OK : read_meaning(scratch, id, field->value, field->value_length, found);
}

int th_http2_read_head(th_http2_scratch *scratch, const th_http2_limits *limits, th_hpack_decoder *decoder,
                       const char *block, size_t n, th_http2_tally *found) {
  clear(scratch);
  scratch->limits = limits;
  th_hpack_field field;
  th_hpack_begin(decoder, block, n);
  for (;;) {
    int more = th_hpack_next(decoder, &field);
    if (more <= 0) return more;
    found->size += field.name_length + field.value_length + 32;
    if (found->size > scratch->limits->head) note_over(found, TH_EHEAD_SIZE);
    uint32_t note = note_of(&field);
    int kind = (int)(note >> KIND_SHIFT & 0xf);
    int status = TH_OK;
    if (note & MALFORMED) {
      note_malformed(found, TH_EFIELD);
    } else if (kind == HOP_BY_HOP) {
      note_malformed(found, TH_EHOP_BY_HOP);
    } else if (found->malformed < 0 || found->size > scratch->limits->head) {
      continue;
    } else if (kind != REGULAR && kind != COOKIE) {
      status = read_pseudo(scratch, &field, kind, found);
    } else {
      found->regular = 1;
      status = keep_field(scratch, &field, (int)(note >> ID_SHIFT) - 1, kind, found);
    }
    if (status < 0) return status;
  }
}

int th_http2_read_trailers(th_hpack_decoder *decoder, const char *block, size_t n, th_http2_tally *found) {
  th_hpack_field field;
  th_hpack_begin(decoder, block, n);
  for (;;) {
    int more = th_hpack_next(decoder, &field);
    if (more <= 0) return more;
    found->size += field.name_length + field.value_length + 32;
    uint32_t note = note_of(&field);
    int kind = (int)(note >> KIND_SHIFT & 0xf);
    if (note & MALFORMED || (kind != REGULAR && kind != COOKIE)) note_malformed(found, TH_EFIELD);
  }
}

static int is_scheme(const th_http2_scratch *scratch, const char *name, size_t n) {
  return scratch->scheme.length == n && th_equals_lower(scratch->bytes.data + scratch->scheme.offset, name, n);
}

/* RFC 9113 section 8.5, RFC 8441 section 4. */
static int finish_connect(th_http2_scratch *scratch, const th_http2_tally *found) {
  int scheme_and_path = found->seen & (1 << SCHEME | 1 << PATH);
  if (!(found->seen & 1 << PROTOCOL)) {
    return scheme_and_path || !(found->seen & 1 << AUTHORITY) ? TH_EPSEUDO : TH_ECONNECT;
  }
  if (!(found->seen & 1 << AUTHORITY)) return TH_EPSEUDO;
  const char *protocol = scratch->bytes.data + scratch->protocol.offset;
  scratch->head.websocket = (uint8_t)equals(protocol, scratch->protocol.length, "websocket", 9);
  return scratch->head.websocket ? TH_OK : TH_ECONNECT;
}

static int finish_cookies(th_http2_scratch *scratch, const th_http2_tally *found) {
  if (found->crumbs == 0) return TH_OK;
  th_field *field = th_head_field(&scratch->head, found->cookie);
  if (found->crumbs > 1) memset(scratch->hints.data + found->cookie * sizeof(th_http2_hint), 0, sizeof(th_http2_hint));
  return keep_bytes(scratch, scratch->cookies.data, scratch->cookies.length, &field->value);
}

/* RFC 9113 section 8.3.1. A Host field beside :authority must not contradict it. */
static int finish_authority(th_http2_scratch *scratch, const th_http2_tally *found) {
  const char *bytes = scratch->bytes.data;
  const th_slice *authority = &scratch->head.authority;
  if (!(found->seen & 1 << AUTHORITY)) {
    if (found->hosts == 0) return TH_EHOST_MISSING;
    return th_is_host(bytes + found->host.offset, found->host.length) ? TH_OK : TH_EHOST_INVALID;
  }
  if (!th_is_host(bytes + authority->offset, authority->length)) return TH_EHOST_INVALID;
  if (found->hosts == 0) return TH_OK;
  if (found->host.length != authority->length) return TH_EAUTHORITY;
  for (uint32_t i = 0; i < authority->length; i++) {
    char a = bytes[authority->offset + i];
    char b = bytes[found->host.offset + i];
    if (a != b && !((a | 0x20) == (b | 0x20) && (a | 0x20) >= 'a' && (a | 0x20) <= 'z')) return TH_EAUTHORITY;
  }
  return TH_OK;
}

int th_http2_finish_head(th_http2_scratch *scratch, const th_http2_tally *found) {
  th_head *head = &scratch->head;
  if (found->malformed < 0) return found->malformed;
  if (found->over < 0) return found->over;
  head->keep_alive = 1;
  head->trailers = 1; /* RFC 9110 section 6.5.1: HTTP/2 always carries them, and gRPC does not always send TE */
  int required = 1 << METHOD | 1 << SCHEME | 1 << PATH;
  int connect = head->method == HTTP_CONNECT && found->seen & 1 << METHOD && found->refused != TH_EMETHOD;
  if (connect && !(found->seen & 1 << PROTOCOL)) return finish_connect(scratch, found);
  if ((found->seen & required) != required || (found->seen & 1 << PROTOCOL && !connect)) return TH_EPSEUDO;
  int status = connect ? finish_connect(scratch, found) : TH_OK;
  if (status < 0) return status;
  if (finish_cookies(scratch, found) < 0) return TH_ENOMEM;
  head->data = scratch->bytes.data;
  head->https_target = (uint8_t)is_scheme(scratch, "https", 5);
  if (found->refused < 0) return found->refused;
  if (!head->https_target && !is_scheme(scratch, "http", 4)) return TH_ETARGET;
  status = th_head_split_path(head);
  if (status < 0) return status;
  return finish_authority(scratch, found);
}

int th_http2_is_malformed(int status) { return status <= TH_EPSEUDO && status >= TH_EHOP_BY_HOP; }

int th_http2_check_field(const char *name, size_t name_length, const char *value, size_t value_length) {
  if (!th_is_token(name, name_length)) return TH_EFIELD_NAME;
  if (!th_is_field_value(value, value_length)) return TH_EFIELD_VALUE;
  return has_upper_case(name, name_length) || has_blank_end(value, value_length);
}

void th_http2_read_priority(const char *src, size_t n, uint8_t *urgency, uint8_t *incremental) {
  size_t pos = 0;
  th_slice member;
  while (th_list_next(src, n, &pos, &member)) {
    const char *text = src + member.offset;
    size_t length = 0;
    while (length < member.length && text[length] != ';') length++; /* parameters are ignored */
    if (length == 3 && text[0] == 'u' && text[1] == '=' && text[2] >= '0' && text[2] <= '7') {
      *urgency = (uint8_t)(text[2] - '0');
    } else if (equals(text, length, "i", 1) || equals(text, length, "i=?1", 4)) {
      *incremental = 1;
    } else if (equals(text, length, "i=?0", 4)) {
      *incremental = 0;
    }
  }
}

