/* The floor: the least work that a server can do for a line, in C, without checks, limits, names or history.
 *
 *     cc -O2 -o floor floor.c && ./floor PORT batch|line
 *
 * batch: one send to each member for all lines that came with one wake-up. line: one send for each line and member.
 * A member's first line is its room ("r0012", any number below 10,000), answered by "ok"; each further line goes to all
 * members of the room, also to its sender. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROOMS = 10000, READ_BYTES = 64 * 1024, EVENTS = 256 };

typedef struct { char *bytes; size_t length, size; } Bytes;
typedef struct Room Room;
typedef struct {
    int fd, place;
    Room *room;
    Bytes begun;   /* a line whose end has not come yet */
    Bytes waiting; /* bytes that the socket did not accept */
} Member;
struct Room {
    Member **members;
    int count, size;
    Bytes fresh;   /* lines that all members get in this round */
};

static Room rooms[ROOMS], *with_fresh[ROOMS];
static int epoll, fresh_count;
static bool batch;

static void add(Bytes *to, const char *bytes, size_t length)
{
    if (to->length + length > to->size) to->bytes = realloc(to->bytes, to->size = (to->length + length) * 2);
    memcpy(to->bytes + to->length, bytes, length);
    to->length += length;
}
static void watch(Member *m, int operation, uint32_t what)
{
    struct epoll_event event = { what, { .ptr = m } };
    epoll_ctl(epoll, operation, m->fd, &event);
}
static void give(Member *m, const char *bytes, size_t length)
{
    if (!m->waiting.length) {
        ssize_t sent = send(m->fd, bytes, length, MSG_NOSIGNAL);
        if (sent == (ssize_t)length || (sent < 0 && errno != EAGAIN)) return;
        if (sent > 0) { bytes += sent; length -= sent; }
        watch(m, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    }
    add(&m->waiting, bytes, length);
}
static void give_waiting(Member *m)
{
    ssize_t sent = send(m->fd, m->waiting.bytes, m->waiting.length, MSG_NOSIGNAL);
    if (sent < 0) return;
    m->waiting.length -= sent;
    memmove(m->waiting.bytes, m->waiting.bytes + sent, m->waiting.length);
    if (!m->waiting.length) watch(m, EPOLL_CTL_MOD, EPOLLIN);
}
static void fan_out(Room *room)
{
    for (int i = 0; i < room->count; i++) give(room->members[i], room->fresh.bytes, room->fresh.length);
    room->fresh.length = 0;
}
static void join(Member *m, const char *line)
{
    Room *room = m->room = &rooms[atoi(line + 1) % ROOMS];
    if (room->count == room->size)
        room->members = realloc(room->members, (room->size = room->size * 2 + 16) * sizeof *room->members);
    m->place = room->count;
    room->members[room->count++] = m;
    give(m, "ok\n", 3);
}
static void leave(Member *m)
{
    if (m->room) {
        Member *last = m->room->members[--m->room->count];
        m->room->members[m->place] = last;
        last->place = m->place;
    }
    close(m->fd);
    free(m->begun.bytes);
    free(m->waiting.bytes);
    free(m);
}
static void take_line(Member *m, const char *line, size_t length)
{
    if (!m->room) { join(m, line); return; }
    if (batch && !m->room->fresh.length) with_fresh[fresh_count++] = m->room;
    add(&m->room->fresh, "u000000:", 8); /* other servers send a name too */
    add(&m->room->fresh, line, length);
    if (!batch) fan_out(m->room);
}
static void take(Member *m)
{
    static char buffer[READ_BYTES];
    ssize_t count = read(m->fd, buffer, sizeof buffer);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) { leave(m); return; }
    char *at = buffer, *end = buffer + count, *line_feed;
    while ((line_feed = memchr(at, '\n', end - at))) {
        size_t length = line_feed + 1 - at;
        if (m->begun.length) {
            add(&m->begun, at, length);
            take_line(m, m->begun.bytes, m->begun.length);
            m->begun.length = 0;
        } else take_line(m, at, length);
        at = line_feed + 1;
    }
    if (at < end) add(&m->begun, at, end - at);
}
static void accept_all(int listener)
{
    int fd, one = 1;
    while ((fd = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        Member *m = calloc(1, sizeof *m);
        m->fd = fd;
        watch(m, EPOLL_CTL_ADD, EPOLLIN);
    }
}

int main(int argc, char **argv)
{
    if (argc != 3) { fprintf(stderr, "usage: floor PORT batch|line\n"); return 2; }
    batch = !strcmp(argv[2], "batch");
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[1])),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096)) { perror("floor"); return 1; }
    epoll = epoll_create1(0);
    struct epoll_event event = { EPOLLIN, { .ptr = 0 } }, events[EVENTS];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            Member *m = events[i].data.ptr;
            if (!m) { accept_all(listener); continue; }
            if (events[i].events & EPOLLOUT) give_waiting(m);
            if (events[i].events & ~EPOLLOUT) take(m);
        }
        while (fresh_count) fan_out(with_fresh[--fresh_count]);
    }
}
