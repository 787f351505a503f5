/* The head of the PROXY protocol, versions 1 and 2: the two ends of a connection that a proxy forwards.
 * https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt */
#ifndef TH_PROXY_H
#define TH_PROXY_H

#include "ascii.h"
#include "base.h"

enum {
  TH_PROXY_LINE_MAX = 107, /* bytes of version 1 with CRLF, section 2.1 */
  TH_PROXY_HEAD_MAX = 4096 /* bytes of version 2 with its TLVs, as in nginx; the protocol allows 65551 */
};

/* NONE: the proxy made the connection for itself, or does not know the client's address; the addresses are those of the
 * connection itself. */
enum th_proxy_family { TH_PROXY_NONE = 0, TH_PROXY_IPV4 = 1, TH_PROXY_IPV6 = 2, TH_PROXY_UNIX = 3 };

/* What a proxy that terminates TLS reports about its client: bits of th_proxy.tls (version 2, section 2.2.6). */
enum th_proxy_tls {
  TH_PROXY_TLS = 1,              /* the client connected over TLS */
  TH_PROXY_TLS_CERT_CONN = 2,    /* and sent a certificate on this connection */
  TH_PROXY_TLS_CERT_SESSION = 4, /* or on another connection of the same session */
};

/* Offsets of slices count from the head's first byte. An address is text in version 1, and 4 or 16 bytes in network
 * order in version 2; that of a Unix socket is its path, empty if it has none. tls_ fields that the proxy does not send
 * are empty. */
typedef struct {
  uint8_t version;
  uint8_t family; /* enum th_proxy_family */
  uint8_t tls;    /* enum th_proxy_tls */
  uint8_t tls_reported; /* 0 if the proxy says nothing about TLS */
  uint16_t source_port;
  uint16_t destination_port;
  uint32_t tls_verify; /* 0 if the client's certificate was verified, else the proxy's own error number */
  th_slice source;
  th_slice destination;
  th_slice tls_version; /* "TLSv1.3" */
  th_slice tls_cipher;  /* OpenSSL's name */
  th_slice tls_name;    /* the common name of the client's certificate, UTF-8 */
} th_proxy;

/* Reads the head at the start of src[0..n). Returns its length, 0 if more bytes are needed (never if n is at least
 * TH_PROXY_HEAD_MAX), TH_EPROXY or TH_EPROXY_SIZE. The verdict is the same wherever n cuts the bytes.
 *
 * In version 2, TLVs must fill the head exactly, a checksum must be right, and each type that is read here may occur
 * only once; other types are ignored. The content of LOCAL and UNSPEC heads is ignored. */
int th_proxy_read(const char *src, size_t n, th_proxy *out);

#endif
