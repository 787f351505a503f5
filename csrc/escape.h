/* Client data made fit for one line of a log: what comes out is printable ASCII without a bare quote, whatever went in. */
#ifndef TH_ESCAPE_H
#define TH_ESCAPE_H

#include "buffer.h"

/* Appends src[0..n) as Apache's logs have it: \" and \\, and \xHH for what is not printable ASCII.
 * Returns TH_OK or TH_ENOMEM; then nothing was appended. */
int th_append_escaped(th_buffer *buffer, const char *src, size_t n);

/* Appends src[0..n) as the inside of a JSON string (RFC 8259 section 7): \" and \\, and \uHHHH for what is not printable
 * ASCII. What is not UTF-8 is read as latin-1, so that every byte can be told. Same returns. */
int th_append_json(th_buffer *buffer, const char *src, size_t n);

#endif
