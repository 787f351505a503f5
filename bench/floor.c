/* A limit, not a server: an epoll loop that sends constant bytes and parses no request. It shows
 * what the kernel itself needs for a response, which no server can go below.
 *
 *     floor PORT BODY_BYTES [close]
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, READ = 65536, DESCRIPTORS = 65536 };

static char answer[1 << 21], data[READ];
static size_t answer_size;
static size_t unsent[DESCRIPTORS]; /* bytes of responses, by descriptor */

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int listener(int port)
{
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(sock, (struct sockaddr *)&address, sizeof address) < 0 || listen(sock, 2048) < 0)
        fail("listen");
    return sock;
}

static void prepare(size_t size, int close_each)
{
    int head = snprintf(answer, 256,
                        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %zu\r\n%s\r\n",
                        size, close_each ? "connection: close\r\n" : "");
    answer_size = (size_t)head + size;
    if (size == 13)
        memcpy(answer + head, "Hello, world!", 13);
    else
        for (size_t i = 0; i < size; i++)
            answer[(size_t)head + i] = (char)i;
}

/* Sends the unsent bytes. Returns 1 if none are left, 0 if the socket is full, -1 if it has failed. */
static int flush(int sock)
{
    while (unsent[sock] > 0) {
        size_t offset = (answer_size - unsent[sock] % answer_size) % answer_size;
        size_t part = answer_size - offset;
        ssize_t sent = send(sock, answer + offset, part, MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN ? 0 : -1;
        unsent[sock] -= (size_t)sent;
    }
    return 1;
}

static size_t requests(const char *start, size_t size)
{
    size_t found = 0;
    const char *end = start + size, *at = start;
    while ((at = memmem(at, (size_t)(end - at), "\r\n\r\n", 4)) != NULL) {
        found++;
        at += 4;
    }
    return found;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    int close_each = argc > 3;
    size_t size = (size_t)atol(argv[2]);
    if (size > sizeof answer - 256)
        return 2;
    prepare(size, close_each);
    int sock = listener(atoi(argv[1])), loop = epoll_create1(0), on = 1;
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN, .data.fd = sock};
    epoll_ctl(loop, EPOLL_CTL_ADD, sock, &event);
    for (;;) {
        int count = epoll_wait(loop, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int peer = events[i].data.fd;
            if (peer == sock) {
                if ((peer = accept4(sock, NULL, NULL, SOCK_NONBLOCK)) < 0)
                    continue;
                if (peer >= DESCRIPTORS)
                    fail("too many connections");
                setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                unsent[peer] = 0;
                event = (struct epoll_event){.events = EPOLLIN, .data.fd = peer};
                epoll_ctl(loop, EPOLL_CTL_ADD, peer, &event);
                continue;
            }
            size_t owed = unsent[peer];
            if (events[i].events & EPOLLIN) {
                ssize_t got = recv(peer, data, READ, 0);
                if (got == 0 || (got < 0 && errno != EAGAIN)) {
                    close(peer);
                    continue;
                }
                if (got > 0)
                    unsent[peer] += answer_size * requests(data, (size_t)got);
            }
            int done = flush(peer);
            if (done < 0 || (done && close_each)) {
                close(peer);
                continue;
            }
            if (!done || owed) {
                event.events = done ? EPOLLIN : EPOLLIN | EPOLLOUT;
                event.data.fd = peer;
                epoll_ctl(loop, EPOLL_CTL_MOD, peer, &event);
            }
        }
    }
}
