/* Requests: every cut of the bytes gives the same heads, bodies and verdict; limits are exact; llhttp alone sees each
 * message end in the same place. */
#include "http1.h"
#include "target.h"

/* The outcome of a message. */
typedef struct {
  size_t start; /* of its request line */
  size_t end;   /* 0 if it has none yet */
  uint32_t line;
  uint32_t section;
  uint32_t fields;
  uint8_t chunked;
  uint64_t body;
  size_t trace_before; /* length of the trace without it */
} message;

enum { MESSAGES_KEPT = 64 };

typedef struct {
  message messages[MESSAGES_KEPT];
  size_t count;
  int verdict;
  th_buffer trace;
} outcome;

static void record_slice(outcome *out, const th_head *head, th_slice slice, size_t read) {
  EXPECT((size_t)slice.offset + slice.length <= read);
  record_number(&out->trace, 's', slice.length);
  record(&out->trace, head->data + slice.offset, slice.length);
}

/* `source` is the head's first byte in the input, `read` the number of bytes read of it. */
static void record_head(outcome *out, message *now, const th_head *head, const char *source, size_t read) {
  EXPECT(memcmp(head->data, source, read) == 0);
  EXPECT(!head->chunked || head->content_length == 0);
  now->line = head->target.offset + head->target.length + 9; /* " HTTP/1.1" follows the target */
  now->section = (uint32_t)read - now->line - 2;
  now->fields = head->field_count;
  now->chunked = head->chunked;
  now->body = head->content_length;
  uint8_t facts[] = {head->method,   head->version,   head->form,         head->keep_alive,
                     head->chunked,  head->upgrade,   head->websocket,    head->expect_continue,
                     head->trailers, head->forwarded, head->https_target, head->path_escaped};
  record(&out->trace, facts, sizeof facts);
  record_number(&out->trace, 'l', head->content_length);
  record_slice(out, head, head->target, read);
  record_slice(out, head, head->path, read);
  record_slice(out, head, head->query, read);
  record_slice(out, head, head->authority, read);
  for (uint32_t i = 0; i < head->field_count; i++) {
    const th_field *field = th_head_field(head, i);
    EXPECT(field->id == th_field_lookup(head->data + field->name.offset, field->name.length));
    EXPECT(field->name.length > 0);
    record_slice(out, head, field->name, read);
    record_slice(out, head, field->value, read);
  }
}

