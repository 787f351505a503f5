/* HPACK: a plain implementation of the RFC gives the same fields, tables and verdicts; an entry keeps its note and
 * serial; memory is bounded; a truncated block gives the first of its fields; encoded again, the fields are the same.
 *
 * The input is a connection: blocks, each after two bytes with its length. */
#include "hpack.h"

#include "hpack_tables.h"
#include "target.h"

enum { OVERHEAD = 32, TABLE_MAX = 65536, ENTRIES_MAX = TABLE_MAX / OVERHEAD, ENTRY = 20, BLOCKS_MAX = 64 };

typedef struct {
  const char *data;
  size_t n;
} block;

/* --- A plain implementation ------------------------------------------------------------------------------------ */

typedef struct {
  th_buffer name;
  th_buffer value;
} pair;

typedef struct {
  pair entries[ENTRIES_MAX]; /* the newest first */
  size_t count;
  uint64_t size;
  uint64_t limit;
  uint64_t max_size;
  uint64_t string_max;
} plain;

static void pair_free(pair *p) {
  th_buffer_free(&p->name);
  th_buffer_free(&p->value);
}

static uint64_t pair_size(const pair *p) { return p->name.length + p->value.length + OVERHEAD; }

static void copy(th_buffer *to, const void *data, size_t n) {
  th_buffer_init(to);
  if (n > 0) record(to, data, n);
}

static void shrink(plain *p, uint64_t size) {
  while (p->size > size) {
    p->size -= pair_size(&p->entries[p->count - 1]);
    pair_free(&p->entries[--p->count]);
  }
}

/* The code as a tree, by bits: negative numbers are symbols. */
enum { EOS = 256, NODES = 512 };
static int tree[NODES][2];
static int nodes;

static void plant(uint32_t code, int bits, int symbol) {
  int node = 0;
  for (int i = bits - 1; i > 0; i--) {
    int *next = &tree[node][code >> i & 1];
    if (*next == 0) *next = ++nodes;
    EXPECT(*next > 0 && nodes < NODES);
    node = *next;
  }
  int *leaf = &tree[node][code & 1];
  EXPECT(*leaf == 0 || *leaf == -1 - symbol);
  *leaf = -1 - symbol;
}

static void plant_all(void) {
  for (uint32_t i = 0; i < 1 << STEP_BITS; i++) {
    int bits = STEPS[i] >> 24 & 15;
    if (bits > 0) plant(i >> (STEP_BITS - bits), bits, STEPS[i] & 255);
  }
  for (size_t row = 0; row < sizeof LONG_CODES / sizeof LONG_CODES[0]; row++) {
    int bits = LONG_CODES[row].bits;
    uint32_t count = (LONG_CODES[row].end - LONG_CODES[row].first) >> (32 - bits);
    for (uint32_t i = 0; i < count; i++) {
      plant((LONG_CODES[row].first >> (32 - bits)) + i, bits, LONG_SYMBOLS[LONG_CODES[row].symbols + i]);
    }
  }
  plant(0x3fffffff, 30, EOS);
}

static int plain_huffman(const uint8_t *src, size_t n, th_buffer *out) {
  int node = 0;
  int pending = 0; /* bits since the last symbol */
  int ones = 1;    /* whether all of those are ones */
  for (size_t i = 0; i < n * 8; i++) {
    int bit = src[i / 8] >> (7 - i % 8) & 1;
    pending++;
    ones &= bit;
    node = tree[node][bit];
    EXPECT(node != 0);
    if (node < 0) {
      if (node == -1 - EOS) return 0;
      char symbol = (char)(-1 - node);
      record(out, &symbol, 1);
      node = pending = 0;
      ones = 1;
    }
  }
  return pending < 8 && ones;
}

static int plain_integer(const uint8_t **at, const uint8_t *end, int prefix, uint64_t *value) {
  uint64_t most = (1u << prefix) - 1;
  *value = *(*at)++ & most;
  if (*value < most) return 1;
  for (int i = 0; i < 5; i++) {
    if (*at == end) return 0;
    *value += (uint64_t)(**at & 127) << 7 * i;
    if (*(*at)++ < 128) return *value <= UINT32_MAX;
  }
  return 0;
}

static int plain_string(const plain *p, const uint8_t **at, const uint8_t *end, th_buffer *out) {
  uint64_t n;
  if (*at == end) return 0;
  int coded = **at >> 7;
  if (!plain_integer(at, end, 7, &n) || n > (uint64_t)(end - *at)) return 0;
  if (coded && !plain_huffman(*at, (size_t)n, out)) return 0;
  if (!coded && n > 0) record(out, *at, (size_t)n);
  *at += n;
  return out->length <= p->string_max;
}

static int plain_index(const plain *p, uint64_t index, pair *made) {
  if (index == 0 || index > STATIC_COUNT + p->count) return 0;
  if (index > STATIC_COUNT) {
    const pair *found = &p->entries[index - STATIC_COUNT - 1];
    copy(&made->name, found->name.data, found->name.length);
    copy(&made->value, found->value.data, found->value.length);
  } else {
    copy(&made->name, STATIC_FIELDS[index].name, STATIC_FIELDS[index].name_length);
    copy(&made->value, STATIC_FIELDS[index].value, STATIC_FIELDS[index].value_length);
  }
  return 1;
}

