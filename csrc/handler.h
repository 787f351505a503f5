/* What the kernel does with a signal, which Python's own table does not show for handlers of C code. */
#ifndef TH_HANDLER_H
#define TH_HANDLER_H

#include "base.h"

/* Address of the function that the signal calls; 0 for its default action, 1 if it is ignored, and if there is no such
 * signal. */
uintptr_t th_signal_handler(int number);

#endif
