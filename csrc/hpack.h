/* HPACK (RFC 7541): the field blocks of HTTP/2, to fields and back.
 *
 * The caller pulls fields, as it pulls events in http1.h: th_hpack_begin() lends a complete block, and th_hpack_next()
 * gives one field after the other. Decoder and encoder each serve one direction of one connection: each block refers to
 * what those before it left in the dynamic table, so a block that came must be read to its end, and one that was
 * encoded must be sent, in order. What a field is called and contains is not checked here. */
#ifndef TH_HPACK_H
#define TH_HPACK_H

#include "base.h"
#include "buffer.h"

enum {
  TH_HPACK_TABLE_SIZE = 4096, /* SETTINGS_HEADER_TABLE_SIZE before a peer says otherwise: RFC 9113 section 6.5.2 */
  TH_HPACK_REPEATED = 34      /* names whose fields the encoder inserts: REPEATED in make_hpack_tables.py */
};

/* A decoded field. The pointers are valid until the next call on the decoder, and no longer than the block. */
typedef struct {
  const char *name; /* never NULL, nor is value, but both may be empty */
  size_t name_length;
  const char *value;
  size_t value_length;
  uint32_t *note;  /* 32 bits, 0 at first, that the caller may keep with the field's entry in the dynamic table until it
                    * is evicted; NULL if the field is none. A literal with incremental indexing is a new entry, unless
                    * it is larger than the table */
  uint32_t serial; /* of that entry: how many had been inserted on the connection with it; 0 if the field is none. It
                    * wraps around at 2^32 */
  uint8_t index;   /* in the static table (1 to 61) if the whole field is that entry, else 0 */
  uint8_t name_index; /* in the static table, of an entry with this name, if that is where the name came from, be it by
                       * way of the dynamic table; else 0 */
  uint8_t never_indexed; /* a proxy must not put it into a table: RFC 7541 section 6.2.3 */
} th_hpack_field;

/* A dynamic table (RFC 7541 section 2.3.2), private to hpack.c. It holds no memory before the first insertion, then at
 * most 512 bytes or twice max_size for names and values, whichever is more, and 20 bytes for each entry, doubling. */
typedef struct {
  th_buffer bytes;   /* names and values, the oldest first; what is in front of the oldest entry is free */
  th_buffer entries; /* a ring of a power of two of them; an entry's place is its serial */
  uint32_t ring;     /* that power of two, 0 at first */
  uint32_t count;
  uint32_t inserted; /* serial of the newest entry */
  uint32_t size;     /* with 32 for each entry: RFC 7541 section 4.1 */
  uint32_t limit;    /* of size */
  uint32_t max_size; /* of limit */
} th_hpack_table;

typedef struct {
  /* All of this is private to hpack.c. */
  const char *next; /* what is left of the block: next[0..end - next) */
  const char *end;
  const char *update; /* where in the block a size update may stand */
  th_hpack_table table;
  th_buffer scratch; /* strings decoded from Huffman's code, of the last field */
  uint32_t string_max;
  uint32_t updates; /* in this block so far */
  int32_t failed;   /* sticky th_status */
} th_hpack_decoder;

/* Starts a decoder. max_size is the SETTINGS_HEADER_TABLE_SIZE that we announced, at most 2^30. Less than 4096 would
 * refuse peers that send blocks before they have read it. A string that is longer than string_max when decoded is
 * refused. */
void th_hpack_decoder_init(th_hpack_decoder *decoder, uint32_t max_size, uint32_t string_max);
void th_hpack_decoder_free(th_hpack_decoder *decoder);
/* Frees what is needed only while a block is read. The field that was read last is not valid any more. */
void th_hpack_decoder_rest(th_hpack_decoder *decoder);
/* Begins a block: data[0..n) is all of it, its fragments joined, and must stay valid while it is read. The block before
 * must have been read to its end. */
void th_hpack_begin(th_hpack_decoder *decoder, const char *data, size_t n);
/* Advances to the next field. Returns 1 with *field filled, 0 at the end of the block, or a th_status, which later
 * calls and blocks return again: TH_EHPACK for what is not a field block, TH_EHPACK_SIZE for a string over its limit,
 * TH_ENOMEM. Each ends the connection, since the tables of both sides differ from then on. */
int th_hpack_next(th_hpack_decoder *decoder, th_hpack_field *field);

typedef struct {
  /* All of this is private to hpack.c. */
  th_hpack_table table;
  uint32_t newest[TH_HPACK_REPEATED + 1]; /* by id of a name: serial of the entry that was inserted last with it */
  uint32_t wanted;   /* limit of the table from the next block on */
  uint32_t smallest; /* that was wanted since the last block */
} th_hpack_encoder;

/* Starts an encoder, with a table of at most max_size bytes, and at most 2^30: less memory, or with 4096 what a peer
 * has anyway. */
void th_hpack_encoder_init(th_hpack_encoder *encoder, uint32_t max_size);
void th_hpack_encoder_free(th_hpack_encoder *encoder);
/* Takes the peer's SETTINGS_HEADER_TABLE_SIZE. The next block begins with the size updates that this needs (RFC 7541
 * section 4.2): the smallest size that was asked for since the last block, then the last one. */
void th_hpack_encoder_resize(th_hpack_encoder *encoder, uint32_t size);

/* The following append to out. They return TH_OK, or TH_ENOMEM with nothing appended and the table as it was. */

/* Begins a block: appends the size updates that are owed, which are seldom any. */
int th_hpack_encode_begin(th_hpack_encoder *encoder, th_buffer *out);
/* Appends :status; status is 100 to 999. */
int th_hpack_encode_status(th_hpack_encoder *encoder, th_buffer *out, int status);
/* Appends a field, whose name is lower-case. A field that is in a table is its index; secrets are never indexed;
 * what repeats on a connection is inserted into the table; the rest are literals. make_hpack_tables.py says which
 * names are which; one that is not known there is never searched for. There is no Huffman coding: a response has few
 * literals. */
int th_hpack_encode(th_hpack_encoder *encoder, th_buffer *out, const char *name, size_t name_length,
                    const char *value, size_t value_length);

#endif
