#include "hpack.h"

#include <string.h>

#include "hpack_tables.h"

/* For code that most fields do not need: inlined, it would make the common path save all registers. */
#if defined(__GNUC__)
#define SELDOM __attribute__((noinline))
#else
#define SELDOM
#endif

enum {
  ENTRY_OVERHEAD = 32, /* RFC 7541 section 4.1 */
  /* The first bits of each representation (section 6), and the number of its first byte's bits that hold an integer. */
  INDEXED = 0x80,
  INDEXED_BITS = 7,
  INCREMENTAL = 0x40,
  INCREMENTAL_BITS = 6,
  SIZE_UPDATE = 0x20,
  SIZE_UPDATE_MASK = 0xe0,
  SIZE_UPDATE_BITS = 5,
  NEVER_INDEXED = 0x10,
  LITERAL = 0x00,
  LITERAL_BITS = 4,
  HUFFMAN = 0x80,
  STRING_BITS = 7,
  INTEGER_MAX = 6, /* most bytes of an encoded integer below 2^32 */
  FIRST_BYTES = 512,
  FIRST_RING = 16, /* entries */
  SCRATCH_KEPT = 512, /* bytes kept between blocks */
  UPDATES_MAX = 2, /* size updates in a block: section 4.2 */
  EOS_BITS = 30,
  STATIC_200 = 8,  /* :status: 200 */
  FIELD_STEPS = 4 /* entries of a name that the encoder compares: this many values may alternate */
};

typedef struct {
  uint32_t offset; /* of the name in the table's bytes; the value follows it */
  uint32_t name_length;
  uint32_t value_length;
  uint32_t note; /* the caller's; in the encoder, the serial of the previous entry with the same name */
  uint8_t name;  /* the field's name_index; in the encoder, the id of the name */
} entry;

/* --- Dynamic table --------------------------------------------------------------------------------------------- */

static void table_init(th_hpack_table *table, uint32_t max_size) {
  memset(table, 0, sizeof *table);
  table->max_size = max_size;
  table->limit = max_size < TH_HPACK_TABLE_SIZE ? max_size : TH_HPACK_TABLE_SIZE;
}

static void table_free(th_hpack_table *table) {
  th_buffer_free(&table->bytes);
  th_buffer_free(&table->entries);
}

/* Returns the entry with this serial, which must be one of the latest `count`. */
static inline entry *table_entry(const th_hpack_table *table, uint32_t serial) {
  return (entry *)(void *)table->entries.data + (serial & (table->ring - 1));
}

static inline int table_has(const th_hpack_table *table, uint32_t serial) {
  return table->inserted - serial < table->count;
}

/* Returns where the oldest entry's bytes begin; the space before them is free. */
static size_t table_start(const th_hpack_table *table) {
  return table->count > 0 ? table_entry(table, table->inserted - table->count + 1)->offset : table->bytes.length;
}

/* Evicts the oldest entries until the table has at most this size: section 4.3. Their bytes stay valid until the next
 * insertion. */
static void table_evict(th_hpack_table *table, uint32_t size) {
  while (table->size > size) {
    const entry *oldest = table_entry(table, table->inserted - table->count + 1);
    table->size -= oldest->name_length + oldest->value_length + ENTRY_OVERHEAD;
    table->count--;
  }
}

static void table_resize(th_hpack_table *table, uint32_t limit) {
  table->limit = limit;
  table_evict(table, limit);
}

/* Moves the entries' bytes to the front: of new memory with this capacity, or of the same memory if it is 0. */
static int table_move(th_hpack_table *table, size_t capacity) {
  th_buffer *bytes = &table->bytes;
  size_t start = table_start(table);
  size_t used = bytes->length - start;
  if (capacity == 0) {
    memmove(bytes->data, bytes->data + start, used);
  } else {
    th_buffer other;
    th_buffer_init(&other);
    if (th_buffer_reserve(&other, capacity) < 0) return TH_ENOMEM;
    if (used > 0) memcpy(other.data, bytes->data + start, used);
    th_buffer_free(bytes);
    *bytes = other;
  }
  bytes->length = used;
  for (uint32_t i = 0; i < table->count; i++) {
    entry *moved = table_entry(table, table->inserted - i);
    moved->offset = (uint32_t)(moved->offset - start);
  }
  return TH_OK;
}

