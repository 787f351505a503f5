#define _POSIX_C_SOURCE 200809L /* clock_gettime */

#include "base.h"

#include <time.h>

#include "llhttp.h"

#define TH_TEXT2(x) #x
#define TH_TEXT(x) TH_TEXT2(x)

int th_status_code(int status) {
  switch (status) {
    case TH_EMETHOD:
    case TH_ECONNECT:
    case TH_ETRANSFER_CODING:
      return 501;
    case TH_EVERSION:
    case TH_EHTTP2:
      return 505;
    case TH_EEXPECT:
      return 417;
    case TH_ELINE_SIZE:
      return 414;
    case TH_EHEAD_SIZE:
    case TH_EHEAD_COUNT:
    case TH_ETRAILER_SIZE:
      return 431;
    case TH_EBODY_SIZE:
      return 413;
    case TH_ENOMEM:
    case TH_EFIELD_NAME:
    case TH_EFIELD_VALUE:
    case TH_EBLOCKED:
    case TH_ESYSTEM:
      return 500;
    case TH_EFRAME_RESERVED:
    case TH_EFRAME_OPCODE:
    case TH_EFRAME_UNMASKED:
    case TH_EFRAME_LENGTH:
    case TH_EFRAME_CONTROL:
    case TH_EFRAME_ORDER:
    case TH_ECLOSE:
      return 1002;
    case TH_EUTF8:
    case TH_EDEFLATE:
      return 1007;
    case TH_EMESSAGE_SIZE:
      return 1009;
    case TH_EHPACK:
      return 0x9; /* COMPRESSION_ERROR */
    case TH_EHPACK_SIZE:
    case TH_EGLITCHES:
    case TH_ERESETS:
    case TH_EBLOCK_SIZE:
      return 0xb; /* ENHANCE_YOUR_CALM */
    case TH_EPREFACE:
    case TH_EFIRST_FRAME:
    case TH_EFRAME_STREAM:
    case TH_ESTREAM_IDLE:
    case TH_EPADDING:
    case TH_EBLOCK:
    case TH_ESETTING:
    case TH_EINCREMENT:
    case TH_EPUSH:
    case TH_EPRIORITIES:
    case TH_EPSEUDO:
    case TH_EFIELD:
    case TH_EHOP_BY_HOP:
    case TH_ELENGTH:
    case TH_ETRAILERS:
      return 0x1; /* PROTOCOL_ERROR */
    case TH_ESETTING_WINDOW:
    case TH_EWINDOW:
    case TH_ESTREAM_WINDOW:
      return 0x3; /* FLOW_CONTROL_ERROR */
    case TH_ESTREAM_CLOSED:
      return 0x5; /* STREAM_CLOSED */
    case TH_EFRAME_SIZE:
      return 0x6; /* FRAME_SIZE_ERROR */
    case TH_EREFUSED:
      return 0x7; /* REFUSED_STREAM */
    default:
      return 400;
  }
}

