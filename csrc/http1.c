#include "http1.h"

#include <string.h>

enum {
  START = 0,          /* between messages; empty lines are skipped */
  IN_HEAD = 1,
  IN_LENGTH_BODY = 2, /* counted here, without llhttp */
  IN_CHUNKED_BODY = 3,
  AFTER_BODY = 4,    /* TH_END is due */
  UNKNOWN_METHOD = 5  /* waiting for enough bytes to tell an unknown method from noise */
};

/* Bytes that each chunk line may have, and excess bytes that all lines of a body may have in total; counted as in Go's
 * net/http. A sender is never refused for up to 16 bytes of extension per chunk, or two per byte of data. */
enum { CHUNK_LINE_FREE = 16, CHUNK_EXCESS_MAX = 16 * 1024 };
/* The data of small chunks is joined up to this size before it is passed on. */
enum { GATHER_MAX = 64 * 1024 };
enum { EXCERPT_MAX = 64 };
/* RFC 9112 section 3: a method longer than any known one gets 501. llhttp's longest has 13 letters. */
enum { METHOD_MAX = 32 };
enum { TLS_HANDSHAKE = 0x16 };

static th_http1 *self_of(llhttp_t *parser) { return parser->data; }

/* Clears the excerpt: input is shown only if the caller then calls show_excerpt(). */
static int fail(th_http1 *http1, int status) {
  http1->failed = status;
  http1->excerpt_length = 0;
  return status;
}

/* --- llhttp's callbacks: they record, and pause where an event is due ------------------------------------------- */

/* Adds a span to a slice. Heads are kept in one piece, so the parts of a span that was cut are adjacent. */
static void extend(const th_head *head, th_slice *slice, const char *at, size_t n) {
  if (slice->length == 0) slice->offset = (uint32_t)(at - head->data);
  slice->length += (uint32_t)n;
}

static int on_url(llhttp_t *parser, const char *at, size_t n) {
  th_http1 *http1 = self_of(parser);
  extend(&http1->head, &http1->head.target, at, n);
  return 0;
}

/* For protocol and version, the last parts of the request line. */
static int on_line_part(llhttp_t *parser, const char *at, size_t n) {
  th_http1 *http1 = self_of(parser);
  http1->line_length = (uint32_t)(at + n - http1->head.data);
  return 0;
}

/* Checked at the end of the name, the same position however the bytes were cut. A method and a blank precede it. */
static int on_protocol_complete(llhttp_t *parser) {
  th_http1 *http1 = self_of(parser);
  const char *end = http1->head.data + http1->line_length;
  return memcmp(end - 4, "HTTP", 4) == 0 ? 0 : fail(http1, TH_EPROTOCOL);
}

static int on_version_complete(llhttp_t *parser) {
  th_http1 *http1 = self_of(parser);
  http1->line_complete = 1;
  if (parser->http_major != 1) return fail(http1, parser->method == HTTP_PRI ? TH_EHTTP2 : TH_EVERSION);
  return parser->method == HTTP_PRI ? fail(http1, TH_EMETHOD) : 0; /* PRI exists only in the HTTP/2 preface */
}

static int on_header_field(llhttp_t *parser, const char *at, size_t n) {
  th_http1 *http1 = self_of(parser);
  if (http1->state != IN_HEAD) return 0;
  if (http1->in_value) {
    http1->in_value = 0;
    if (th_head_add_field(&http1->head) < 0) return fail(http1, TH_ENOMEM);
  }
  extend(&http1->head, &th_head_field(&http1->head, http1->head.field_count - 1)->name, at, n);
  return 0;
}

/* Fields are counted at the end of their names, the same position however the name was cut. */
static int on_header_field_complete(llhttp_t *parser) {
  th_http1 *http1 = self_of(parser);
  http1->in_value = 1;
  if (http1->state != IN_HEAD) {
    return ++http1->trailers > http1->limits.fields ? fail(http1, TH_ETRAILER_SIZE) : 0;
  }
  return http1->head.field_count > http1->limits.fields ? fail(http1, TH_EHEAD_COUNT) : 0;
}

static int on_header_value(llhttp_t *parser, const char *at, size_t n) {
  th_http1 *http1 = self_of(parser);
  if (http1->state == IN_HEAD) {
    extend(&http1->head, &th_head_field(&http1->head, http1->head.field_count - 1)->value, at, n);
  }
  return 0;
}

static int on_headers_complete(llhttp_t *parser) {
  /* A tunnel begins when the application accepts it, not when the client asks for it: RFC 9110 section 7.8. */
  parser->upgrade = 0;
  return HPE_PAUSED;
}