/* Makes room for n more bytes, by moving the entries' bytes to the front, or to new memory if less than half is free.
 * *name is adjusted if it points into them. */
static int table_make_room(th_hpack_table *table, size_t n, const char **name, int name_inside) {
  th_buffer *bytes = &table->bytes;
  int is_held = bytes->capacity > 0; /* n may be 0, but even an empty string must not be at NULL */
  if (is_held && n <= bytes->capacity - bytes->length) return TH_OK;
  size_t most = (size_t)table->max_size * 2;
  size_t start = table_start(table);
  size_t used = bytes->length - start;
  size_t name_at = name_inside ? (size_t)(*name - bytes->data) : start;
  size_t capacity = 0;
  if (!is_held || used + n > bytes->capacity || (start < used && bytes->capacity < most)) {
    capacity = bytes->capacity * 2 < most ? bytes->capacity * 2 : most;
    if (capacity < used + n) capacity = used + n;
    if (capacity < FIRST_BYTES) capacity = FIRST_BYTES;
  }
  int status = table_move(table, capacity);
  if (status < 0) return status;
  if (name_inside) *name = bytes->data + (name_at - start);
  return TH_OK;
}

/* Gives back the memory that the entries do not fill, if it is much; without memory for the move it stays. */
static void table_rest(th_hpack_table *table) {
  size_t used = table->bytes.length - table_start(table);
  if (table->bytes.capacity - used > FIRST_BYTES) table_move(table, used > FIRST_BYTES ? used : FIRST_BYTES);
}

/* Makes room for one more entry. */
static int table_grow_ring(th_hpack_table *table) {
  if (table->count < table->ring) return TH_OK;
  th_hpack_table larger = *table;
  larger.ring = table->ring > 0 ? table->ring * 2 : FIRST_RING;
  th_buffer_init(&larger.entries);
  if (th_buffer_reserve(&larger.entries, larger.ring * sizeof(entry)) < 0) return TH_ENOMEM;
  for (uint32_t i = 0; i < table->count; i++) {
    *table_entry(&larger, table->inserted - i) = *table_entry(table, table->inserted - i);
  }
  th_buffer_free(&table->entries);
  *table = larger;
  return TH_OK;
}

/* Inserts a field and evicts what it displaces. Sets *added to its entry, or to NULL if it is larger than the table,
 * which is then empty (section 4.4). Returns TH_OK, or TH_ENOMEM with the entries as they were.
 *
 * `name` may point into the table, also into an entry that gets evicted; then name_inside must be set. */
static int table_insert(th_hpack_table *table, const char *name, size_t name_length, int name_inside,
                        const char *value, size_t value_length, entry **added) {
  size_t n = name_length + value_length; /* strings are shorter than 2^32; with 32 bits, both fit into memory */
  *added = NULL;
  if (table->limit < ENTRY_OVERHEAD || n > table->limit - ENTRY_OVERHEAD) {
    table_evict(table, 0);
    return TH_OK;
  }
  int status = table_make_room(table, n, &name, name_inside);
  if (status == TH_OK) status = table_grow_ring(table);
  if (status < 0) return status;
  char *at = table->bytes.data + table->bytes.length;
  if (name_length > 0) memcpy(at, name, name_length);
  if (value_length > 0) memcpy(at + name_length, value, value_length);
  table_evict(table, table->limit - ENTRY_OVERHEAD - (uint32_t)n);
  table->size += (uint32_t)n + ENTRY_OVERHEAD;
  table->count++;
  table->inserted++;
  *added = table_entry(table, table->inserted);
  (*added)->offset = (uint32_t)table->bytes.length;
  (*added)->name_length = (uint32_t)name_length;
  (*added)->value_length = (uint32_t)value_length;
  table->bytes.length += n;
  return TH_OK;
}

/* --- Huffman code ---------------------------------------------------------------------------------------------- */

