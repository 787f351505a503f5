/* The kernel's handler of a signal: Python's signal module does not know of handlers that C code has set. */
#ifndef TH_HANDLER_H
#define TH_HANDLER_H

#include "base.h"

/* Returns the address of the signal's handler; 0 for the default action, 1 if the signal is ignored or does not
 * exist. */
uintptr_t th_signal_handler(int number);

#endif
