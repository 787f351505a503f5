#include "metrics.h"

#include <string.h>

/* The methods of RFC 9110 section 9.3, PATCH (RFC 5789) and QUERY; the last stands for all others, as in
 * OpenTelemetry. */
static const char *const METHODS[TH_METRICS_METHODS] = {
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY", "_OTHER"};

static const char *const TIMEOUTS[TH_METRICS_TIMEOUTS] = {"head",          "body",    "keep_alive", "write", "request",
                                                          "tls_handshake", "ws_ping", "ws_close",   "settings"};

const char *th_metrics_method(int index) {
  return index >= 0 && index < TH_METRICS_METHODS ? METHODS[index] : NULL;
}

const char *th_metrics_timeout(int index) {
  return index >= 0 && index < TH_METRICS_TIMEOUTS ? TIMEOUTS[index] : NULL;
}

void th_slot_leave(th_slot *slot) {
  uint64_t *const gauges[] = {&slot->pid,       &slot->number, &slot->started,          &slot->ticked,
                              &slot->interval,  &slot->tasks,  &slot->connections_open, &slot->websockets_open,
                              &slot->in_flight, &slot->streams_open};
  for (size_t i = 0; i < sizeof gauges / sizeof *gauges; i++) th_set(gauges[i], 0);
  th_set(&slot->longest_block[0], 0);
  th_set(&slot->longest_block[1], 0);
  for (size_t i = 0; i < TH_METRICS_RUNNING; i++) th_running_end(&slot->running[i]);
}

void th_slot_take(th_slot *slot, uint64_t pid, uint64_t number, uint64_t now) {
  th_slot_leave(slot);
  if (slot->version == 0) {
    for (int i = 0; i < 2 * TH_METRICS_METHODS; i++) slot->rows[i].method = (uint8_t)(i % TH_METRICS_METHODS);
    th_set(&slot->size, sizeof *slot);
    th_set(&slot->version, TH_METRICS_VERSION);
  }
  th_set(&slot->number, number);
  th_set(&slot->inherited, slot->begun);
  th_set(&slot->started, now);
  th_set(&slot->ticked, now);
  th_set(&slot->pid, pid);
}

static inline int bucket_of(uint64_t ns) {
  if (ns < (UINT64_C(1) << TH_HISTOGRAM_FIRST)) return 0;
  if (ns >> TH_HISTOGRAM_END) return TH_HISTOGRAM_BUCKETS - 1;
  int octave = 63 - __builtin_clzll(ns);
  return 1 + (octave - TH_HISTOGRAM_FIRST) * 8 + (int)((ns >> (octave - 3)) & 7);
}

int th_histogram_bucket(uint64_t ns) { return bucket_of(ns); }

uint64_t th_histogram_bound(int bucket) {
  if (bucket >= TH_HISTOGRAM_BUCKETS - 1) return UINT64_MAX;
  int octave = TH_HISTOGRAM_FIRST + bucket / 8;
  return (uint64_t)(8 + bucket % 8) << (octave - 3);
}

static void add_to(th_histogram *histogram, uint64_t ns, int bucket) {
  th_count(&histogram->sum, ns);
  th_count(&histogram->buckets[bucket], 1);
}

void th_histogram_add(th_histogram *histogram, uint64_t ns) { add_to(histogram, ns, bucket_of(ns)); }

void th_slot_end_request(th_slot *slot, int row, int status, uint64_t taken, uint64_t first_byte) {
  int bucket = bucket_of(taken);
  unsigned class = (unsigned)status / 100;
  if (class >= TH_METRICS_CLASSES) class = 0;
  add_to(&slot->rows[row].durations[class], taken, bucket);
  if (first_byte != 0) {
    add_to(&slot->first_byte, first_byte, bucket_of(first_byte));
  } else if (class > 0) {
    add_to(&slot->first_byte, taken, bucket);
  }
  if (slot->in_flight > 0) th_set(&slot->in_flight, slot->in_flight - 1);
}

/* A sequence lock with a single writer: a reader sees an odd number during a write, and a different one after it. */
static void open_running(th_running *running) {
  __atomic_store_n(&running->sequence, running->sequence | 1, __ATOMIC_RELAXED);
  __atomic_thread_fence(__ATOMIC_RELEASE);
}

static void close_running(th_running *running) {
  __atomic_store_n(&running->sequence, running->sequence + 1, __ATOMIC_RELEASE);
}

void th_running_client(th_running *running, const char *client, size_t n, uint32_t port) {
  if (n > TH_METRICS_CLIENT) n = TH_METRICS_CLIENT;
  open_running(running);
  running->port = port;
  running->client_length = (uint8_t)n;
  if (n > 0) memcpy(running->client, client, n);
  close_running(running);
}

void th_running_begin(th_running *running, uint64_t began, int method, int version, const char *path, size_t n) {
  if (n > TH_METRICS_PATH) n = TH_METRICS_PATH;
  open_running(running);
  running->began = began;
  running->received = 0;
  running->sent = 0;
  running->method = (uint8_t)method;
  running->version = (uint8_t)version;
  running->path_length = (uint8_t)n;
  memcpy(running->path, path, n);
  close_running(running);
}

void th_running_end(th_running *running) { th_set(&running->began, 0); }

int th_running_read(const th_running *running, th_running *copy) {
  uint64_t before = __atomic_load_n(&running->sequence, __ATOMIC_ACQUIRE);
  memcpy(copy, running, sizeof *copy);
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  uint64_t after = __atomic_load_n(&running->sequence, __ATOMIC_RELAXED);
  return before == after && (before & 1) == 0 && copy->began != 0 && copy->path_length <= TH_METRICS_PATH &&
         copy->client_length <= TH_METRICS_CLIENT;
}

int th_slot_row(th_slot *slot, int method, const char *name, size_t n) {
  if (n == 0) return method;
  if (n > TH_METRICS_NAME) n = TH_METRICS_NAME;
  int first = 2 * TH_METRICS_METHODS;
  int end = first + (int)slot->routes;
  for (int i = first; i < end; i++) {
    const th_row *row = &slot->rows[i];
    if (row->method == method && row->length == n && memcmp(row->name, name, n) == 0) return i;
  }
  if (end >= TH_METRICS_ROWS) return TH_METRICS_METHODS + method;
  th_row *row = &slot->rows[end];
  row->method = (uint8_t)method;
  row->length = (uint8_t)n;
  memcpy(row->name, name, n);
  __atomic_store_n(&slot->routes, slot->routes + 1, __ATOMIC_RELEASE);
  return end;
}