static int on_message_complete(llhttp_t *parser) {
  self_of(parser)->state = AFTER_BODY;
  return HPE_PAUSED;
}

static const llhttp_settings_t SETTINGS = {
    .on_url = on_url,
    .on_protocol = on_line_part,
    .on_protocol_complete = on_protocol_complete,
    .on_version = on_line_part,
    .on_version_complete = on_version_complete,
    .on_header_field = on_header_field,
    .on_header_field_complete = on_header_field_complete,
    .on_header_value = on_header_value,
    .on_headers_complete = on_headers_complete,
    .on_message_complete = on_message_complete,
};

/* --- Life ------------------------------------------------------------------------------------------------------ */

void th_http1_init(th_http1 *http1, const th_http1_limits *limits) {
  memset(http1, 0, sizeof *http1);
  llhttp_init(&http1->parser, HTTP_REQUEST, &SETTINGS);
  http1->parser.data = http1;
  http1->limits = *limits;
}

void th_http1_free(th_http1 *http1) {
  th_head_free(&http1->head);
  th_buffer_free(&http1->pieces);
}

void th_http1_feed(th_http1 *http1, const char *data, size_t n) {
  http1->next = data;
  http1->end = data + n;
}

size_t th_http1_left(const th_http1 *http1) { return (size_t)(http1->end - http1->next); }

int th_http1_is_idle(const th_http1 *http1) { return http1->state == START && http1->failed == 0; }

int th_http1_is_head(const th_http1 *http1) {
  int has_line = http1->state != START && http1->state != UNKNOWN_METHOD && http1->head.target.length > 0;
  return has_line && http1->parser.method == HTTP_HEAD;
}

const char *th_http1_reason(const th_http1 *http1) {
  int error = http1->parser.error;
  int is_llhttps = http1->failed == TH_ESYNTAX && error != HPE_OK && error != HPE_PAUSED;
  if (!is_llhttps) return th_status_text(http1->failed);
  /* llhttp's text lists protocols that are not served. The usual cause is a space in the request target. */
  int is_protocol = error == HPE_INVALID_CONSTANT && strncmp(http1->parser.reason, "Expected HTTP/", 14) == 0;
  return is_protocol ? "Expected HTTP/ after the request target" : http1->parser.reason;
}

/* --- Head ------------------------------------------------------------------------------------------------------ */

/* Of a refused head only the first line may be logged: fields may contain secrets, and so may a body. */
static void show_excerpt(th_http1 *http1, const char *src, size_t n) {
  size_t end = 0;
  while (end < n && end < EXCERPT_MAX && src[end] != '\r' && src[end] != '\n') end++;
  http1->excerpt = src;
  http1->excerpt_length = end;
}

static void begin_head(th_http1 *http1) {
  th_head_clear(&http1->head);
  llhttp_reset(&http1->parser);
  llhttp_set_lenient_transfer_encoding(&http1->parser, 1); /* head.c checks the field, as a list */
  llhttp_set_lenient_version(&http1->parser, 1); /* 1.2 to 1.9 are read as 1.1: RFC 9110 section 2.5 */
  http1->state = IN_HEAD;
  http1->in_value = 1; /* so that the first name starts a new field */
  http1->line_complete = 0;
  http1->line_length = 0;
  http1->head_length = 0;
  http1->body_total = 0;
  http1->overhead = 0;
  http1->excess = 0;
  http1->trailers = 0;
}

/* RFC 9112 section 2.2: empty lines before a request line are ignored; only CRLF is an empty line. */
static int skip_empty_lines(th_http1 *http1) {
  while (http1->next < http1->end) {
    char c = *http1->next;
    if (http1->in_value) { /* a CR was the last byte */
      if (c != '\n') return fail(http1, TH_ESYNTAX);
      http1->in_value = 0;
    } else if (c == '\r') {
      http1->in_value = 1;
    } else if (c == '\n') {
      return fail(http1, TH_ESYNTAX);
    } else {
      if (c == TLS_HANDSHAKE) return fail(http1, TH_ETLS);
      begin_head(http1);
      return TH_OK;
    }
    http1->next++;
  }
  return TH_NEED_DATA;
}

/* Returns the length of a request line that ended before its version was complete, as in HTTP/0.9; else 0. It goes by
 * the end of the line, because llhttp does not report the last piece of a target that it refuses. */