static void record_pair(th_buffer *trace, const char *name, size_t name_length, const char *value, size_t value_length) {
  record_number(trace, 'n', name_length);
  if (name_length > 0) record(trace, name, name_length);
  record_number(trace, 'v', value_length);
  if (value_length > 0) record(trace, value, value_length);
}

/* Returns 1 if it is a field block. The fields before an error are added to the trace, too. */
static int read_plainly(plain *p, const uint8_t *at, size_t n, th_buffer *trace) {
  const uint8_t *end = at + n;
  int updates = 0;
  int fields = 0;
  while (at < end) {
    uint8_t first = *at;
    uint64_t number;
    if (first >> 5 == 1) {
      if (fields > 0 || ++updates > 2) return 0;
      if (!plain_integer(&at, end, 5, &number) || number > p->max_size) return 0;
      p->limit = number;
      shrink(p, number);
      continue;
    }
    pair made;
    copy(&made.name, NULL, 0);
    copy(&made.value, NULL, 0);
    int incremental = first >> 6 == 1;
    int valid = plain_integer(&at, end, first >> 7 ? 7 : incremental ? 6 : 4, &number);
    if (valid && (first >> 7 || number > 0)) valid = plain_index(p, number, &made);
    if (valid && !(first >> 7)) {
      if (number == 0) valid = plain_string(p, &at, end, &made.name);
      made.value.length = 0;
      valid = valid && plain_string(p, &at, end, &made.value);
    }
    if (valid) {
      fields++;
      record_pair(trace, made.name.data, made.name.length, made.value.data, made.value.length);
    }
    if (valid && incremental) {
      uint64_t size = pair_size(&made);
      shrink(p, size > p->limit ? 0 : p->limit - size);
      if (size <= p->limit) {
        memmove(p->entries + 1, p->entries, p->count * sizeof(pair));
        p->entries[0] = made;
        p->count++;
        p->size += size;
        continue;
      }
    }
    pair_free(&made);
    if (!valid) return 0;
  }
  return 1;
}

/* --- What is tested -------------------------------------------------------------------------------------------- */

static uint32_t hash(const th_hpack_field *field) {
  uint32_t sum = 2166136261u;
  for (size_t i = 0; i < field->name_length; i++) sum = (sum ^ (uint8_t)field->name[i]) * 16777619u;
  for (size_t i = 0; i < field->value_length; i++) sum = (sum ^ (uint8_t)field->value[i]) * 16777619u;
  sum ^= (uint32_t)field->name_length * 31 + field->serial;
  return sum | 1;
}

static void check_field(const th_hpack_decoder *decoder, const th_hpack_field *field) {
  EXPECT(field->name != NULL && field->value != NULL);
  EXPECT((field->note != NULL) == (field->serial > 0));
  EXPECT(field->serial == 0 || (field->index == 0 && field->serial <= decoder->table.inserted));
  EXPECT(field->name_index <= STATIC_COUNT && (field->index == 0 || field->index == field->name_index));
  if (field->name_index > 0) {
    const th_hpack_field *known = &STATIC_FIELDS[field->name_index];
    EXPECT(known->name_length == field->name_length && memcmp(known->name, field->name, known->name_length) == 0);
  }
  if (field->note != NULL) {
    EXPECT(*field->note == 0 || *field->note == hash(field));
    *field->note = hash(field);
  }
}

static void check_table(const th_hpack_table *table) {
  EXPECT(table->size <= table->limit && table->limit <= table->max_size);
  EXPECT((uint64_t)table->count * OVERHEAD <= table->size);
  size_t most = (size_t)table->max_size * 2;
  EXPECT(table->bytes.capacity <= (most < 512 ? 512 : most));
  most = (size_t)table->max_size / OVERHEAD * 2 * ENTRY;
  EXPECT(table->entries.capacity <= (most < 512 ? 512 : most));
  EXPECT(table->inserted > 0 || (table->bytes.data == NULL && table->entries.data == NULL));
}

/* Reads a block that ends at the end of its memory. Returns 0, or the status that refuses it. */
static int read(th_hpack_decoder *decoder, const char *data, size_t n, th_buffer *trace) {
  char *own = exactly(data, n);
  th_hpack_field field;
  int status;
  th_hpack_begin(decoder, own, n);
  while ((status = th_hpack_next(decoder, &field)) == 1) {
    check_field(decoder, &field);
    EXPECT(field.index > 0 || field.value_length <= decoder->string_max || field.value_length <= decoder->table.max_size);
    record_pair(trace, field.name, field.name_length, field.value, field.value_length);
  }
  EXPECT(status == 0 || status == TH_EHPACK || status == TH_EHPACK_SIZE);
  EXPECT(th_hpack_next(decoder, &field) == status);
  free(own);
  if (status < 0) {
    th_hpack_begin(decoder, "\x82", 1);
    EXPECT(th_hpack_next(decoder, &field) == status);
  }
  check_table(&decoder->table);
  EXPECT(status < 0 || decoder->scratch.capacity <= 512);
  return status;
}

