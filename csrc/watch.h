/* Watches an event loop that may block, in a thread that needs no GIL, and has the stack of the loop's thread written
 * even if that thread holds the GIL. Times are nanoseconds of CLOCK_MONOTONIC, which does not count the time in which a
 * machine is suspended. */
#ifndef TH_WATCH_H
#define TH_WATCH_H

#include "base.h"

/* What th_watch_wait() has seen. */
enum th_watch_event {
  TH_WATCH_STOPPED = 1, /* `wake` is readable or closed */
  TH_WATCH_LATE = 2,    /* the loop has not turned for `limit` */
  TH_WATCH_TURNED = 3,  /* it has turned again, after TH_WATCH_LATE; `blocked` says for how long it had not */
  TH_WATCH_TIME = 4,    /* `alarm` has come */
};

typedef struct th_watch {
  /* Set before the first call. */
  int64_t interval; /* longest time between two turns of a loop that is not blocked */
  int64_t limit;    /* how long it may be late */
  int wake;         /* descriptor of a pipe */
  /* Set by the caller when it likes; 0 for never. */
  int64_t alarm;

  /* Written by the loop's thread. */
  int64_t turned; /* time of its last turn */

  /* Written by th_watch_wait(). */
  int64_t seen;    /* the last turn that it knows of */
  int64_t lost;    /* time since then in which the watching thread itself did not run: it does not count */
  int64_t blocked; /* how long the loop was late, at least */
  int late;

  /* The dump; `thread` is 0 where there is none. */
  int signal;       /* has th_watch_install() as its handler */
  int thread;       /* the loop's thread, as the kernel numbers it */
  uintptr_t timer;  /* timer_create()'s */
  uintptr_t dump;   /* address of a handler of signals that writes the stack of the interrupted thread to `memory` */
  int memory;       /* descriptor of a file of its own */
  int output;       /* descriptor to which a copy goes at once, if it can take it; -1 for none */
  int64_t grace;    /* how long the loop must be late for a dump, if its watching thread does not wait meanwhile */
  int64_t pause;    /* shortest time between two copies */
  int64_t copied;   /* time of the last copy; 0 before the first */
  int64_t dumped_at; /* the last turn before the dump */
  int dumped;       /* at TH_WATCH_LATE, and later: whether `memory` has a stack of this block */
  char heading[160]; /* goes in front of a copy */
  int heading_length;
} th_watch;

/* The present time. */
int64_t th_watch_now(void);

/* Begins to watch: the loop has turned now. Makes the timer if there is a `thread`.
 * Returns TH_OK, or TH_ESYSTEM: there is no timer, and `thread` is 0 now. */
int th_watch_begin(th_watch *watch);

/* Deletes the timer. Its signal may still be on its way, so the memory of `watch` must stay. */
void th_watch_end(th_watch *watch);

/* Notes that the loop turns. */
void th_watch_turn(th_watch *watch);

/* Waits for the next event, and returns it. Until the next call the dump is armed: the caller may have to wait for the
 * GIL, or for anything else, and cannot watch meanwhile. */
int th_watch_wait(th_watch *watch);

/* Makes a signal's handler the one that dumps. System calls that it interrupts are restarted where the kernel can do
 * that. Returns TH_OK or TH_ESYSTEM. */
int th_watch_install(int number);

#endif