/* Reads eight bytes as a big-endian number, which compilers turn into one load. */
static inline uint64_t load_word(const uint8_t *src) {
  return (uint64_t)src[0] << 56 | (uint64_t)src[1] << 48 | (uint64_t)src[2] << 40 | (uint64_t)src[3] << 32 |
         (uint64_t)src[4] << 24 | (uint64_t)src[5] << 16 | (uint64_t)src[6] << 8 | src[7];
}

/* Decodes the symbol whose code, longer than STEP_BITS, is at the top of `bits`. Returns the code's length, or 0 for
 * EOS. */
static int long_code(uint64_t bits, uint8_t *symbol) {
  uint32_t top = (uint32_t)(bits >> 32);
  for (size_t i = 0; i < sizeof LONG_CODES / sizeof LONG_CODES[0]; i++) {
    if (top < LONG_CODES[i].end) {
      *symbol = LONG_SYMBOLS[LONG_CODES[i].symbols + ((top - LONG_CODES[i].first) >> (32 - LONG_CODES[i].bits))];
      return LONG_CODES[i].bits;
    }
  }
  return 0;
}

/* Decodes src[0..n) (section 5.2) to dst, which must hold n * 8 / 5 + 1 bytes: no code has less than 5 bits, and two
 * symbols are written at once. Returns the number of bytes, or -1 if the code is invalid. */
static ptrdiff_t decode_huffman(const uint8_t *src, size_t n, char *dst) {
  const uint8_t *end = src + n;
  char *out = dst;
  uint64_t bits = 0; /* the next `have` bits, from the top; below them bits that were loaded already, or 0 */
  int have = 0;
  for (;;) {
    if (end - src >= 8) {
      bits |= load_word(src) >> have;
      src += (63 - have) >> 3;
      have |= 56;
    } else {
      for (; have <= 56 && src < end; have += 8) bits |= (uint64_t)*src++ << (56 - have);
    }
    uint32_t step = 1;
    while (have >= STEP_BITS && (step = STEPS[bits >> (64 - STEP_BITS)]) != 0) {
      int used = step >> 16 & 0xff;
      out[0] = (char)step;
      out[1] = (char)(step >> 8);
      out += step >> 28;
      bits <<= used;
      have -= used;
    }
    if (step == 0) {
      if (have < EOS_BITS && src < end) continue;
      /* Fill up with ones after the end, so that a truncated code does not look like a shorter one. */
      int used = long_code(have < EOS_BITS ? bits | UINT64_MAX >> have : bits, (uint8_t *)out);
      if (used == 0 || used > have) return -1;
      out++;
      bits <<= used;
      have -= used;
    } else if (src == end) {
      break;
    }
  }
  /* Fewer than STEP_BITS are left: symbols, and up to 7 ones of padding. */
  for (;;) {
    bits |= UINT64_MAX >> have;
    if (have < 8 && bits == UINT64_MAX) return out - dst;
    uint32_t step = STEPS[bits >> (64 - STEP_BITS)];
    int used = step >> 24 & 0xf;
    if (used == 0 || used > have) return -1;
    *out++ = (char)step;
    bits <<= used;
    have -= used;
  }
}

/* --- Decoder --------------------------------------------------------------------------------------------------- */

void th_hpack_decoder_init(th_hpack_decoder *decoder, uint32_t max_size, uint32_t string_max) {
  memset(decoder, 0, sizeof *decoder);
  table_init(&decoder->table, max_size);
  decoder->string_max = string_max;
}

void th_hpack_decoder_free(th_hpack_decoder *decoder) {
  table_free(&decoder->table);
  th_buffer_free(&decoder->scratch);
}

void th_hpack_decoder_rest(th_hpack_decoder *decoder) {
  th_buffer_free(&decoder->scratch);
  table_rest(&decoder->table);
}

void th_hpack_begin(th_hpack_decoder *decoder, const char *data, size_t n) {
  if (decoder->failed < 0) return;
  decoder->next = data;
  decoder->end = data + n;
  decoder->update = data;
  decoder->updates = 0;
}

static int fail(th_hpack_decoder *decoder, int status) {
  decoder->failed = status;
  decoder->next = decoder->end; /* where th_hpack_next() finds it */
  return status;
}

