#define _GNU_SOURCE /* accept4 */

#include "socket.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#ifdef __linux__

#include <arpa/inet.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

typedef union {
  struct sockaddr any;
  struct sockaddr_in inet;
  struct sockaddr_in6 inet6;
  struct sockaddr_un local;
} address;

_Static_assert(sizeof((th_address *)0)->text >= sizeof((struct sockaddr_un *)0)->sun_path, "a path must fit");

static int result_of(ssize_t returned) {
  if (returned >= 0) return (int)returned;
  return errno == EAGAIN || errno == EWOULDBLOCK ? TH_EBLOCKED : TH_ESYSTEM;
}

static void read_address(const address *from, socklen_t length, th_address *to) {
  to->family = TH_OTHER_FAMILY;
  to->port = to->flow = to->scope = to->length = 0;
  if (from->any.sa_family == AF_INET) {
    to->family = TH_INET;
    to->port = ntohs(from->inet.sin_port);
    inet_ntop(AF_INET, &from->inet.sin_addr, to->text, sizeof to->text);
    to->length = (uint32_t)strlen(to->text);
  } else if (from->any.sa_family == AF_INET6) {
    to->family = TH_INET6;
    to->port = ntohs(from->inet6.sin6_port);
    to->flow = ntohl(from->inet6.sin6_flowinfo);
    to->scope = from->inet6.sin6_scope_id;
    inet_ntop(AF_INET6, &from->inet6.sin6_addr, to->text, sizeof to->text);
    to->length = (uint32_t)strlen(to->text);
  } else if (from->any.sa_family == AF_UNIX) {
    size_t before = offsetof(struct sockaddr_un, sun_path);
    size_t n = length > before ? length - before : 0;
    to->family = TH_UNIX;
    if (n > sizeof from->local.sun_path) n = sizeof from->local.sun_path;
    if (n > 0 && from->local.sun_path[0] != '\0') n = strnlen(from->local.sun_path, n);
    memcpy(to->text, from->local.sun_path, n);
    to->length = (uint32_t)n;
  }
}

