#include "chunk.h"

#include "ascii.h"

/* RFC 9112 section 7.1.1, whose blanks (BWS) a recipient must take; none may stand before the CRLF. */
enum {
  SIZE_BEGINS = 0,
  IN_SIZE,
  BEHIND_SIZE, /* a blank: only an extension may follow */
  BEFORE_NAME,
  IN_NAME,
  BEHIND_NAME, /* a blank */
  BEFORE_VALUE,
  IN_VALUE,
  IN_QUOTES,
  BEHIND_BACKSLASH,
  BEHIND_QUOTES,
  BEHIND_VALUE, /* a blank */
  LINE_FEED,
  DATA_ENDS,
  DATA_LINE_FEED,
  FAULTY
};

void th_chunk_first(th_chunk *chunk) {
  chunk->size = 0;
  chunk->state = SIZE_BEGINS;
}

void th_chunk_behind(th_chunk *chunk) {
  chunk->size = 0;
  chunk->state = DATA_ENDS;
}

static int is_blank(char c) { return c == ' ' || c == '\t'; }

/* The next state where one of ";", CR and a blank is to come. */
static uint8_t at_part_end(char c, uint8_t behind_blank) {
  if (c == ';') return BEFORE_NAME;
  if (c == '\r') return LINE_FEED;
  return is_blank(c) ? behind_blank : FAULTY;
}

static uint8_t take_digit(th_chunk *chunk, char c) {
  int digit = th_hex_value(c);
  if (digit < 0 || chunk->size >> 60) return FAULTY;
  chunk->size = chunk->size << 4 | (unsigned)digit;
  return IN_SIZE;
}

static uint8_t step(th_chunk *chunk, char c) {
  switch (chunk->state) {
    case SIZE_BEGINS: return take_digit(chunk, c);
    case IN_SIZE: return th_hex_value(c) < 0 ? at_part_end(c, BEHIND_SIZE) : take_digit(chunk, c);
    case BEHIND_SIZE:
    case BEHIND_VALUE: return c == ';' ? BEFORE_NAME : is_blank(c) ? chunk->state : FAULTY;
    case BEFORE_NAME: return is_blank(c) ? BEFORE_NAME : th_is_token(&c, 1) ? IN_NAME : FAULTY;
    case IN_NAME:
      if (c == '=') return BEFORE_VALUE;
      return th_is_token(&c, 1) ? IN_NAME : at_part_end(c, BEHIND_NAME);
    case BEHIND_NAME: return c == '=' ? BEFORE_VALUE : c == ';' ? BEFORE_NAME : is_blank(c) ? BEHIND_NAME : FAULTY;
    case BEFORE_VALUE:
      if (c == '"') return IN_QUOTES;
      return is_blank(c) ? BEFORE_VALUE : th_is_token(&c, 1) ? IN_VALUE : FAULTY;
    case IN_VALUE: return th_is_token(&c, 1) ? IN_VALUE : at_part_end(c, BEHIND_VALUE);
    case IN_QUOTES:
      if (c == '"') return BEHIND_QUOTES;
      if (c == '\\') return BEHIND_BACKSLASH;
      return th_is_field_value(&c, 1) ? IN_QUOTES : FAULTY;
    case BEHIND_BACKSLASH: return th_is_field_value(&c, 1) ? IN_QUOTES : FAULTY;
    case BEHIND_QUOTES: return at_part_end(c, BEHIND_VALUE);
    case DATA_ENDS: return c == '\r' ? DATA_LINE_FEED : FAULTY;
    case DATA_LINE_FEED: return c == '\n' ? SIZE_BEGINS : FAULTY;
    default: return FAULTY;
  }
}

int th_chunk_read(th_chunk *chunk, const char *src, size_t n, size_t *read) {
  for (size_t i = 0; i < n; i++) {
    if (chunk->state == LINE_FEED && src[i] == '\n') {
      *read = i + 1;
      return TH_CHUNK_LINE;
    }
    chunk->state = step(chunk, src[i]);
    if (chunk->state == FAULTY) {
      *read = i + 1;
      return TH_ECHUNK;
    }
  }
  *read = n;
  return TH_OK;
}