static int end_block(th_hpack_decoder *decoder) {
  if (decoder->scratch.capacity > SCRATCH_KEPT) th_buffer_free(&decoder->scratch);
  return decoder->failed;
}

/* Reads an integer (section 5.1) whose prefix is the lowest bits of its first byte. Trailing zeros are allowed, but no
 * more than five bytes after the first, as 2^32 - 1 needs. */
static int read_integer(th_hpack_decoder *decoder, int prefix, uint32_t *value) {
  const uint8_t *src = (const uint8_t *)decoder->next;
  const uint8_t *end = (const uint8_t *)decoder->end;
  uint32_t most = (1u << prefix) - 1;
  uint64_t sum = *src++ & most;
  if (sum == most) {
    int shift = 0;
    do {
      if (src == end || shift > 28) return TH_EHPACK;
      sum += (uint64_t)(*src & 0x7f) << shift;
      shift += 7;
    } while (*src++ & 0x80);
    if (sum > UINT32_MAX) return TH_EHPACK;
  }
  decoder->next = (const char *)src;
  *value = (uint32_t)sum;
  return TH_OK;
}

typedef struct {
  const char *data; /* NULL if it is in scratch, which may still move, at offset `at` */
  size_t length;
  size_t at;
} text;

/* Reads a string (section 5.2). */
static int read_string(th_hpack_decoder *decoder, text *string) {
  if (decoder->next == decoder->end) return TH_EHPACK;
  int coded = (uint8_t)*decoder->next & HUFFMAN;
  uint32_t n;
  int status = read_integer(decoder, STRING_BITS, &n);
  if (status < 0) return status;
  if (n > (size_t)(decoder->end - decoder->next)) return TH_EHPACK;
  string->data = decoder->next;
  string->length = n;
  decoder->next += n;
  if (coded && n > 0) {
    /* No code has more than 30 bits, so this would exceed string_max; refuse it before allocating. */
    if (n / 4 > decoder->string_max) return TH_EHPACK_SIZE;
    th_buffer *scratch = &decoder->scratch;
    status = th_buffer_reserve(scratch, (size_t)((uint64_t)n * 8 / 5) + 1);
    if (status < 0) return status;
    string->at = scratch->length;
    ptrdiff_t decoded = decode_huffman((const uint8_t *)string->data, n, scratch->data + scratch->length);
    if (decoded < 0) return TH_EHPACK;
    string->data = NULL;
    string->length = (size_t)decoded;
    scratch->length += string->length;
  }
  return string->length > decoder->string_max ? TH_EHPACK_SIZE : TH_OK;
}

/* Fills the field from an entry of the dynamic table. */
static inline void read_entry(const th_hpack_decoder *decoder, entry *from, uint32_t serial, th_hpack_field *field) {
  field->name = decoder->table.bytes.data + from->offset;
  field->name_length = from->name_length;
  field->value = field->name + from->name_length;
  field->value_length = from->value_length;
  field->note = &from->note;
  field->serial = serial;
  field->index = 0;
  field->name_index = from->name;
  field->never_indexed = 0;
}

/* Fills the field from the entry with this index in either table: section 2.3.3. */
static inline int read_index(const th_hpack_decoder *decoder, uint32_t index, th_hpack_field *field) {
  if (index <= STATIC_COUNT) {
    *field = STATIC_FIELDS[index];
    return index > 0 ? 1 : TH_EHPACK;
  }
  uint32_t back = index - STATIC_COUNT - 1;
  if (back >= decoder->table.count) return TH_EHPACK;
  uint32_t serial = decoder->table.inserted - back;
  read_entry(decoder, table_entry(&decoder->table, serial), serial, field);
  return 1;
}

