#include "response.h"

#include <string.h>

#include "ascii.h"

const char *th_reason_phrase(int code) {
  switch (code) {
    case 100: return "Continue";
    case 101: return "Switching Protocols";
    case 102: return "Processing";
    case 103: return "Early Hints";
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 203: return "Non-Authoritative Information";
    case 204: return "No Content";
    case 205: return "Reset Content";
    case 206: return "Partial Content";
    case 207: return "Multi-Status";
    case 208: return "Already Reported";
    case 226: return "IM Used";
    case 300: return "Multiple Choices";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 303: return "See Other";
    case 304: return "Not Modified";
    case 305: return "Use Proxy";
    case 307: return "Temporary Redirect";
    case 308: return "Permanent Redirect";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 402: return "Payment Required";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 406: return "Not Acceptable";
    case 407: return "Proxy Authentication Required";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 410: return "Gone";
    case 411: return "Length Required";
    case 412: return "Precondition Failed";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 415: return "Unsupported Media Type";
    case 416: return "Range Not Satisfiable";
    case 417: return "Expectation Failed";
    case 418: return "I'm a Teapot";
    case 421: return "Misdirected Request";
    case 422: return "Unprocessable Content";
    case 423: return "Locked";
    case 424: return "Failed Dependency";
    case 425: return "Too Early";
    case 426: return "Upgrade Required";
    case 428: return "Precondition Required";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 451: return "Unavailable For Legal Reasons";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    case 506: return "Variant Also Negotiates";
    case 507: return "Insufficient Storage";
    case 508: return "Loop Detected";
    case 510: return "Not Extended";
    case 511: return "Network Authentication Required";
    default: return "";
  }
}

static int append_text(th_buffer *buffer, const char *text) { return th_buffer_append(buffer, text, strlen(text)); }

int th_write_status_line(th_buffer *buffer, int code) {
  int status = th_buffer_append(buffer, "HTTP/1.1 ", 9);
  if (status == TH_OK) status = th_buffer_append_decimal(buffer, (uint64_t)code);
  if (status == TH_OK) status = th_buffer_append(buffer, " ", 1);
  if (status == TH_OK) status = append_text(buffer, th_reason_phrase(code));
  return status == TH_OK ? th_buffer_append(buffer, "\r\n", 2) : status;
}

int th_write_field(th_buffer *buffer, const char *name, size_t name_length, const char *value, size_t value_length) {
  if (!th_is_token(name, name_length)) return TH_EFIELD_NAME;
  if (!th_is_field_value(value, value_length)) return TH_EFIELD_VALUE;
  if (name_length > SIZE_MAX / 4 || value_length > SIZE_MAX / 4) return TH_ENOMEM;
  int status = th_buffer_reserve(buffer, name_length + value_length + 4);
  if (status < 0) return status;
  char *out = buffer->data + buffer->length;
  memcpy(out, name, name_length);
  out += name_length;
  *out++ = ':';
  *out++ = ' ';
  if (value_length > 0) memcpy(out, value, value_length);
  out += value_length;
  *out++ = '\r';
  *out++ = '\n';
  buffer->length = (size_t)(out - buffer->data);
  return TH_OK;
}

int th_write_chunk_head(th_buffer *buffer, uint64_t size) {
  int status = th_buffer_append_hex(buffer, size);
  return status == TH_OK ? th_buffer_append(buffer, "\r\n", 2) : status;
}

int th_write_chunk(th_buffer *buffer, const char *src, size_t n) {
  int status = th_write_chunk_head(buffer, n);
  if (status == TH_OK) status = th_buffer_reserve(buffer, n + 2);
  if (status < 0) return status;
  char *at = buffer->data + buffer->length;
  memcpy(at, src, n);
  memcpy(at + n, "\r\n", 2);
  buffer->length += n + 2;
  return TH_OK;
}

int th_read_content_length(const char *src, size_t n, uint64_t *length) {
  uint64_t value = 0;
  if (n == 0) return TH_ECONTENT_LENGTH;
  for (size_t i = 0; i < n; i++) {
    if (src[i] < '0' || src[i] > '9') return TH_ECONTENT_LENGTH;
    uint64_t digit = (uint64_t)(src[i] - '0');
    if (value > (UINT64_MAX - digit) / 10) return TH_ECONTENT_LENGTH;
    value = value * 10 + digit;
  }
  *length = value;
  return TH_OK;
}
