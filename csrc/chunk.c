#include "chunk.h"

#include "ascii.h"

/* RFC 9112 section 7.1.1. A recipient must accept blanks (BWS) around names and values, but not before the CRLF. */
enum {
  SIZE_BEGINS = 0,
  IN_SIZE,
  AFTER_SIZE, /* after a blank: only an extension may follow */
  BEFORE_NAME,
  IN_NAME,
  AFTER_NAME, /* after a blank */
  BEFORE_VALUE,
  IN_VALUE,
  IN_QUOTES,
  AFTER_BACKSLASH,
  AFTER_QUOTES,
  AFTER_VALUE, /* after a blank */
  LINE_FEED,
  DATA_ENDS,
  DATA_LINE_FEED,
  INVALID
};

void th_chunk_first(th_chunk *chunk) {
  chunk->size = 0;
  chunk->state = SIZE_BEGINS;
}

void th_chunk_after_data(th_chunk *chunk) {
  chunk->size = 0;
  chunk->state = DATA_ENDS;
}

/* The next state where ";", CR or a blank is expected. */
static uint8_t at_part_end(char c, uint8_t after_blank) {
  if (c == ';') return BEFORE_NAME;
  if (c == '\r') return LINE_FEED;
  return th_is_blank(c) ? after_blank : INVALID;
}

static uint8_t take_digit(th_chunk *chunk, char c) {
  int digit = th_hex_value(c);
  if (digit < 0 || chunk->size >> 60) return INVALID;
  chunk->size = chunk->size << 4 | (unsigned)digit;
  return IN_SIZE;
}

static uint8_t step(th_chunk *chunk, char c) {
  switch (chunk->state) {
    case SIZE_BEGINS: return take_digit(chunk, c);
    case IN_SIZE: return th_hex_value(c) < 0 ? at_part_end(c, AFTER_SIZE) : take_digit(chunk, c);
    case AFTER_SIZE:
    case AFTER_VALUE: return c == ';' ? BEFORE_NAME : th_is_blank(c) ? chunk->state : INVALID;
    case BEFORE_NAME: return th_is_blank(c) ? BEFORE_NAME : th_is_token(&c, 1) ? IN_NAME : INVALID;
    case IN_NAME:
      if (c == '=') return BEFORE_VALUE;
      return th_is_token(&c, 1) ? IN_NAME : at_part_end(c, AFTER_NAME);
    case AFTER_NAME: return c == '=' ? BEFORE_VALUE : c == ';' ? BEFORE_NAME : th_is_blank(c) ? AFTER_NAME : INVALID;
    case BEFORE_VALUE:
      if (c == '"') return IN_QUOTES;
      return th_is_blank(c) ? BEFORE_VALUE : th_is_token(&c, 1) ? IN_VALUE : INVALID;
    case IN_VALUE: return th_is_token(&c, 1) ? IN_VALUE : at_part_end(c, AFTER_VALUE);
    case IN_QUOTES:
      if (c == '"') return AFTER_QUOTES;
      if (c == '\\') return AFTER_BACKSLASH;
      return th_is_field_value(&c, 1) ? IN_QUOTES : INVALID;
    case AFTER_BACKSLASH: return th_is_field_value(&c, 1) ? IN_QUOTES : INVALID;
    case AFTER_QUOTES: return at_part_end(c, AFTER_VALUE);
    case DATA_ENDS: return c == '\r' ? DATA_LINE_FEED : INVALID;
    case DATA_LINE_FEED: return c == '\n' ? SIZE_BEGINS : INVALID;
    default: return INVALID;
  }
}

int th_chunk_read(th_chunk *chunk, const char *src, size_t n, size_t *read) {
  for (size_t i = 0; i < n; i++) {
    if (chunk->state == LINE_FEED && src[i] == '\n') {
      *read = i + 1;
      return TH_CHUNK_LINE;
    }
    chunk->state = step(chunk, src[i]);
    if (chunk->state == INVALID) {
      *read = i + 1;
      return TH_ECHUNK;
    }
  }
  *read = n;
  return TH_OK;
}