/* Reads a literal: section 6.2. */
static int read_literal(th_hpack_decoder *decoder, th_hpack_field *field) {
  uint8_t first = (uint8_t)*decoder->next;
  text name = {NULL, 0, 0};
  text value = {NULL, 0, 0};
  uint32_t index;
  int status = read_integer(decoder, first & INCREMENTAL ? INCREMENTAL_BITS : LITERAL_BITS, &index);
  if (status < 0) return status;
  decoder->scratch.length = 0;
  if (index > 0) {
    status = read_index(decoder, index, field);
    name.data = field->name;
    name.length = field->name_length;
  } else {
    status = read_string(decoder, &name);
    field->name_index = 0;
  }
  if (status >= 0) status = read_string(decoder, &value);
  if (status < 0) return status;
  if (name.data == NULL) name.data = decoder->scratch.data + name.at;
  if (value.data == NULL) value.data = decoder->scratch.data + value.at;
  if (first & INCREMENTAL) {
    entry *added;
    status = table_insert(&decoder->table, name.data, name.length, index > STATIC_COUNT, value.data, value.length,
                          &added);
    if (status < 0) return status;
    if (added != NULL) {
      added->note = 0;
      added->name = field->name_index;
      read_entry(decoder, added, decoder->table.inserted, field);
      return 1;
    }
  }
  field->name = name.data;
  field->name_length = name.length;
  field->value = value.data;
  field->value_length = value.length;
  field->note = NULL;
  field->serial = 0;
  field->index = 0;
  field->never_indexed = (first & (INCREMENTAL | NEVER_INDEXED)) == NEVER_INDEXED;
  return 1;
}

/* Reads a size update (section 6.3), which may only be at the beginning of a block (section 4.2). */
static int read_update(th_hpack_decoder *decoder) {
  uint32_t size;
  if (decoder->next != decoder->update || decoder->updates == UPDATES_MAX) return TH_EHPACK;
  int status = read_integer(decoder, SIZE_UPDATE_BITS, &size);
  if (status < 0) return status;
  if (size > decoder->table.max_size) return TH_EHPACK;
  decoder->update = decoder->next;
  decoder->updates++;
  table_resize(&decoder->table, size);
  return TH_OK;
}

/* Reads any representation, or the end of the block. */
SELDOM static int read_any(th_hpack_decoder *decoder, th_hpack_field *field) {
  int status = TH_OK;
  while (status == TH_OK) {
    if (decoder->next == decoder->end) return end_block(decoder);
    uint8_t first = (uint8_t)*decoder->next;
    if (first & INDEXED) {
      uint32_t index;
      status = read_integer(decoder, INDEXED_BITS, &index);
      if (status == TH_OK) status = read_index(decoder, index, field);
    } else if ((first & SIZE_UPDATE_MASK) == SIZE_UPDATE) {
      status = read_update(decoder);
    } else {
      status = read_literal(decoder, field);
    }
  }
  return status > 0 ? status : fail(decoder, status);
}

/* Reads an index in one byte, which most fields of most requests are, and leaves the rest to read_any(). */
int th_hpack_next(th_hpack_decoder *decoder, th_hpack_field *field) {
  const th_hpack_table *table = &decoder->table;
  if (decoder->next == decoder->end) return read_any(decoder, field);
  uint32_t index = (uint32_t)(uint8_t)*decoder->next - INDEXED;
  uint32_t back = index - STATIC_COUNT - 1;
  if (back < table->count && index < (1 << INDEXED_BITS) - 1) {
    uint32_t serial = table->inserted - back;
    read_entry(decoder, table_entry(table, serial), serial, field);
  } else if (index - 1 < STATIC_COUNT) {
    *field = STATIC_FIELDS[index];
  } else {
    return read_any(decoder, field);
  }
  decoder->next++;
  return 1;
}

/* --- Encoder --------------------------------------------------------------------------------------------------- */

void th_hpack_encoder_init(th_hpack_encoder *encoder, uint32_t max_size) {
  memset(encoder, 0, sizeof *encoder);
  table_init(&encoder->table, max_size);
  encoder->table.limit = TH_HPACK_TABLE_SIZE; /* initial size of the peer's table */
  encoder->wanted = TH_HPACK_TABLE_SIZE;
  encoder->smallest = TH_HPACK_TABLE_SIZE;
  if (max_size < TH_HPACK_TABLE_SIZE) th_hpack_encoder_resize(encoder, max_size);
}

