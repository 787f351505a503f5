#define _POSIX_C_SOURCE 200809L /* sigaction */

#include "handler.h"

#include <signal.h>

uintptr_t th_signal_handler(int number) {
  struct sigaction action;
  if (sigaction(number, NULL, &action) != 0) return (uintptr_t)SIG_IGN;
  return (uintptr_t)action.sa_handler;
}