static uint32_t length_without_version(const th_http1 *http1) {
  const th_head *head = &http1->head;
  uint32_t end = http1->head_length;
  if (http1->line_complete || end == 0) return 0;
  if (http1->parser.http_major == 0 && http1->parser.http_minor == 9) { /* llhttp continues with fields */
    return head->target.offset + head->target.length;
  }
  if (head->data[--end] != '\n') return 0;
  return end > 0 && head->data[end - 1] == '\r' ? end - 1 : end;
}

/* Checks the limits by how much of the head has been read. The length of the request line is exact once it is complete;
 * before that, the two bytes beyond the limit may be its CRLF. */
static int check_head_limits(const th_http1 *http1) {
  const th_http1_limits *limits = &http1->limits;
  uint32_t without_version = length_without_version(http1);
  if (without_version > 0) return without_version > limits->request_line ? TH_ELINE_SIZE : TH_ESYNTAX;
  if (!http1->line_complete) {
    return http1->head_length > limits->request_line + 2 ? TH_ELINE_SIZE : TH_OK;
  }
  if (http1->line_length > limits->request_line) return TH_ELINE_SIZE;
  uint32_t section = http1->line_length + 2;
  if (http1->head_length > section && http1->head_length - section > limits->head) return TH_EHEAD_SIZE;
  return TH_OK;
}

/* RFC 9112 section 3: one blank between the parts of a request line; llhttp accepts several. */
static int has_single_blanks(const th_head *head) {
  uint32_t target_end = head->target.offset + head->target.length;
  return head->target.offset == strlen(th_method_name(head->method)) + 1 && head->data[target_end + 1] == 'H';
}

/* Tells an unknown method (501), which is a token, a blank and the start of a target, from noise (400). */
static int classify_method(const char *src, size_t n) {
  size_t i = 0;
  while (i < n && i <= METHOD_MAX && th_is_token(src + i, 1)) i++;
  if (i > METHOD_MAX) return TH_EMETHOD;
  if (i == n) return TH_NEED_DATA;
  if (i == 0 || src[i] != ' ') return TH_ESYNTAX;
  if (++i == n) return TH_NEED_DATA;
  return src[i] == '/' || src[i] == '*' || (src[i] | 0x20) == 'h' ? TH_EMETHOD : TH_ESYNTAX;
}

/* Copies up to n bytes of a head, as far as its limits allow. Returns how many, or TH_ENOMEM. */
static int keep_piece(th_http1 *http1, size_t n) {
  size_t most = (size_t)http1->limits.request_line + http1->limits.head + 8;
  size_t room = most > http1->pieces.length ? most - http1->pieces.length : 1;
  if (n > room) n = room;
  if (th_buffer_append(&http1->pieces, http1->next, n) < 0) return TH_ENOMEM;
  return (int)n;
}

static int read_unknown_method(th_http1 *http1) {
  int status;
  do {
    size_t n = th_http1_left(http1) < METHOD_MAX ? th_http1_left(http1) : METHOD_MAX;
    if (th_buffer_append(&http1->pieces, http1->next, n) < 0) return fail(http1, TH_ENOMEM);
    http1->next += n;
    status = classify_method(http1->pieces.data, http1->pieces.length);
  } while (status == TH_NEED_DATA && th_http1_left(http1) > 0);
  if (status == TH_NEED_DATA) return TH_NEED_DATA;
  fail(http1, status);
  show_excerpt(http1, http1->pieces.data, http1->pieces.length);
  return status;
}

static int head_error(th_http1 *http1) {
  if (http1->failed < 0) return http1->failed;
  /* llhttp's text identifies a method of RTSP; its error number does not. */
  if (strcmp(http1->parser.reason, "Invalid method for HTTP/x.x request") == 0) return fail(http1, TH_EMETHOD);
  return fail(http1, TH_ESYNTAX);
}

static int finish_head(th_http1 *http1) {
  th_head *head = &http1->head;
  head->method = http1->parser.method;
  head->version = http1->parser.http_minor > 0 ? 11 : 10;
  head->content_length = http1->parser.content_length;
  if (!has_single_blanks(head)) return TH_ESYNTAX;
  int status = th_head_finish(head);
  if (status < 0) return status;
  if (head->chunked) {
    /* llhttp itself accepts no tab around the coding, and no empty list element after it. */
    http1->parser.flags |= F_CHUNKED;
    http1->state = IN_CHUNKED_BODY;
    http1->body_left = 0;
    th_chunk_first(&http1->chunk);
  } else if (head->content_length > 0) {
    if (head->content_length > INT64_MAX) return TH_EBODY_SIZE; /* so that signed numbers can count it */
    if (http1->limits.body > 0 && head->content_length > http1->limits.body) return TH_EBODY_SIZE;
    http1->state = IN_LENGTH_BODY;
    http1->body_left = head->content_length;
  } else {
    http1->state = AFTER_BODY;
  }
  return TH_OK;
}