void th_hpack_encoder_free(th_hpack_encoder *encoder) { table_free(&encoder->table); }

void th_hpack_encoder_resize(th_hpack_encoder *encoder, uint32_t size) {
  encoder->wanted = size < encoder->table.max_size ? size : encoder->table.max_size;
  if (encoder->wanted < encoder->smallest) encoder->smallest = encoder->wanted;
}

/* Writes an integer after the bits `first`. Returns where the next byte goes. */
static inline char *write_integer(char *at, int first, int prefix, size_t value) {
  size_t most = ((size_t)1 << prefix) - 1;
  if (value < most) {
    *at++ = (char)((size_t)first | value);
    return at;
  }
  *at++ = (char)((size_t)first | most);
  for (value -= most; value >= 0x80; value >>= 7) *at++ = (char)(value | 0x80);
  *at++ = (char)value;
  return at;
}

static inline char *write_string(char *at, const char *src, size_t n) {
  at = write_integer(at, 0, STRING_BITS, n);
  if (n > 0) memcpy(at, src, n);
  return at + n;
}

int th_hpack_encode_begin(th_hpack_encoder *encoder, th_buffer *out) {
  th_hpack_table *table = &encoder->table;
  if (encoder->smallest == table->limit && encoder->wanted == table->limit) return TH_OK;
  int status = th_buffer_reserve(out, 2 * INTEGER_MAX);
  if (status < 0) return status;
  char *at = out->data + out->length;
  if (encoder->smallest < encoder->wanted && encoder->smallest < table->limit) {
    at = write_integer(at, SIZE_UPDATE, SIZE_UPDATE_BITS, encoder->smallest);
    table_resize(table, encoder->smallest);
  }
  at = write_integer(at, SIZE_UPDATE, SIZE_UPDATE_BITS, encoder->wanted);
  table_resize(table, encoder->wanted);
  encoder->smallest = encoder->wanted;
  out->length = (size_t)(at - out->data);
  return TH_OK;
}

/* Returns the bits in which eight bytes differ. */
static inline uint64_t word_difference(const char *a, const char *b) {
  uint64_t x, y;
  memcpy(&x, a, sizeof x);
  memcpy(&y, b, sizeof y);
  return x ^ y;
}

/* 1 if a[0..n) equals b[0..n). Names and values are short: a call of memcmp() would cost more. */
static inline int equals(const char *a, const char *b, size_t n) {
  if (n >= 8) {
    for (size_t i = 0; i < n - 8; i += 8) {
      if (word_difference(a + i, b + i) != 0) return 0;
    }
    return word_difference(a + n - 8, b + n - 8) == 0; /* overlaps the word before */
  }
  if (n >= 4) {
    uint32_t x[2], y[2];
    memcpy(&x[0], a, 4);
    memcpy(&x[1], a + n - 4, 4);
    memcpy(&y[0], b, 4);
    memcpy(&y[1], b + n - 4, 4);
    return ((x[0] ^ y[0]) | (x[1] ^ y[1])) == 0;
  }
  return n == 0 || (a[0] == b[0] && a[n / 2] == b[n / 2] && a[n - 1] == b[n - 1]);
}

/* Returns the name's id, which is an index into KNOWN, or 0. */
static inline uint32_t find_name(const char *name, size_t n) {
  if (n < SHORTEST_NAME || n > LONGEST_NAME) return 0;
  uint32_t id = KNOWN_AT[known_place(name, n)];
  return KNOWN[id].length == n && equals(KNOWN[id].name, name, n) ? id : 0;
}

/* Kinds of names, by id. */
static inline int is_repeated(uint32_t id) { return id - 1 < TH_HPACK_REPEATED; }
static inline int is_secret(uint32_t id) { return id - 1 - TH_HPACK_REPEATED < SECRET_COUNT; }

/* Returns the serial of an entry that equals this field, whose name is one of those inserted; 0 if there is none. */
static inline uint32_t find_entry(const th_hpack_encoder *encoder, uint32_t id, const char *value, size_t n) {
  const th_hpack_table *table = &encoder->table;
  uint32_t serial = encoder->newest[id];
  for (int i = 0; i < FIELD_STEPS && table_has(table, serial); i++) {
    const entry *found = table_entry(table, serial);
    if (found->name != id) break; /* the serial is from before the wrap-around */
    if (found->value_length == n && equals(table->bytes.data + found->offset + found->name_length, value, n)) {
      return serial;
    }
    serial = found->note;
  }
  return 0;
}