static void check_refusal(th_http1 *http1, int status, const char *data, size_t n) {
  int code = th_status_code(status);
  EXPECT(code >= 400 && code < 600 && code != 500);
  EXPECT(th_http1_reason(http1)[0] != 0);
  EXPECT(http1->excerpt_length <= 64);
  if (http1->excerpt_length > 0) EXPECT(memmem(data, n, http1->excerpt, http1->excerpt_length) != NULL);
  char *behind = exactly("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27);
  th_http1_feed(http1, behind, 27);
  EXPECT(th_http1_next(http1) == status); /* the status is final */
  free(behind);
}

static void run(const char *data, size_t n, const th_http1_limits *limits, enum cut cut, outcome *out) {
  knife blade = knife_for(cut, data, n);
  message now = {0};
  th_http1 http1;
  int event = TH_NEED_DATA;
  int in_message = 0;
  uint64_t body = 0;
  size_t read = 0;
  memset(out, 0, sizeof *out);
  th_http1_init(&http1, limits);
  for (size_t at = 0; at < n && event >= 0;) {
    size_t size = next_piece(&blade, n - at);
    char *piece = exactly(data + at, size);
    at += size;
    th_http1_feed(&http1, piece, size);
    while ((event = th_http1_next(&http1)) > TH_NEED_DATA) {
      EXPECT(th_http1_left(&http1) <= at - read); /* nothing is read twice */
      read = at - th_http1_left(&http1);
      if (event == TH_HEAD) {
        EXPECT(!in_message);
        in_message = 1;
        body = 0;
        now.trace_before = out->trace.length;
        now.start = now.end;
        while (data[now.start] == '\r') now.start += 2; /* empty lines before it */
        record_head(out, &now, &http1.head, data + now.start, read - now.start);
        EXPECT(now.line <= limits->request_line && now.section <= limits->head && now.fields <= limits->fields);
      } else if (event == TH_BODY) {
        EXPECT(in_message && http1.body_length > 0);
        body += http1.body_length;
        EXPECT(limits->body == 0 || body <= limits->body);
        if (!now.chunked) {
          EXPECT(body <= now.body);
          EXPECT(memcmp(http1.body, data + read - http1.body_length, http1.body_length) == 0);
        }
        record(&out->trace, http1.body, http1.body_length);
      } else {
        EXPECT(event == TH_END && in_message);
        EXPECT(now.chunked || body == now.body);
        in_message = 0;
        now.body = body;
        now.end = read;
        if (out->count < MESSAGES_KEPT) out->messages[out->count++] = now;
        record_number(&out->trace, 'e', body);
      }
    }
    EXPECT(event < 0 || th_http1_left(&http1) == 0);
    EXPECT(event < 0 || !in_message || !th_http1_is_idle(&http1));
    if (event < 0) {
      check_refusal(&http1, event, data, n);
    } else {
      th_http1_feed(&http1, "", 0);
    }
    free(piece);
  }
  if (in_message) {
    message last = now;
    last.end = 0;
    last.body = now.chunked ? body : now.body;
    if (out->count < MESSAGES_KEPT) out->messages[out->count++] = last;
  }
  out->verdict = event;
  record_number(&out->trace, 'v', (uint64_t)(int64_t)event);
  th_http1_free(&http1);
}

static int is_size(int status) {
  return status == TH_ELINE_SIZE || status == TH_EHEAD_SIZE || status == TH_EHEAD_COUNT || status == TH_ETRAILER_SIZE ||
         status == TH_EBODY_SIZE;
}

/* Compares with a run without limits: messages are refused if, and only if, they are over a limit. */
static void check_limits(const outcome *bounded, const outcome *free_of, const th_http1_limits *limits) {
  for (size_t i = 0; i < free_of->count; i++) {
    const message *one = &free_of->messages[i];
    int over_body = limits->body > 0 && one->body > limits->body;
    int status = bounded->verdict;
    if (one->line > limits->request_line) {
      EXPECT(status == TH_ELINE_SIZE);
    } else if (one->section > limits->head || one->fields > limits->fields) {
      EXPECT(status == TH_EHEAD_SIZE || status == TH_EHEAD_COUNT);
      EXPECT(status == TH_EHEAD_SIZE ? one->section > limits->head : one->fields > limits->fields);
    } else if (over_body) {
      EXPECT(status == TH_EBODY_SIZE);
      /* A chunked body is delivered up to its limit; one with a Content-Length not at all. */
      if (one->chunked) {
        EXPECT(bounded->count == i + 1 && bounded->messages[i].body == limits->body);
      }
    } else if (bounded->count > i && bounded->messages[i].end == one->end) {
      EXPECT(bounded->messages[i].body == one->body);
      continue;
    } else {
      EXPECT(one->chunked && status == TH_ETRAILER_SIZE);
      return;
    }
    EXPECT(bounded->trace.length >= one->trace_before);
    EXPECT(one->trace_before == 0 || memcmp(bounded->trace.data, free_of->trace.data, one->trace_before) == 0);
    return;
  }
  /* No complete message is over a limit; an incomplete head or trailer section may be. */
  EXPECT(bounded->verdict == free_of->verdict || is_size(bounded->verdict));
}

/* --- llhttp alone, strict but for the versions ------------------------------------------------------------------- */

typedef struct {
  uint64_t body;
  int ends;
} oracle;

static int on_body(llhttp_t *parser, const char *at, size_t n) {
  (void)at;
  ((oracle *)parser->data)->body += n;
  return 0;
}

static int on_headers(llhttp_t *parser) {
  parser->upgrade = 0; /* no upgrade is accepted */
  return 0;
}

static int on_end(llhttp_t *parser) {
  ((oracle *)parser->data)->ends++;
  return HPE_PAUSED;
}

static void ask_llhttp(const char *data, const message *one) {
  llhttp_settings_t settings = {.on_body = on_body, .on_headers_complete = on_headers, .on_message_complete = on_end};
  llhttp_t parser;
  oracle seen = {0, 0};
  size_t n = one->end - one->start;
  char *copy = exactly(data + one->start, n);
  llhttp_init(&parser, HTTP_REQUEST, &settings);
  llhttp_set_lenient_version(&parser, 1);
  parser.data = &seen;
  int error = llhttp_execute(&parser, copy, n);
  if (error == HPE_PAUSED) {
    EXPECT(llhttp_get_error_pos(&parser) == copy + n && seen.ends == 1 && seen.body == one->body);
  } else {
    /* llhttp is stricter in lists of codings and in extensions of chunks: docs/design/protocol.md. */
    int is_coding = error == HPE_INVALID_TRANSFER_ENCODING;
    EXPECT(one->chunked && seen.ends == 0 && seen.body <= one->body);
    EXPECT(is_coding || error == HPE_INVALID_CHUNK_SIZE || error == HPE_STRICT);
    EXPECT(is_coding || memchr(copy, ';', n) != NULL);
  }
  free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  if (size == 0) return 0;
  static const th_http1_limits WIDE = {1 << 20, 1 << 20, 1 << 20, 0};
  th_http1_limits limits = {
      .request_line = input[0] & 1 ? 40 : 65536,
      .head = input[0] & 2 ? 100 : 65536,
      .fields = input[0] & 4 ? 3 : 100,
      .body = input[0] & 8 ? 10 : 0,
  };
  const char *data = (const char *)input + 1;
  size_t n = size - 1;
  outcome wide;
  outcome whole;
  run(data, n, &WIDE, WHOLE, &wide);
  run(data, n, &limits, WHOLE, &whole);
  check_limits(&whole, &wide, &limits);
  for (size_t i = 0; i < wide.count; i++) {
    if (wide.messages[i].end > 0) ask_llhttp(data, &wide.messages[i]);
  }
  for (enum cut cut = BYTEWISE; cut < CUTS; cut++) {
    outcome other;
    run(data, n, &limits, cut, &other);
    expect_same(&whole.trace, &other.trace);
    th_buffer_free(&other.trace);
  }
  th_buffer_free(&whole.trace);
  th_buffer_free(&wide.trace);
  return 0;
}