/* Continues with the head. A head that is complete in the lent memory is not copied. */
static int read_head(th_http1 *http1) {
  int in_pieces = http1->pieces.length > 0;
  size_t n = th_http1_left(http1);
  const char *lent = http1->next;
  const char *start = lent;
  if (in_pieces) {
    size_t before = http1->pieces.length;
    int kept = keep_piece(http1, n);
    if (kept < 0) return fail(http1, kept);
    n = (size_t)kept;
    http1->head.data = http1->pieces.data;
    start = http1->pieces.data + before;
  } else if (http1->head_length == 0) {
    http1->head.data = start;
  }
  int error = llhttp_execute(&http1->parser, start, n);
  const char *stop = error == HPE_OK ? start + n : llhttp_get_error_pos(&http1->parser);
  size_t read = (size_t)(stop - start);
  http1->head_length += (uint32_t)read;
  int status = check_head_limits(http1);
  if (error == HPE_INVALID_METHOD && status == TH_OK) {
    if (in_pieces) http1->next += n; /* copied already */
    http1->state = UNKNOWN_METHOD;
    return read_unknown_method(http1);
  }
  if (status == TH_OK && error == HPE_OK) {
    if (!in_pieces && (status = keep_piece(http1, n)) < 0) return fail(http1, status);
    http1->next += n;
    return th_http1_left(http1) > 0 ? read_head(http1) : TH_NEED_DATA;
  }
  if (status == TH_OK && error == HPE_PAUSED) {
    http1->next += read;
    status = finish_head(http1);
    if (status == TH_OK) return TH_HEAD;
  }
  if (in_pieces) http1->next = lent + n; /* copied already */
  status = status < 0 ? fail(http1, status) : head_error(http1);
  show_excerpt(http1, http1->head.data, in_pieces ? http1->pieces.length : n);
  return status;
}

/* --- Body ------------------------------------------------------------------------------------------------------ */

static int read_length_body(th_http1 *http1) {
  size_t n = th_http1_left(http1);
  if (n > http1->body_left) n = (size_t)http1->body_left;
  http1->body = http1->next;
  http1->body_length = n;
  http1->next += n;
  http1->body_left -= n;
  if (http1->body_left == 0) http1->state = AFTER_BODY;
  return TH_BODY;
}

/* Chunk lines and trailers are limited by their total size, however they are cut: see CHUNK_EXCESS_MAX. */
static int check_chunk_limits(th_http1 *http1, int at_header) {
  if (http1->last_chunk && !at_header) {
    return http1->overhead > http1->limits.head ? TH_ETRAILER_SIZE : TH_OK;
  }
  uint32_t beyond = http1->overhead > CHUNK_LINE_FREE ? http1->overhead - CHUNK_LINE_FREE : 0;
  if (http1->excess + beyond > CHUNK_EXCESS_MAX) return TH_ECHUNK_SIZE;
  if (at_header) {
    uint64_t earned = http1->chunk.size;
    http1->excess += beyond;
    http1->excess = earned * 2 < http1->excess && earned < CHUNK_EXCESS_MAX ? http1->excess - (uint32_t)earned * 2 : 0;
    http1->overhead = 0;
  }
  return TH_OK;
}

/* Reads a chunk's data. */
static int read_chunk_data(th_http1 *http1) {
  size_t n = th_http1_left(http1);
  if (n > http1->body_left) n = (size_t)http1->body_left;
  http1->body = http1->next;
  http1->body_length = n;
  http1->next += n;
  http1->body_left -= n;
  http1->body_total += n;
  if (http1->limits.body > 0 && http1->body_total > http1->limits.body) {
    http1->body_length -= (size_t)(http1->body_total - http1->limits.body); /* only the bytes within the limit */
    return fail(http1, TH_EBODY_SIZE);
  }
  if (http1->body_left == 0) th_chunk_after_data(&http1->chunk);
  return TH_OK;
}

/* Continues with a chunk's line. For the last chunk llhttp is given a plain line, so that it reads the trailer
 * section. */
