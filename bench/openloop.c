/* Measures latency at a fixed rate. A request is due at its time whether or not earlier ones are answered,
 * and its latency counts from then. So a server that stalls is charged for all requests that had to wait,
 * which a load that waits for responses leaves out ("coordinated omission").
 *
 *     openloop PORT RATE CONNECTIONS SECONDS [PATH]
 *
 * Each connection has one request at a time. A request that is due while all are busy waits for the first
 * free one. Prints a line of JSON; latencies are in microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, CONNECTIONS = 1024, READ = 4096, PATIENCE = 5 /* s for the last responses */ };

static char request[1024];
static size_t request_size;
static const char status[] = "HTTP/1.1 200";

struct connection {
    int sock;
    size_t received; /* bytes of the current response */
    int64_t due;     /* ns */
} connections[CONNECTIONS];

static size_t answer_size; /* bytes; the first response gives it, as all have the same */

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static int opened(int port)
{
    int sock = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(sock, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect");
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return sock;
}

/* Returns the bytes of one response: those that arrive until 100 ms pass without any. */
static size_t measured(int sock)
{
    char data[READ];
    size_t size = 0;
    struct pollfd waiting = {.fd = sock, .events = POLLIN};
    if (send(sock, request, request_size, 0) < 0)
        fail("send");
    while (poll(&waiting, 1, size ? 100 : PATIENCE * 1000) > 0) {
        ssize_t got = recv(sock, data + size, sizeof data - size, 0);
        if (got <= 0)
            fail("the first answer");
        size += (size_t)got;
    }
    if (size < sizeof status || memcmp(data, status, sizeof status - 1) != 0)
        fail("the first answer is not 200");
    return size;
}

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc != 5 && argc != 6)
        return 2;
    int port = atoi(argv[1]), count = atoi(argv[3]);
    int64_t interval = 1000000000 / atoi(argv[2]), total = atoi(argv[4]) * INT64_C(1000000000) / interval;
    if (count < 1 || count > CONNECTIONS || total < 1)
        return 2;
    int size = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\nAccept: */*\r\n"
                        "Accept-Encoding: gzip\r\n\r\n",
                        argc == 6 ? argv[5] : "/");
    if (size < 0 || (size_t)size >= sizeof request)
        return 2;
    request_size = (size_t)size;
    int64_t *latencies = calloc((size_t)total, sizeof *latencies), next = 0, answered = 0;
    int idle[CONNECTIONS], idles = 0;
    int loop = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN, .data.u32 = CONNECTIONS};
    epoll_ctl(loop, EPOLL_CTL_ADD, timer, &event);
    for (int i = 0; i < count; i++) {
        connections[i].sock = opened(port);
        event.data.u32 = (uint32_t)i;
        epoll_ctl(loop, EPOLL_CTL_ADD, connections[i].sock, &event);
        idle[idles++] = i;
    }
    answer_size = measured(connections[0].sock);
    int64_t start = now() + 1000000, end = start + total * interval + PATIENCE * INT64_C(1000000000);
    while (answered < total) {
        int64_t time = now();
        if (time > end)
            break;
        while (next < total && idles > 0 && start + next * interval <= time) {
            struct connection *connection = &connections[idle[--idles]];
            connection->due = start + next++ * interval;
            connection->received = 0;
            if (send(connection->sock, request, request_size, MSG_NOSIGNAL) < 0)
                fail("send");
        }
        if (next < total && idles > 0) {
            int64_t at = start + next * interval;
            struct itimerspec until = {.it_value = {at / 1000000000, at % 1000000000}};
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &until, NULL);
        }
        int ready = epoll_wait(loop, events, EVENTS, 1000);
        time = now();
        for (int i = 0; i < ready; i++) {
            char data[READ];
            if (events[i].data.u32 == CONNECTIONS) {
                if (read(timer, data, 8) < 0 && errno != EAGAIN)
                    fail("timer");
                continue;
            }
            struct connection *connection = &connections[events[i].data.u32];
            ssize_t got = recv(connection->sock, data, sizeof data, 0);
            if (got <= 0)
                fail("recv");
            if (connection->received == 0 && memcmp(data, status, sizeof status - 1) != 0)
                fail("an answer is not 200");
            connection->received += (size_t)got;
            if (connection->received > answer_size)
                fail("an answer is longer than the first");
            if (connection->received == answer_size) {
                latencies[answered++] = time - connection->due;
                idle[idles++] = (int)events[i].data.u32;
            }
        }
    }
    double seconds = (double)(now() - start) / 1e9;
    if (answered == 0)
        fail("nothing was answered");
    qsort(latencies, (size_t)answered, sizeof *latencies, ascending);
    printf("{\"requests\": %lld, \"unanswered\": %lld, \"seconds\": %.6f, \"p50\": %.1f, \"p99\": %.1f, "
           "\"p999\": %.1f, \"max\": %.1f}\n",
           (long long)answered, (long long)(total - answered), seconds,
           (double)latencies[answered / 2] / 1e3, (double)latencies[answered * 99 / 100] / 1e3,
           (double)latencies[answered * 999 / 1000] / 1e3, (double)latencies[answered - 1] / 1e3);
    return 0;
}
