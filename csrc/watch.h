/* Watches an event loop that may block, from a thread that does not need the GIL, and writes the stack of the loop's
 * thread even if that thread holds the GIL. Times are nanoseconds of CLOCK_MONOTONIC, which stands still while the
 * machine is suspended. */
#ifndef TH_WATCH_H
#define TH_WATCH_H

#include "base.h"

/* Events, as th_watch_wait() returns them. */
enum th_watch_event {
  TH_WATCH_STOPPED = 1, /* `wake` is readable or closed */
  TH_WATCH_LATE = 2,    /* the loop's next turn has been overdue for `limit` */
  TH_WATCH_TURNED = 3,  /* after TH_WATCH_LATE, the loop has turned again; `blocked` says how late */
  TH_WATCH_TIME = 4,    /* the time in `alarm` has come */
};

typedef struct th_watch {
  /* Set before the first call. */
  int64_t interval; /* longest time between two turns of a loop that is not blocked */
  int64_t limit;    /* how late a turn may be */
  int wake;         /* descriptor of a pipe */
  /* May be set between calls; 0 for never. */
  int64_t alarm;

  /* Written by the loop's thread. */
  int64_t turned; /* time of its last turn */

  /* Written by th_watch_wait(). */
  int64_t seen;    /* time of the last turn that it has seen */
  int64_t lost;    /* time since then in which the watching thread itself did not run, which is not counted as late */
  int64_t blocked; /* how long the loop was late, at least */
  int late;

  /* The dump of the stack; `thread` is 0 if there is none. */
  int signal;       /* th_watch_install() has set its handler */
  int thread;       /* the kernel's id of the loop's thread */
  uintptr_t timer;  /* from timer_create() */
  uintptr_t dump;   /* address of a signal handler that writes the stack of the interrupted thread to `memory` */
  int memory;       /* descriptor of a file that only the dump writes */
  int output;       /* descriptor that gets a copy at once, unless writing could block; -1 for none */
  int64_t grace;    /* time after `limit` in which the watching thread can come back to wait; then the dump is made */
  int64_t pause;    /* shortest time between two copies */
  int64_t copied;   /* time of the last copy; 0 before the first */
  int64_t dumped_at; /* time of the last turn before the dump */
  int dumped;       /* from TH_WATCH_LATE on: `memory` has a stack of this block */
  char heading[160]; /* precedes a copy */
  int heading_length;
} th_watch;

/* Begins to watch; counts as a turn of the loop. Makes the timer if `thread` is set.
 * Returns TH_OK, or TH_ESYSTEM if the timer cannot be made: `thread` is 0 then. */
int th_watch_begin(th_watch *watch);

/* Deletes the timer. Its signal may still be on its way, so the memory of `watch` must stay. */
void th_watch_end(th_watch *watch);

/* Records a turn of the loop. */
void th_watch_turn(th_watch *watch);

/* Waits for the next event, and returns it. The dump stays armed until the next call, because the caller does not watch
 * meanwhile, and may have to wait for the GIL or for something else. */
int th_watch_wait(th_watch *watch);

/* Sets a signal's handler to the one that dumps. System calls that it interrupts are restarted if the kernel can do
 * that. Returns TH_OK or TH_ESYSTEM. */
int th_watch_install(int number);

#endif