const char *th_status_text(int status) {
  switch (status) {
    case TH_OK: return "no error";
    case TH_ENOMEM: return "out of memory";
    case TH_ESYNTAX: return "malformed request";
    case TH_EMETHOD: return "unknown method";
    case TH_ECONNECT: return "CONNECT is not supported";
    case TH_EVERSION: return "only HTTP/1.0 and HTTP/1.1 are supported";
    case TH_EPROTOCOL: return "not HTTP";
    case TH_ETARGET: return "invalid request target";
    case TH_EHOST_MISSING: return "missing Host field";
    case TH_EHOST_DUPLICATE: return "more than one Host field";
    case TH_EHOST_INVALID: return "invalid host";
    case TH_ECONTENT_LENGTH: return "invalid Content-Length";
    case TH_ETRANSFER_ENCODING: return "invalid Transfer-Encoding";
    case TH_ETRANSFER_CODING: return "unsupported transfer coding";
    case TH_EEXPECT: return "unsupported expectation";
    case TH_ELINE_SIZE: return "request line too long";
    case TH_EHEAD_SIZE: return "header fields too large";
    case TH_EHEAD_COUNT: return "too many header fields";
    case TH_ECHUNK_SIZE: return "chunked framing too large";
    case TH_ECHUNK: return "malformed chunk";
    case TH_ETRAILER_SIZE: return "trailer fields too large";
    case TH_EBODY_SIZE: return "body too large";
    case TH_ETLS: return "TLS handshake on a plain HTTP port";
    case TH_EHTTP2: return "HTTP/2 connection preface on an HTTP/1.1 port";
    case TH_EFIELD_NAME: return "field name is not a token";
    case TH_EFIELD_VALUE: return "field value contains a control character";
    case TH_EFRAME_RESERVED: return "reserved bit set";
    case TH_EFRAME_OPCODE: return "unknown opcode";
    case TH_EFRAME_UNMASKED: return "frame not masked";
    case TH_EFRAME_LENGTH: return "invalid frame length";
    case TH_EFRAME_CONTROL: return "control frame fragmented or too long";
    case TH_EFRAME_ORDER: return "fragments out of order";
    case TH_ECLOSE: return "invalid close code";
    case TH_EUTF8: return "text is not UTF-8";
    case TH_EDEFLATE: return "invalid compressed data";
    case TH_EMESSAGE_SIZE: return "message too big";
    case TH_EPROXY: return "not a PROXY protocol head";
    case TH_EPROXY_SIZE: return "PROXY protocol head too long";
    case TH_EHPACK: return "invalid field block";
    case TH_EHPACK_SIZE: return "field name or value too long";
    case TH_EPREFACE: return "not the HTTP/2 connection preface";
    case TH_EFIRST_FRAME: return "the first frame is not SETTINGS";
    case TH_EFRAME_SIZE: return "invalid frame size";
    case TH_EFRAME_STREAM: return "frame on a stream that must not have it";
    case TH_ESTREAM_IDLE: return "frame on a stream that has not begun";
    case TH_ESTREAM_CLOSED: return "frame on a closed stream";
    case TH_EPADDING: return "padding longer than its frame";
    case TH_EBLOCK: return "frame out of place in a field block";
    case TH_ESETTING: return "invalid setting";
    case TH_ESETTING_WINDOW: return "initial window too large";
    case TH_EWINDOW: return "flow-control window exceeded";
    case TH_EINCREMENT: return "window update by 0";
    case TH_EPUSH: return "push from a client";
    case TH_EGLITCHES: return "too many frames without work";
    case TH_ERESETS: return "too many streams reset";
    case TH_EBLOCK_SIZE: return "field block too large";
    case TH_EPSEUDO: return "invalid pseudo-header fields";
    case TH_EFIELD: return "invalid field name or value";
    case TH_EHOP_BY_HOP: return "connection-specific field";
    case TH_ELENGTH: return "content does not match Content-Length";
    case TH_ETRAILERS: return "invalid trailers";
    case TH_ESTREAM_WINDOW: return "flow-control window of the stream exceeded";
    case TH_EREFUSED: return "too many streams";
    case TH_EAUTHORITY: return "Host contradicts :authority";
    case TH_EPRIORITIES: return "priorities for too many streams";
    case TH_EBLOCKED: return "not ready";
    case TH_ESYSTEM: return "system call failed";
    default: return "unknown status";
  }
}

const char *th_llhttp_version(void) {
  return TH_TEXT(LLHTTP_VERSION_MAJOR) "." TH_TEXT(LLHTTP_VERSION_MINOR) "." TH_TEXT(LLHTTP_VERSION_PATCH);
}

int64_t th_now(void) {
  struct timespec now;
  if (clock_gettime(CLOCK_MONOTONIC, &now) != 0) return 0;
  return (int64_t)now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}
