/* Counts of a worker in memory that it shares with its supervisor: their layout, and how they are written.
 *
 * A slot belongs to one process at a time, and only that process writes it. When the process has ended, for whatever
 * reason, the next one continues counting in the same slot, so no count is lost or starts over. Anybody may read at any
 * time: each value is stored whole (64 bits, relaxed), and nobody waits. Values read at the same moment may not match
 * each other, except those of a th_running that th_running_read() has copied. All times are nanoseconds. */
#ifndef TH_METRICS_H
#define TH_METRICS_H

#include "base.h"

enum th_metrics_size {
  TH_METRICS_VERSION = 1, /* of this layout: the fields of th_slot and their meaning */
  TH_METRICS_METHODS = 11,
  TH_METRICS_CLASSES = 6, /* of statuses: 0 means that the client left before there was one, 1 is 1xx, and so on */
  TH_METRICS_ROUTES = 256, /* routes of the application; a route with two methods counts as two */
  TH_METRICS_ROWS = 278,   /* the routes', after two for each method: for no route, and for routes beyond these */
  TH_METRICS_STATUSES = 200, /* statuses of refusals, from 400 */
  TH_METRICS_TIMEOUTS = 9,
  TH_METRICS_CLOSE_CODES = 17, /* of WebSockets, from 1000; the last is for all others */
  TH_METRICS_ERROR_CODES = 16, /* of HTTP/2; the last is for all others, too */
  TH_METRICS_GENERATIONS = 3,  /* of Python's garbage collector */
  TH_METRICS_RUNNING = 64,
  TH_METRICS_PATH = 128,  /* bytes of a path that are kept */
  TH_METRICS_CLIENT = 48, /* bytes of an address: enough for IPv6 with a zone */
  TH_METRICS_NAME = 120   /* bytes of a route's template */
};

/* A histogram is log-linear: each octave has 8 buckets of the same width, so a bucket's bounds differ by at most an
 * eighth. The first bucket counts durations below 1024 ns, the last one those of 2^39 ns (550 s) or more. */
enum th_histogram_size {
  TH_HISTOGRAM_FIRST = 10,  /* the first octave begins at 2^10 ns */
  TH_HISTOGRAM_END = 39,    /* the last one ends at 2^39 ns */
  TH_HISTOGRAM_BUCKETS = 234
};

typedef struct {
  uint64_t sum; /* nanoseconds */
  uint64_t buckets[TH_HISTOGRAM_BUCKETS];
} th_histogram;

/* A request that is running. */
typedef struct {
  uint64_t sequence; /* odd while the rest is being written */
  uint64_t began;    /* of CLOCK_MONOTONIC; 0 if the place is free */
  uint64_t received; /* bytes of content */
  uint64_t sent;     /* the same */
  uint32_t port;     /* of the client; 0 if it has none */
  uint8_t method;    /* as in th_metrics_method() */
  uint8_t version;   /* as in th_head */
  uint8_t path_length;
  uint8_t client_length;
  char path[TH_METRICS_PATH];
  char client[TH_METRICS_CLIENT];
} th_running;

/* Requests of one route and method, by class of status. */
typedef struct {
  uint8_t method;
  uint8_t length; /* of the name */
  uint8_t unused[6];
  char name[TH_METRICS_NAME];
  th_histogram durations[TH_METRICS_CLASSES]; /* from the request's head to the end of the response */
} th_row;