/* Encodes the fields of a block, and reads them again. */
static void send_and_read(th_hpack_encoder *encoder, th_hpack_decoder *decoder, const th_buffer *fields) {
  th_buffer out;
  th_buffer trace;
  th_buffer_init(&out);
  th_buffer_init(&trace);
  EXPECT(th_hpack_encode_begin(encoder, &out) == TH_OK);
  for (size_t at = 0; at < fields->length;) {
    const char *text[2];
    uint64_t lengths[2];
    for (int i = 0; i < 2; i++) {
      memcpy(&lengths[i], fields->data + at + 1, sizeof lengths[i]);
      text[i] = fields->data + at + 1 + sizeof lengths[i];
      at += 1 + sizeof lengths[i] + (size_t)lengths[i];
    }
    char *name = exactly(text[0], (size_t)lengths[0]);
    char *value = exactly(text[1], (size_t)lengths[1]);
    EXPECT(th_hpack_encode(encoder, &out, name, (size_t)lengths[0], value, (size_t)lengths[1]) == TH_OK);
    free(name);
    free(value);
  }
  EXPECT(read(decoder, out.data == NULL ? "" : out.data, out.length, &trace) == 0);
  expect_same(fields, &trace);
  check_table(&encoder->table);
  EXPECT(encoder->table.count == decoder->table.count && encoder->table.size == decoder->table.size);
  th_buffer_free(&out);
  th_buffer_free(&trace);
}

static void break_off(const block *blocks, size_t count, const th_buffer *whole, uint32_t max_size, uint32_t string_max) {
  const block *last = &blocks[count - 1];
  const size_t ends[] = {last->n / 3, last->n / 2, last->n - 1};
  for (size_t i = 0; last->n > 0 && i < sizeof ends / sizeof ends[0]; i++) {
    th_hpack_decoder decoder;
    th_buffer trace;
    th_buffer_init(&trace);
    th_hpack_decoder_init(&decoder, max_size, string_max);
    for (size_t k = 0; k + 1 < count; k++) read(&decoder, blocks[k].data, blocks[k].n, &trace);
    trace.length = 0;
    read(&decoder, last->data, ends[i], &trace);
    EXPECT(trace.length <= whole->length);
    EXPECT(trace.length == 0 || memcmp(trace.data, whole->data, trace.length) == 0);
    th_hpack_decoder_free(&decoder);
    th_buffer_free(&trace);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  static const uint32_t SIZES[] = {4096, 100, 0, TABLE_MAX};
  if (size == 0) return 0;
  if (nodes == 0) plant_all();
  uint32_t max_size = SIZES[input[0] & 3];
  uint32_t string_max = input[0] & 4 ? 20 : 1 << 14;
  uint32_t sent_size = SIZES[input[0] >> 3 & 3];
  block blocks[BLOCKS_MAX];
  size_t count = 0;
  for (size_t at = 1; at + 2 <= size && count < BLOCKS_MAX; count++) {
    size_t n = (size_t)input[at] << 8 | input[at + 1];
    at += 2;
    if (n > size - at) n = size - at;
    blocks[count].data = (const char *)input + at;
    blocks[count].n = n;
    at += n;
  }
  th_hpack_decoder decoder;
  th_hpack_decoder peer;
  th_hpack_encoder encoder;
  th_hpack_decoder_init(&decoder, max_size, string_max);
  th_hpack_decoder_init(&peer, TABLE_MAX, TABLE_MAX);
  th_hpack_encoder_init(&encoder, sent_size);
  plain *twin = calloc(1, sizeof *twin);
  EXPECT(twin != NULL);
  twin->max_size = max_size;
  twin->limit = max_size < 4096 ? max_size : 4096;
  twin->string_max = string_max;
  int status = 0;
  for (size_t i = 0; i < count && status == 0; i++) {
    th_buffer trace;
    th_buffer expected;
    th_buffer_init(&trace);
    th_buffer_init(&expected);
    status = read(&decoder, blocks[i].data, blocks[i].n, &trace);
    int valid = read_plainly(twin, (const uint8_t *)blocks[i].data, blocks[i].n, &expected);
    EXPECT(valid == (status == 0));
    expect_same(&trace, &expected);
    EXPECT(decoder.table.count == twin->count && decoder.table.size == twin->size);
    if (input[0] & 32 && blocks[i].n > 0) th_hpack_encoder_resize(&encoder, (uint8_t)blocks[i].data[0] * 40u);
    send_and_read(&encoder, &peer, &trace);
    if (i + 1 == count || status < 0) break_off(blocks, i + 1, &trace, max_size, string_max);
    th_buffer_free(&trace);
    th_buffer_free(&expected);
  }
  shrink(twin, 0);
  free(twin);
  th_hpack_decoder_free(&decoder);
  th_hpack_decoder_free(&peer);
  th_hpack_encoder_free(&encoder);
  return 0;
}
