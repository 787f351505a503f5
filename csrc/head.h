/* A request head, the same for HTTP/1.1 and HTTP/2. */
#ifndef TH_HEAD_H
#define TH_HEAD_H

#include "ascii.h"
#include "base.h"
#include "buffer.h"

/* Fields that the server itself reads or writes. Each value is an index into head.c's table, which also has other
 * common fields, because the Python object of a known name is made only once. */
enum th_field_id {
  TH_FIELD_OTHER = -1,
  TH_FIELD_TE = 0,
  TH_FIELD_HOST = 4,
  TH_FIELD_CONTENT_LENGTH = 28,
  TH_FIELD_TRANSFER_ENCODING = 42,
  TH_FIELD_CONNECTION = 18,
  TH_FIELD_EXPECT = 8,
  TH_FIELD_UPGRADE = 13,
  TH_FIELD_SEC_WEBSOCKET_KEY = 41,
  TH_FIELD_FORWARDED = 15,
  TH_FIELD_X_FORWARDED_FOR = 35,
  TH_FIELD_X_FORWARDED_HOST = 37,
  TH_FIELD_X_FORWARDED_PORT = 38,
  TH_FIELD_X_FORWARDED_PREFIX = 45,
  TH_FIELD_X_FORWARDED_PROTO = 43,
  TH_FIELD_COOKIE = 7,
  TH_FIELD_PRIORITY = 14,
  TH_FIELD_DATE = 3,
  TH_FIELD_SERVER = 11
};

/* Returns the id of a field name in any case: an index below th_field_count(), or TH_FIELD_OTHER. */
int th_field_lookup(const char *name, size_t n);
/* Returns the lower-case name of a known field; static. */
const char *th_field_name(int id);
int th_field_count(void);

typedef struct {
  th_slice name;
  th_slice value;
  int32_t id; /* from th_field_lookup() */
} th_field;

/* Form of the request target, RFC 9112 section 3.2. Authority-form is for CONNECT only, which is refused. */
enum th_target_form { TH_ORIGIN_FORM = 0, TH_ABSOLUTE_FORM = 1, TH_ASTERISK_FORM = 2 };

typedef struct {
  const char *data; /* first byte of the head; offsets of slices count from here */
  th_buffer fields; /* th_field[field_count] */
  uint32_t field_count;
  uint8_t method; /* llhttp_method_t */
  uint8_t version; /* 10 for HTTP/1.0, 11 for HTTP/1.1 and higher minor versions, 20 for HTTP/2 */
  uint8_t form;   /* enum th_target_form */
  uint8_t keep_alive;
  uint8_t chunked;
  uint8_t expect_continue;
  uint8_t upgrade;     /* valid request to upgrade to websocket: RFC 9110 section 7.8; other protocols are ignored */
  uint8_t websocket;   /* WebSocket handshake, valid or not: upgrade is set, or there is a Sec-WebSocket-Key; in HTTP/2
                        * extended CONNECT (RFC 8441) */
  uint8_t trailers;    /* the client accepts trailer fields: RFC 9110 section 10.1.4 */
  uint8_t forwarded;   /* has a proxy's field: Forwarded, or one of X-Forwarded-* */
  uint8_t https_target; /* absolute-form with an https URI, which requires TLS: RFC 9110 section 7.4 */
  uint8_t path_escaped; /* path contains a % and must be decoded */
  uint64_t content_length;
  th_slice target;
  th_slice path;      /* without query; empty means "/" */
  th_slice query;     /* after the ?, may be empty */
  th_slice authority; /* of absolute-form, or :authority; overrides Host, RFC 9112 section 3.2.2 */
} th_head;

void th_head_init(th_head *head);
void th_head_free(th_head *head);
/* Empties the head for the next request; keeps the memory for fields unless it is large. */
void th_head_clear(th_head *head);
/* Adds an empty field, to be filled by extend() in http1.c. Returns TH_OK or TH_ENOMEM. */
int th_head_add_field(th_head *head);
th_field *th_head_field(const th_head *head, uint32_t index);

/* Splits a target that is a path, or the * of OPTIONS, as :path must be (RFC 9113 section 8.3.1). Returns TH_OK or
 * TH_ETARGET. */
int th_head_split_path(th_head *head);
/* Reads a field whose meaning depends on no other field: Expect, Forwarded, X-Forwarded-*. Returns TH_OK or
 * TH_EEXPECT. */
int th_head_read_plain(th_head *head, int id, const char *value, size_t n);

/* Checks a complete head (method, version, target, fields and content_length set) and derives the other members.
 * Returns TH_OK, or the status to refuse the request with. RFC 9112 sections 3.2 and 6.1, RFC 9110 sections 7.2 and
 * 10.1.1. */
int th_head_finish(th_head *head);

#endif