typedef struct {
  uint64_t version; /* TH_METRICS_VERSION; 0 in memory that nobody has taken yet */
  uint64_t size;    /* sizeof(th_slot) */

  /* About the process that has the slot. They are reset when another process takes it, and when the supervisor learns
   * that the process has ended. */
  uint64_t pid; /* 0 if no process has it */
  uint64_t number;
  uint64_t started;  /* of CLOCK_MONOTONIC */
  uint64_t ticked;   /* when its loop last turned */
  uint64_t interval; /* time between two ticks, at most */
  uint64_t in_flight;
  uint64_t connections_open;
  uint64_t websockets_open;
  uint64_t streams_open;
  uint64_t tasks;
  uint64_t inherited; /* requests begun before it took the slot */
  uint64_t longest_block[2]; /* of its loop, in this minute and in the one before */

  /* Counts, which only grow. */
  uint64_t begun;    /* requests */
  uint64_t aborted;  /* requests whose client left before the end of the response */
  uint64_t received; /* bytes of HTTP, after TLS has decrypted them */
  uint64_t sent;     /* bytes of HTTP, before TLS encrypts them */
  uint64_t connections_accepted;
  uint64_t connections_refused; /* limit_connections */
  uint64_t handshakes_failed;   /* TLS, and the PROXY protocol */
  uint64_t refused[TH_METRICS_STATUSES];
  uint64_t timeouts[TH_METRICS_TIMEOUTS];
  uint64_t messages_received; /* of WebSockets */
  uint64_t messages_sent;
  uint64_t message_bytes_received; /* of their contents, uncompressed */
  uint64_t message_bytes_sent;
  uint64_t websockets_closed[TH_METRICS_CLOSE_CODES];
  uint64_t streams; /* of HTTP/2 */
  uint64_t resets_received[TH_METRICS_ERROR_CODES];
  uint64_t resets_sent[TH_METRICS_ERROR_CODES];
  uint64_t goaways_sent[TH_METRICS_ERROR_CODES];
  uint64_t collections[TH_METRICS_GENERATIONS];
  uint64_t collecting; /* time */
  th_histogram first_byte; /* from a request's head to the head of its response */
  th_histogram lag;        /* how late the loop calls its timers */

  th_running running[TH_METRICS_RUNNING];
  uint64_t routes; /* rows that have a name; counted once the name is complete */
  th_row rows[TH_METRICS_ROWS];
} th_slot;

enum th_metrics_timeout {
  TH_TIMEOUT_HEAD = 0,
  TH_TIMEOUT_BODY,
  TH_TIMEOUT_KEEP_ALIVE,
  TH_TIMEOUT_WRITE,
  TH_TIMEOUT_REQUEST,
  TH_TIMEOUT_HANDSHAKE,
  TH_TIMEOUT_PING,
  TH_TIMEOUT_CLOSE,
  TH_TIMEOUT_SETTINGS
};

/* Names of the indices above; static. NULL beyond the last one. */
const char *th_metrics_method(int index);
const char *th_metrics_timeout(int index);

/* Takes a slot for a process: resets the values about the process, and clears the running requests. */
void th_slot_take(th_slot *slot, uint64_t pid, uint64_t number, uint64_t now);
/* Resets the same when the process has ended. */
void th_slot_leave(th_slot *slot);

/* Returns the bucket of a duration. */
int th_histogram_bucket(uint64_t ns);
/* Returns the exclusive upper bound of a bucket; UINT64_MAX for the last one. */
uint64_t th_histogram_bound(int bucket);
void th_histogram_add(th_histogram *histogram, uint64_t ns);

/* Writes the client's address into a free place; one that is too long is cut. */
void th_running_client(th_running *running, const char *client, size_t n, uint32_t port);
/* Fills a place, but for the client's address. A path that is too long is cut. */
void th_running_begin(th_running *running, uint64_t began, int method, int version, const char *path, size_t n);
void th_running_end(th_running *running);
/* Copies a place. Returns 1 if the copy is a request; 0 if the place is free, or has changed meanwhile. */
int th_running_read(const th_running *running, th_running *copy);

/* Returns the row of a route, and makes one if there is none yet; if none is free, the row for routes beyond the table.
 * A name that is too long is cut. */
int th_slot_row(th_slot *slot, int method, const char *name, size_t n);

/* Counts a request that has ended, in its row.
 *   status: of the response; 0 if there was none.
 *   taken: time since the request's head.
 *   first_byte: time from there to the response's head; 0 if that is only sent now. */
void th_slot_end_request(th_slot *slot, int row, int status, uint64_t taken, uint64_t first_byte);

/* Stores a value whole, so that a reader never sees half of it. */
static inline void th_set(uint64_t *value, uint64_t to) { __atomic_store_n(value, to, __ATOMIC_RELAXED); }
static inline void th_count(uint64_t *value, uint64_t more) { th_set(value, *value + more); }

#endif