static int read_chunk_line(th_http1 *http1) {
  static const char LAST[] = "0\r\n";
  size_t read;
  int found = th_chunk_read(&http1->chunk, http1->next, th_http1_left(http1), &read);
  http1->next += read;
  http1->overhead += (uint32_t)read;
  int status = check_chunk_limits(http1, found == TH_CHUNK_LINE);
  if (status < 0 || found < 0) return fail(http1, status < 0 ? status : found);
  if (found != TH_CHUNK_LINE) return TH_OK;
  http1->body_left = http1->chunk.size;
  if (http1->chunk.size > 0) return TH_OK;
  http1->last_chunk = 1;
  llhttp_set_lenient_transfer_encoding(&http1->parser, 0); /* trailers must not contain it */
  llhttp_resume(&http1->parser);
  return llhttp_execute(&http1->parser, LAST, sizeof LAST - 1) == HPE_OK ? TH_OK : fail(http1, TH_ESYNTAX);
}

static int read_trailers(th_http1 *http1) {
  const char *start = http1->next;
  int error = llhttp_execute(&http1->parser, start, th_http1_left(http1));
  http1->next = error == HPE_OK ? http1->end : llhttp_get_error_pos(&http1->parser);
  http1->overhead += (uint32_t)(http1->next - start);
  int status = check_chunk_limits(http1, 0);
  if (status < 0 || http1->state == AFTER_BODY) return status < 0 ? fail(http1, status) : TH_OK;
  if (error == HPE_OK) return TH_OK;
  return fail(http1, http1->failed < 0 ? http1->failed : TH_ESYNTAX);
}

/* Reads at most one piece of data, or one line. */
static int run_chunked(th_http1 *http1) {
  http1->body_length = 0;
  if (http1->last_chunk) return read_trailers(http1);
  return http1->body_left > 0 ? read_chunk_data(http1) : read_chunk_line(http1);
}

/* Joins the data of all chunks that were fed, so that many small chunks are one event. */
static int read_chunked_body(th_http1 *http1) {
  const char *first = NULL;
  size_t first_length = 0;
  http1->pieces.length = 0;
  while (http1->state == IN_CHUNKED_BODY && th_http1_left(http1) > 0 && http1->pieces.length < GATHER_MAX) {
    int status = run_chunked(http1);
    if (http1->body_length > 0) {
      if (first == NULL) {
        first = http1->body;
        first_length = http1->body_length;
      } else {
        if (http1->pieces.length == 0 && th_buffer_append(&http1->pieces, first, first_length) < 0) {
          return fail(http1, TH_ENOMEM);
        }
        if (th_buffer_append(&http1->pieces, http1->body, http1->body_length) < 0) return fail(http1, TH_ENOMEM);
      }
    }
    if (status < 0) break;
  }
  if (first == NULL) {
    if (http1->failed < 0) return http1->failed;
    return http1->state == AFTER_BODY ? TH_END : TH_NEED_DATA;
  }
  http1->body = http1->pieces.length > 0 ? http1->pieces.data : first;
  http1->body_length = http1->pieces.length > 0 ? http1->pieces.length : first_length;
  return TH_BODY;
}

/* --- Methods --------------------------------------------------------------------------------------------------- */

const char *th_method_name(int method) {
  switch (method) {
#define TH_METHOD(number, name, text) \
  case number:                        \
    return #text;
    HTTP_ALL_METHOD_MAP(TH_METHOD)
#undef TH_METHOD
    default:
      return "";
  }
}

int th_method_count(void) { return HTTP_QUERY + 1; }

/* --- Events ---------------------------------------------------------------------------------------------------- */

static int end_message(th_http1 *http1) {
  http1->state = START;
  http1->in_value = 0;
  http1->last_chunk = 0;
  th_buffer_free(&http1->pieces);
  return TH_END;
}

int th_http1_next(th_http1 *http1) {
  int event;
  if (http1->failed < 0) {
    http1->excerpt_length = 0; /* it points into memory that was lent for an earlier call */
    return http1->failed;
  }
  if (http1->state == AFTER_BODY) return end_message(http1);
  if (http1->next == http1->end) return TH_NEED_DATA;
  switch (http1->state) {
    case START:
      event = skip_empty_lines(http1);
      if (event < 0) show_excerpt(http1, http1->next, th_http1_left(http1));
      return event == TH_OK && http1->state == IN_HEAD ? read_head(http1) : event;
    case IN_HEAD:
      return read_head(http1);
    case UNKNOWN_METHOD:
      return read_unknown_method(http1);
    case IN_LENGTH_BODY:
      return read_length_body(http1);
    default:
      event = read_chunked_body(http1);
      return event == TH_END ? end_message(http1) : event;
  }
}
