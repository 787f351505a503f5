#define _GNU_SOURCE /* SIGEV_THREAD_ID */

#include "watch.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000
#define MILLISECOND 1000000
#define PIECE 512 /* the least PIPE_BUF of POSIX: a pipe that is ready takes this many bytes without blocking */

void th_watch_turn(th_watch *watch) { __atomic_store_n(&watch->turned, th_now(), __ATOMIC_RELAXED); }

static int64_t last_turn(const th_watch *watch) { return __atomic_load_n(&watch->turned, __ATOMIC_RELAXED); }

static void arm(th_watch *watch, int64_t after);

/* Arms the dump for a loop that last turned at `turned`; `time` is now. */
static void arm_dump(th_watch *watch, int64_t turned, int64_t time) {
  int64_t left = turned + watch->interval + watch->limit - time;
  arm(watch, (left > 0 ? left : 0) + watch->grace);
}

#ifdef __linux__

_Static_assert(sizeof(timer_t) <= sizeof(uintptr_t), "a timer must fit");

static void arm(th_watch *watch, int64_t after) {
  timer_t timer = (timer_t)watch->timer;
  struct itimerspec times;
  memset(&times, 0, sizeof times);
  times.it_value.tv_sec = (time_t)(after / SECOND);
  times.it_value.tv_nsec = (long)(after % SECOND);
  timer_settime(timer, 0, &times, NULL);
}

/* Copies the dump to `output`, as long as that cannot block. */
static void copy_out(const th_watch *watch) {
  char piece[PIECE];
  off_t at = 0;
  ssize_t n = watch->heading_length;
  memcpy(piece, watch->heading, (size_t)n);
  while (n > 0) {
    struct pollfd output = {watch->output, POLLOUT, 0};
    if (poll(&output, 1, 0) != 1 || write(watch->output, piece, (size_t)n) < 0) return;
    n = pread(watch->memory, piece, sizeof piece, at);
    at += n;
  }
}

/* Runs in the loop's thread, in the middle of anything: calls only what signal-safety(7) allows. */
static void on_timer(int number, siginfo_t *info, void *context) {
  (void)context;
  if (info->si_code != SI_TIMER) return; /* from another process */
  int error = errno;
  th_watch *watch = info->si_value.sival_ptr;
  int64_t turned = last_turn(watch);
  int64_t time = th_now();
  if (time < turned + watch->interval + watch->limit) { /* it has turned since */
    arm_dump(watch, turned, time);
  } else if (ftruncate(watch->memory, 0) == 0) {
    lseek(watch->memory, 0, SEEK_SET);
    ((void (*)(int))watch->dump)(number);
    watch->dumped_at = turned;
    if (watch->output >= 0 && (watch->copied == 0 || time - watch->copied >= watch->pause)) {
      watch->copied = time;
      copy_out(watch);
    }
    __atomic_store_n(&watch->dumped, 1, __ATOMIC_RELEASE);
  }
  errno = error;
}

int th_watch_install(int number) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_timer;
  action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  return sigaction(number, &action, NULL) == 0 ? TH_OK : TH_ESYSTEM;
}

static int make_timer(th_watch *watch) {
  struct sigevent event;
  timer_t timer;
  memset(&event, 0, sizeof event);
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = watch->signal;
  event.sigev_value.sival_ptr = watch;
#ifdef sigev_notify_thread_id
  event.sigev_notify_thread_id = watch->thread;
#else
  event._sigev_un._tid = watch->thread; /* glibc's name until 2.34 */
#endif
  if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) return TH_ESYSTEM;
  watch->timer = (uintptr_t)timer;
  return TH_OK;
}

static void delete_timer(th_watch *watch) { timer_delete((timer_t)watch->timer); }

#else

static void arm(th_watch *watch, int64_t after) {
  (void)watch;
  (void)after;
}

int th_watch_install(int number) {
  (void)number;
  return TH_ESYSTEM;
}

static int make_timer(th_watch *watch) {
  (void)watch;
  return TH_ESYSTEM;
}

static void delete_timer(th_watch *watch) { (void)watch; }

#endif

int th_watch_begin(th_watch *watch) {
  th_watch_turn(watch);
  watch->seen = watch->turned;
  if (watch->thread == 0 || make_timer(watch) == TH_OK) return TH_OK;
  watch->thread = 0;
  return TH_ESYSTEM;
}

void th_watch_end(th_watch *watch) {
  if (watch->thread != 0) delete_timer(watch);
  watch->thread = 0;
}

/* Records that the watching thread has seen a turn. Returns 1 if the turn ends a block.
 * `due` is when the watching thread should have woken, `woke` when it did. If it woke late, the loop may have been kept
 * from running, too, so the time from `due` to the turn is not counted as late. */
static int note_turn(th_watch *watch, int64_t turned, int64_t due, int64_t woke) {
  int was_late = watch->late;
  if (turned > due) watch->lost += turned - due;
  watch->blocked = turned - watch->seen - watch->interval - watch->lost;
  watch->seen = turned;
  watch->lost = woke > due ? woke - (turned > due ? turned : due) : 0;
  watch->late = 0;
  return was_late;
}

/* Waits until there is an event to return. */
static int wait_for_event(th_watch *watch) {
  int64_t woke = th_now();
  for (;;) {
    int64_t wait = watch->interval;
    int64_t left = watch->seen + watch->lost + watch->interval + watch->limit - woke;
    if (!watch->late && left < wait) wait = left;
    if (wait < MILLISECOND) wait = MILLISECOND;
    int milliseconds = (int)((wait + MILLISECOND - 1) / MILLISECOND);
    int64_t due = woke + (int64_t)milliseconds * MILLISECOND;
    struct pollfd wake = {watch->wake, POLLIN, 0};
    if (poll(&wake, 1, milliseconds) > 0) return TH_WATCH_STOPPED;
    woke = th_now();
    int64_t turned = last_turn(watch);
    if (turned != watch->seen) {
      if (note_turn(watch, turned, due, woke)) return TH_WATCH_TURNED;
    } else {
      if (woke > due) watch->lost += woke - due;
      if (!watch->late && woke - watch->seen - watch->lost >= watch->interval + watch->limit) {
        watch->late = 1;
        return TH_WATCH_LATE;
      }
    }
    if (watch->alarm != 0 && woke >= watch->alarm) {
      watch->alarm = 0;
      return TH_WATCH_TIME;
    }
  }
}

int th_watch_wait(th_watch *watch) {
  if (watch->thread != 0) arm(watch, 0);
  if (__atomic_load_n(&watch->dumped, __ATOMIC_ACQUIRE) && !watch->late) { /* while the caller did not watch */
    watch->late = 1;
    watch->seen = watch->dumped_at;
    watch->lost = 0;
    return TH_WATCH_LATE;
  }
  watch->dumped = 0;
  int event = wait_for_event(watch);
  if (watch->thread != 0 && event != TH_WATCH_STOPPED) arm_dump(watch, last_turn(watch), th_now());
  return event;
}
