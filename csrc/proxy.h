/* The head of the PROXY protocol, versions 1 and 2: who is at either end of a connection that a proxy passes on.
 * https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt */
#ifndef TH_PROXY_H
#define TH_PROXY_H

#include "ascii.h"
#include "base.h"

enum {
  TH_PROXY_LINE_MAX = 107, /* bytes of version 1 with CRLF, section 2.1 */
  TH_PROXY_HEAD_MAX = 4096 /* bytes of version 2 with its TLVs; it could announce 65551, nginx takes as many as this */
};

/* NONE: the proxy speaks for itself, or does not know, so the connection's own ends hold. */
enum th_proxy_family { TH_PROXY_NONE = 0, TH_PROXY_IPV4 = 1, TH_PROXY_IPV6 = 2, TH_PROXY_UNIX = 3 };

/* What a proxy that ends TLS says of its client, bits of th_proxy.tls (version 2, section 2.2.6). */
enum th_proxy_tls {
  TH_PROXY_TLS = 1,              /* the client has connected over TLS */
  TH_PROXY_TLS_CERT_CONN = 2,    /* and shown a certificate on this connection */
  TH_PROXY_TLS_CERT_SESSION = 4, /* or on another of the same session */
};

/* Slices count from the head's first byte. An address is text in version 1, 4 or 16 bytes in network order in version 2;
 * a Unix socket's is its path, empty for one without a name. The tls_ fields are empty where the proxy does not say. */
typedef struct {
  uint8_t version;
  uint8_t family; /* enum th_proxy_family */
  uint8_t tls;    /* enum th_proxy_tls, 0 if the proxy says nothing of TLS */
  uint16_t source_port;
  uint16_t destination_port;
  uint32_t tls_verify; /* 0 if the client's certificate was verified, else why not, in the proxy's own numbers */
  th_slice source;
  th_slice destination;
  th_slice tls_version; /* "TLSv1.3" */
  th_slice tls_cipher;  /* in OpenSSL's words */
  th_slice tls_name;    /* the common name of the client's certificate, UTF-8 */
} th_proxy;

/* Reads the head at src[0..n), which may go on behind it. Returns its length, or 0 if more bytes are needed (never with
 * n >= TH_PROXY_HEAD_MAX), TH_EPROXY or TH_EPROXY_SIZE. The verdict is the same wherever n cuts the bytes.
 *
 * Behind the addresses of version 2 the TLVs must fill the rest exactly, a checksum must be right, and what is read here
 * may stand there once; other types are passed over. Of LOCAL and UNSPEC heads nothing is read. */
int th_proxy_read(const char *src, size_t n, th_proxy *out);

#endif
