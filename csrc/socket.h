/* System calls on stream sockets, TCP and Unix, and on the epoll that watches them. Linux; elsewhere each fails with
 * TH_ESYSTEM and ENOSYS. No call blocks. On TH_ESYSTEM errno says why. */
#ifndef TH_SOCKET_H
#define TH_SOCKET_H

#include "base.h"

enum th_family { TH_OTHER_FAMILY = 0, TH_INET = 4, TH_INET6 = 6, TH_UNIX = 1 };

typedef struct {
  int32_t family;   /* enum th_family */
  uint32_t port;
  uint32_t flow;    /* of IPv6, as is scope */
  uint32_t scope;
  uint32_t length;  /* of text */
  char text[108];   /* the numeric address, or a Unix socket's path; one that begins with NUL is abstract */
} th_address;

/* What is watched for, and what has come. */
enum th_ready_bit {
  TH_READABLE = 1, /* bytes, or a connection to be accepted */
  TH_WRITABLE = 2,
  TH_HANGUP = 4,    /* the peer sends no more */
  TH_BROKEN = 8,   /* th_socket_error() says why */
  TH_LISTENING = 16 /* to watch for: a listening socket */
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

/* Accepts one connection, which does not block and is closed by exec. Returns its descriptor; TH_EBLOCKED if none
 * waits. */
int th_accept(int listener, th_address *peer);
/* The address at our end. Returns TH_OK. */
int th_own_address(int fd, th_address *own);
/* Returns how many bytes of n came, 0 at the peer's end; TH_EBLOCKED if none is there. */
int th_receive(int fd, char *dst, size_t n);
/* Returns how many bytes were taken; TH_EBLOCKED if none. */
int th_send(int fd, const char *src, size_t n);
/* The same for count parts, at most TH_PARTS_MAX of them. */
int th_send_parts(int fd, const th_part *parts, int count);
/* Takes the error that a socket holds: TH_OK if there is none, TH_ESYSTEM with it in errno. */
int th_socket_error(int fd);
/* Ends our side; the peer's may go on. */
int th_end_output(int fd);
/* Has small segments sent at once (TCP_NODELAY). */
int th_send_at_once(int fd);
/* Has the kernel ignore who asks a TCP socket for a connection from now on; those that have been answered already may
 * finish. Nothing undoes it. */
int th_drop_syn(int fd);
int th_close(int fd);

/* A new epoll; closed by th_close(). */
int th_poll_open(void);
/* Watches for a set of th_ready_bit. A connection is reported when something changes (EPOLLET): who leaves bytes unread
 * must come back by itself. A listening socket is reported as long as connections wait. */
int th_poll_add(int poll, int fd, int bits);
/* Watches a connection for other bits; those that hold are reported. */
int th_poll_change(int poll, int fd, int bits);
int th_poll_remove(int poll, int fd);
/* Returns how many of at most TH_READY_MAX places were filled; does not wait. */
int th_poll_take(int poll, th_ready *ready);

#endif
