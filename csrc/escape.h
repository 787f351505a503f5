/* Escapes client data for a line of a log: the result is printable ASCII without unescaped quotes, whatever the
 * input. */
#ifndef TH_ESCAPE_H
#define TH_ESCAPE_H

#include "buffer.h"

/* Appends src[0..n), escaped as in Apache's logs: \" and \\, and \xHH for bytes that are not printable ASCII.
 * Returns TH_OK, or TH_ENOMEM with nothing appended. */
int th_append_escaped(th_buffer *buffer, const char *src, size_t n);

/* Appends src[0..n) as the inside of a JSON string (RFC 8259 section 7): \" and \\, and \uHHHH for what is not
 * printable ASCII. Invalid UTF-8 is read as Latin-1, so that no byte is lost. Same results. */
int th_append_json(th_buffer *buffer, const char *src, size_t n);

#endif
