/* System calls on stream sockets, TCP and Unix, and on epoll. Linux only: elsewhere each fails with TH_ESYSTEM and
 * ENOSYS. No call blocks. After TH_ESYSTEM, errno says why. */
#ifndef TH_SOCKET_H
#define TH_SOCKET_H

#include "base.h"

enum th_family { TH_OTHER_FAMILY = 0, TH_INET = 4, TH_INET6 = 6, TH_UNIX = 1 };

typedef struct {
  int32_t family;   /* enum th_family */
  uint32_t port;
  uint32_t flow;    /* IPv6 only, like scope */
  uint32_t scope;
  uint32_t length;  /* of text */
  char text[108];   /* the numeric address, or a Unix socket's path; an abstract one starts with NUL */
} th_address;

/* Events to watch for, and events that have occurred. */
enum th_ready_bit {
  TH_READABLE = 1, /* bytes, or a connection to accept */
  TH_WRITABLE = 2,
  TH_HANGUP = 4,    /* the peer has closed its side */
  TH_BROKEN = 8,   /* th_socket_error() says why */
  TH_LISTENING = 16 /* only for th_poll_add(): the socket listens */
};

typedef struct {
  int32_t fd;
  uint32_t bits;
} th_ready;

typedef struct {
  const char *data;
  size_t length;
} th_part;

enum { TH_PARTS_MAX = 64, TH_READY_MAX = 256 };

/* Accepts one connection, non-blocking and close-on-exec. Returns its descriptor, or TH_EBLOCKED if none is waiting. */
int th_accept(int listener, th_address *peer);
/* Gets the local address. Returns TH_OK. */
int th_own_address(int fd, th_address *own);
/* Returns how many bytes were received, 0 at end of file, TH_EBLOCKED if there are none. */
int th_receive(int fd, char *dst, size_t n);
/* Returns how many bytes the kernel took, TH_EBLOCKED if none. */
int th_send(int fd, const char *src, size_t n);
/* The same for several parts, at most TH_PARTS_MAX. */
int th_send_parts(int fd, const th_part *parts, int count);
/* Gets and clears a socket's pending error: TH_OK if there is none, else TH_ESYSTEM with the error in errno. */
int th_socket_error(int fd);
/* Closes our side; the peer may keep sending. */
int th_end_output(int fd);
/* Makes the kernel send small segments at once (TCP_NODELAY). */
int th_send_at_once(int fd);
/* Makes the kernel drop new connection attempts (SYN) to a TCP socket; handshakes in progress may complete. Cannot be
 * undone. */
int th_drop_syn(int fd);
int th_close(int fd);

/* Returns a new epoll descriptor, to be closed with th_close(). */
int th_poll_open(void);
/* Watches a socket for a set of th_ready_bit. A connection is reported only on changes (EPOLLET), so the caller must
 * remember to read bytes that it left unread. A listening socket is reported as long as connections are waiting. */
int th_poll_add(int poll, int fd, int bits);
/* Replaces the bits of a connection; those already true are reported. */
int th_poll_change(int poll, int fd, int bits);
int th_poll_remove(int poll, int fd);
/* Fills ready, which must hold TH_READY_MAX items, without waiting. Returns how many were filled. */
int th_poll_take(int poll, th_ready *ready);

#endif
