/* HPACK (RFC 7541): decodes and encodes the field blocks of HTTP/2.
 *
 * The caller pulls fields, as it pulls events in http1.h: th_hpack_begin() lends a complete block, and th_hpack_next()
 * advances to the next field. Decoder and encoder each serve one direction of one connection. Blocks depend on the
 * dynamic table that earlier blocks left, so every received block must be read to its end, and every encoded block must
 * be sent, in order. Names and values of fields are not checked here. */
#ifndef TH_HPACK_H
#define TH_HPACK_H

#include "base.h"
#include "buffer.h"

enum {
  TH_HPACK_TABLE_SIZE = 4096, /* bytes; default of SETTINGS_HEADER_TABLE_SIZE: RFC 9113 section 6.5.2 */
  TH_HPACK_REPEATED = 34      /* number of names whose fields the encoder inserts: REPEATED in make_hpack_tables.py */
};

/* A decoded field. The pointers are valid until the next call on the decoder, and no longer than the block. */
typedef struct {
  const char *name; /* name and value are never NULL, but may be empty */
  size_t name_length;
  const char *value;
  size_t value_length;
  uint32_t *note;  /* 32 bits for the caller, 0 at first, that live as long as the field's entry in the dynamic table;
                    * NULL if it has no entry. A literal with incremental indexing becomes a new entry, unless it is
                    * larger than the table */
  uint32_t serial; /* number of that entry, counted from 1 in order of insertion, wrapping around at 2^32; 0 if the
                    * field has no entry */
  uint8_t index;   /* index in the static table (1 to 61) of an entry that equals the whole field; 0 if there is none */
  uint8_t name_index; /* index in the static table of an entry that the name was taken from, directly or through an
                       * entry of the dynamic table; else 0 */
  uint8_t never_indexed; /* proxies must not put the field into a table: RFC 7541 section 6.2.3 */
} th_hpack_field;

/* A dynamic table (RFC 7541 section 2.3.2), private to hpack.c. It holds no memory before the first insertion, then at
 * most 512 bytes or twice max_size, whichever is more, for names and values, and 20 bytes for each slot of the ring. */
typedef struct {
  th_buffer bytes;   /* names and values, oldest first; space before the oldest entry is free */
  th_buffer entries; /* ring buffer; an entry's slot is its serial modulo `ring` */
  uint32_t ring;     /* slots of the ring: a power of two, or 0 at first */
  uint32_t count;    /* entries in the table */
  uint32_t inserted; /* serial of the newest entry */
  uint32_t size;     /* bytes, including 32 for each entry: RFC 7541 section 4.1 */
  uint32_t limit;    /* maximum of `size` */
  uint32_t max_size; /* maximum of `limit` */
} th_hpack_table;

typedef struct {
  /* All of this is private to hpack.c. */
  const char *next; /* rest of the block: next[0..end - next) */
  const char *end;
  const char *update; /* where in the block a size update may stand */
  th_hpack_table table;
  th_buffer scratch; /* the last field's strings, if they were Huffman-coded */
  uint32_t string_max;
  uint32_t updates; /* in this block so far */
  int32_t failed;   /* sticky th_status */
} th_hpack_decoder;

/* Starts a decoder. max_size is the SETTINGS_HEADER_TABLE_SIZE that was announced, at most 2^30; below 4096, blocks
 * that peers send before they have read it would be refused. Strings that decode to more than string_max are refused. */
void th_hpack_decoder_init(th_hpack_decoder *decoder, uint32_t max_size, uint32_t string_max);
void th_hpack_decoder_free(th_hpack_decoder *decoder);
/* Frees memory that is needed only while a block is read. The last field that was read becomes invalid. */
void th_hpack_decoder_rest(th_hpack_decoder *decoder);
/* Begins a block: data[0..n) is the whole block, its fragments joined, and must stay valid while it is read. The
 * previous block must have been read to its end. */
void th_hpack_begin(th_hpack_decoder *decoder, const char *data, size_t n);
/* Advances to the next field. Returns 1 with *field filled, 0 at the end of the block, or a th_status, which later
 * calls and blocks return again: TH_EHPACK for an invalid block, TH_EHPACK_SIZE for a string over its limit, TH_ENOMEM.
 * Each must end the connection, because the tables of both sides differ from then on. */
int th_hpack_next(th_hpack_decoder *decoder, th_hpack_field *field);

typedef struct {
  /* All of this is private to hpack.c. */
  th_hpack_table table;
  uint32_t newest[TH_HPACK_REPEATED + 1]; /* by the id of a name: serial of the newest entry with that name */
  uint32_t wanted;   /* limit of the table from the next block on */
  uint32_t smallest; /* least value of `wanted` since the last block */
} th_hpack_encoder;

/* Starts an encoder, whose table is limited to max_size bytes, at most 2^30, whatever the peer allows. */
void th_hpack_encoder_init(th_hpack_encoder *encoder, uint32_t max_size);
void th_hpack_encoder_free(th_hpack_encoder *encoder);
/* Applies the peer's SETTINGS_HEADER_TABLE_SIZE. The next block begins with the size updates that this requires (RFC
 * 7541 section 4.2): the smallest size since the last block, then the latest one. */
void th_hpack_encoder_resize(th_hpack_encoder *encoder, uint32_t size);

/* The following append to out. They return TH_OK, or TH_ENOMEM with nothing appended and the table as it was. */

/* Begins a block: appends size updates if any are due. */
int th_hpack_encode_begin(th_hpack_encoder *encoder, th_buffer *out);
/* Appends :status; status is 100 to 999. */
int th_hpack_encode_status(th_hpack_encoder *encoder, th_buffer *out, int status);
/* Appends a field, whose name must be lower-case. A field that is in a table is written as its index; secrets are never
 * indexed; fields that repeat on a connection are inserted into the table; others are literals. make_hpack_tables.py
 * has the kinds of names; other names are not searched for. Strings are not Huffman-coded, because a response has few
 * literals. */
int th_hpack_encode(th_hpack_encoder *encoder, th_buffer *out, const char *name, size_t name_length,
                    const char *value, size_t value_length);

#endif