/* Returns the index of the static table's entry that equals this field; 0 if there is none. */
static inline uint32_t find_static(const known_name *known, const char *value, size_t n) {
  for (uint32_t index = known->index; index < (uint32_t)known->index + known->count; index++) {
    if (STATIC_FIELDS[index].value_length == n && equals(STATIC_FIELDS[index].value, value, n)) return index;
  }
  return 0;
}

/* Inserts a field. Returns 0 if it must be a literal without indexing, because memory is short or the field would take
 * half of the table. */
static int insert(th_hpack_encoder *encoder, uint32_t id, const char *value, size_t n) {
  size_t name_length = KNOWN[id].length;
  entry *added;
  if (name_length + n + ENTRY_OVERHEAD > encoder->table.limit / 2) return 0;
  if (table_insert(&encoder->table, KNOWN[id].name, name_length, 0, value, n, &added) < 0 || added == NULL) return 0;
  added->name = (uint8_t)id;
  added->note = encoder->newest[id];
  encoder->newest[id] = encoder->table.inserted;
  return 1;
}

SELDOM static int encode_large_index(th_buffer *out, uint32_t index) {
  int status = th_buffer_reserve(out, INTEGER_MAX);
  if (status < 0) return status;
  out->length = (size_t)(write_integer(out->data + out->length, INDEXED, INDEXED_BITS, index) - out->data);
  return TH_OK;
}

static inline int encode_index(th_buffer *out, uint32_t index) {
  if (index >= (1 << INDEXED_BITS) - 1 || out->length == out->capacity) return encode_large_index(out, index);
  out->data[out->length++] = (char)(INDEXED | index);
  return TH_OK;
}

/* Appends a field that is not in the dynamic table; its name has this id. */
SELDOM static int encode_other(th_hpack_encoder *encoder, th_buffer *out, uint32_t id, const char *name,
                               size_t name_length, const char *value, size_t value_length) {
  uint32_t index = is_secret(id) ? 0 : find_static(&KNOWN[id], value, value_length);
  if (index > 0) return encode_index(out, index);
  if (name_length > UINT32_MAX / 4 || value_length > UINT32_MAX / 4) return TH_ENOMEM;
  int status = th_buffer_reserve(out, name_length + value_length + 1 + 2 * INTEGER_MAX);
  if (status < 0) return status;
  char *at = out->data + out->length;
  if (is_repeated(id) && insert(encoder, id, value, value_length)) {
    at = write_integer(at, INCREMENTAL, INCREMENTAL_BITS, KNOWN[id].index);
  } else {
    at = write_integer(at, is_secret(id) ? NEVER_INDEXED : LITERAL, LITERAL_BITS, KNOWN[id].index);
  }
  if (KNOWN[id].index == 0) at = write_string(at, name, name_length);
  at = write_string(at, value, value_length);
  out->length = (size_t)(at - out->data);
  return TH_OK;
}

int th_hpack_encode(th_hpack_encoder *encoder, th_buffer *out, const char *name, size_t name_length,
                    const char *value, size_t value_length) {
  uint32_t id = find_name(name, name_length);
  uint32_t serial = is_repeated(id) ? find_entry(encoder, id, value, value_length) : 0;
  if (serial > 0) return encode_index(out, STATIC_COUNT + 1 + encoder->table.inserted - serial);
  return encode_other(encoder, out, id, name, name_length, value, value_length);
}

int th_hpack_encode_status(th_hpack_encoder *encoder, th_buffer *out, int status) {
  if (status == 200) return encode_index(out, STATIC_200);
  char digits[] = {(char)('0' + status / 100 % 10), (char)('0' + status / 10 % 10), (char)('0' + status % 10)};
  return th_hpack_encode(encoder, out, ":status", 7, digits, sizeof digits);
}