int th_accept(int listener, th_address *peer) {
  address from;
  socklen_t length;
  int fd;
  do { /* skips connections that their clients have aborted */
    length = sizeof from;
    from.any.sa_family = AF_UNSPEC;
    fd = accept4(listener, &from.any, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
  } while (fd < 0 && (errno == EINTR || errno == ECONNABORTED || errno == EPROTO));
  if (fd < 0) return result_of(fd);
  read_address(&from, length, peer);
  return fd;
}

int th_own_address(int fd, th_address *own) {
  address from;
  socklen_t length = sizeof from;
  if (getsockname(fd, &from.any, &length) < 0) return TH_ESYSTEM;
  read_address(&from, length, own);
  return TH_OK;
}

int th_receive(int fd, char *dst, size_t n) {
  ssize_t received;
  if (n > INT_MAX) n = INT_MAX;
  do {
    received = recv(fd, dst, n, 0);
  } while (received < 0 && errno == EINTR);
  return result_of(received);
}

int th_send(int fd, const char *src, size_t n) {
  ssize_t sent;
  if (n > INT_MAX) n = INT_MAX;
  do {
    sent = send(fd, src, n, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return result_of(sent);
}

int th_send_parts(int fd, const th_part *parts, int count) {
  struct iovec pieces[TH_PARTS_MAX];
  size_t room = INT_MAX;
  int used = 0;
  while (used < count && used < TH_PARTS_MAX && room > 0) {
    size_t n = parts[used].length < room ? parts[used].length : room;
    memcpy(&pieces[used].iov_base, &parts[used].data, sizeof parts[used].data); /* no cast: iov_base is not const */
    pieces[used].iov_len = n;
    room -= n;
    used++;
  }
  struct msghdr message;
  memset(&message, 0, sizeof message);
  message.msg_iov = pieces;
  message.msg_iovlen = (size_t)used;
  ssize_t sent;
  do {
    sent = sendmsg(fd, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return result_of(sent);
}

int th_socket_error(int fd) {
  int error = 0;
  socklen_t length = sizeof error;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0) return TH_ESYSTEM;
  if (error == 0) return TH_OK;
  errno = error;
  return TH_ESYSTEM;
}

int th_end_output(int fd) { return shutdown(fd, SHUT_WR) < 0 ? TH_ESYSTEM : TH_OK; }

int th_send_at_once(int fd) {
  int on = 1;
  return setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ? TH_ESYSTEM : TH_OK;
}

int th_drop_syn(int fd) {
  enum { FLAGS = 13, SYN = 0x02, ACK = 0x10 }; /* offset and bits in the TCP header, where the filter's data starts */
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, FLAGS),
      BPF_STMT(BPF_ALU | BPF_AND | BPF_K, SYN | ACK),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYN, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, 0),
      BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
  };
  struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
  return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0 ? TH_ESYSTEM : TH_OK;
}

int th_close(int fd) { return close(fd) < 0 ? TH_ESYSTEM : TH_OK; }

int th_poll_open(void) { return result_of(epoll_create1(EPOLL_CLOEXEC)); }

static int control(int poll, int operation, int fd, int bits) {
  struct epoll_event event;
  memset(&event, 0, sizeof event);
  event.data.fd = fd;
  if (bits & TH_LISTENING) {
    event.events = EPOLLIN | EPOLLEXCLUSIVE;
  } else {
    event.events = EPOLLIN | EPOLLRDHUP | EPOLLET;
    if (bits & TH_WRITABLE) event.events |= EPOLLOUT;
  }
  return epoll_ctl(poll, operation, fd, &event) < 0 ? TH_ESYSTEM : TH_OK;
}

int th_poll_add(int poll, int fd, int bits) { return control(poll, EPOLL_CTL_ADD, fd, bits); }

int th_poll_change(int poll, int fd, int bits) { return control(poll, EPOLL_CTL_MOD, fd, bits); }

int th_poll_remove(int poll, int fd) { return control(poll, EPOLL_CTL_DEL, fd, 0); }

int th_poll_take(int poll, th_ready *ready) {
  struct epoll_event events[TH_READY_MAX];
  int count = epoll_wait(poll, events, TH_READY_MAX, 0);
  if (count < 0) return errno == EINTR ? 0 : TH_ESYSTEM;
  for (int i = 0; i < count; i++) {
    uint32_t found = events[i].events;
    uint32_t bits = 0;
    if (found & EPOLLIN) bits |= TH_READABLE;
    if (found & EPOLLOUT) bits |= TH_WRITABLE;
    if (found & (EPOLLRDHUP | EPOLLHUP)) bits |= TH_HANGUP;
    if (found & EPOLLERR) bits |= TH_BROKEN;
    ready[i].fd = events[i].data.fd;
    ready[i].bits = bits;
  }
  return count;
}

#else

static int absent(void) {
  errno = ENOSYS;
  return TH_ESYSTEM;
}

int th_accept(int listener, th_address *peer) { return (void)listener, (void)peer, absent(); }
int th_own_address(int fd, th_address *own) { return (void)fd, (void)own, absent(); }
int th_receive(int fd, char *dst, size_t n) { return (void)fd, (void)dst, (void)n, absent(); }
int th_send(int fd, const char *src, size_t n) { return (void)fd, (void)src, (void)n, absent(); }
int th_send_parts(int fd, const th_part *parts, int count) { return (void)fd, (void)parts, (void)count, absent(); }
int th_socket_error(int fd) { return (void)fd, absent(); }
int th_end_output(int fd) { return (void)fd, absent(); }
int th_send_at_once(int fd) { return (void)fd, absent(); }
int th_drop_syn(int fd) { return (void)fd, absent(); }
int th_close(int fd) { return (void)fd, absent(); }
int th_poll_open(void) { return absent(); }
int th_poll_add(int poll, int fd, int bits) { return (void)poll, (void)fd, (void)bits, absent(); }
int th_poll_change(int poll, int fd, int bits) { return (void)poll, (void)fd, (void)bits, absent(); }
int th_poll_remove(int poll, int fd) { return (void)poll, (void)fd, absent(); }
int th_poll_take(int poll, th_ready *ready) { return (void)poll, (void)ready, absent(); }

#endif
