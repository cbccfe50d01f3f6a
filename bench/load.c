/* The load generator: many members in many rooms, some of whom send. One process, one thread, epoll.
 *
 *     cc -O2 -o load load.c && ./load -port 8989 -rooms 1 -members 100 -talkers 1 -window 256 -seconds 3 \
 *         -hello '{"name":"%n","room":"%r"}\n' -publish '%t\n' -pid SERVER
 *
 * It knows no protocol. Templates say how a member connects (-hello for each step that it sends, -wait for the answer
 * that must come before the next step) and how it sends a message (-publish). %n is the name (u000012), %r the room
 * (r0003), %t the payload, %l the payload's length, %% a percent sign; \n \r \t \xHH \\ are escapes. Names, rooms and
 * payloads have a fixed length, so a template can contain a protocol's length prefixes. If -port is given several times,
 * the members of a room use those ports in turns.
 *
 * Every payload begins with a mark (marks.h), which the generator finds in the server's bytes, whatever the framing. It
 * checks every delivery to every member: each talker numbers its lines 1, 2, 3 … It connects to 127.0.0.0/8 only. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "latency.h"
#include "marks.h"
#include "templates.h"
#include "usage.h"

enum { READ_BYTES = 256 * 1024, CARRY = 64, MAX_STEPS = 8, MAX_PORTS = 64 };

typedef struct { Text send, wait; } Step;

typedef struct {
    enum { CONNECTING, GREETING, READY, GONE } state;
    int fd, number, room, step;
    int receives;            /* talkers whose window moves by what this member gets */
    bool probed, waits_to_write;
    int carried;
    char carry[CARRY];       /* bytes that may begin a mark, or the answer for which the handshake waits */
} Member;

typedef struct {
    Member *member, *receiver;
    Text before, after;      /* the template around the payload */
    uint32_t built, credited;
    uint64_t progress;       /* when its receiver last got something */
    char *out;
    size_t out_size, out_length, out_sent;
} Talker;

/* options */
static int ports[MAX_PORTS], port_count, rooms = 1, members = 10, talkers = 1, payload = 64, window, sources = 1;
static int pending_at_once = 64, pause_us = 500, echo;
static double rate, seconds = 3, drain_seconds = 10, probe_seconds = 10, connect_seconds = 60;
static Step steps[MAX_STEPS];
static int step_count;
static Text publish, ping, pong;

/* state */
static int epoll, member_count, talker_count, started, pending, ready, mark_length;
static Member *all;
static Talker *talking;
static uint32_t *seen; /* the last number that a member got from a talker of its room: [member][talker] */
static struct epoll_event *events;
static char buffer[CARRY + READ_BYTES];
static uint64_t run_start, run_end;

/* counters */
static uint64_t deliveries, disordered, bytes_in, reads, probed, refused, disconnects, stuck;

static void fail(const char *what) { fprintf(stderr, "load: %s\n", what); exit(2); }
static void fail_errno(const char *what) { fprintf(stderr, "load: %s: %s\n", what, strerror(errno)); exit(2); }

/* ---- received bytes ---- */

static void got_mark(Member *m, const char *mark, uint64_t now)
{
    if (is_probe(mark)) {
        if (!m->probed) { m->probed = true; probed++; }
        return;
    }
    uint32_t number = talker_of(mark), sequence = sequence_of(mark);
    deliveries++;
    if (number >= (uint32_t)talker_count || talking[number].member->room != m->room) { disordered++; return; }
    uint32_t *last = &seen[(size_t)m->number * talkers + number % talkers];
    if (sequence <= *last) disordered++; else *last = sequence;
    if (rate > 0) {
        uint64_t sent = time_of(mark);
        add_latency(now > sent ? now - sent : 0);
    }
    Talker *t = &talking[number];
    if (t->receiver == m && sequence > t->credited) { t->credited = sequence; t->progress = now; }
}
static void find_marks(Member *m, char *at, char *end, uint64_t now)
{
    m->carried = 0;
    while (at < end && (at = memchr(at, '~', end - at))) {
        if (end - at < mark_length) {
            m->carried = end - at;
            memcpy(m->carry, at, m->carried);
            return;
        }
        if (!is_mark(at)) { at++; continue; }
        got_mark(m, at, now);
        if (end - at <= payload) return;
        at += payload;
    }
}

/* ---- members ---- */

static void watch(Member *m, int operation, uint32_t what)
{
    struct epoll_event event = { .events = what, .data.ptr = m };
    epoll_ctl(epoll, operation, m->fd, &event);
}
/* choose the member whose deliveries move a talker's window: not the talker itself, if another one is connected */
static void choose_receiver(Talker *t, int first)
{
    Member *room = all + (size_t)t->member->room * members;
    if (t->receiver) t->receiver->receives--;
    t->receiver = 0;
    for (int i = 0; i < members && !t->receiver; i++) {
        Member *m = room + (first - i + members) % members;
        if (m->state != GONE && (m != t->member || members == 1)) t->receiver = m;
    }
    if (t->receiver) t->receiver->receives++;
    t->credited = t->built;
}
static void leave(Member *m)
{
    if (m->state == READY) { ready--; disconnects++; }
    else { pending--; refused++; }
    m->state = GONE;
    close(m->fd);
    if (m->receives)
        for (int i = 0; i < talker_count; i++)
            if (talking[i].receiver == m) choose_receiver(&talking[i], members - 1);
}
static void send_at_once(Member *m, Text t)
{
    if (t.length && write(m->fd, t.bytes, t.length) != (ssize_t)t.length) leave(m);
}
static void next_step(Member *m)
{
    if (m->step == step_count) {
        m->state = READY;
        pending--;
        ready++;
        return;
    }
    size_t at = 0;
    Text text = filled(steps[m->step].send, &at, m->number, m->room, payload);
    send_at_once(m, text);
    free(text.bytes);
}
static void connect_member(Member *m)
{
    int one = 1;
    m->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (m->fd < 0) fail_errno("socket");
    setsockopt(m->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct sockaddr_in address = { .sin_family = AF_INET };
    if (sources > 1) { /* each address has ports for some 28,000 connections */
        setsockopt(m->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        address.sin_addr.s_addr = htonl(0x7f000101 + m->number % sources);
        if (bind(m->fd, (void *)&address, sizeof address)) fail_errno("bind");
    }
    address.sin_port = htons(ports[m->number % members % port_count]);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    m->state = CONNECTING;
    started++;
    pending++;
    if (connect(m->fd, (void *)&address, sizeof address) && errno != EINPROGRESS) leave(m);
    else watch(m, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
}
static void read_member(Member *m)
{
    char *begin = buffer + CARRY - m->carried;
    memcpy(begin, m->carry, m->carried);
    ssize_t count = read(m->fd, buffer + CARRY, READ_BYTES);
    if (count <= 0) {
        if (count == 0 || (errno != EAGAIN && errno != EINTR)) leave(m);
        return;
    }
    char *end = buffer + CARRY + count;
    if (ping.length && memmem(buffer + CARRY, count, ping.bytes, ping.length)) send_at_once(m, pong);
    if (m->state == READY) {
        reads++;
        bytes_in += count;
        find_marks(m, begin, end, clock_ns());
    } else if (m->state == GREETING) {
        Text wait = steps[m->step].wait;
        m->carried = 0;
        if (memmem(begin, end - begin, wait.bytes, wait.length)) { m->step++; next_step(m); return; }
        m->carried = end - begin < (ssize_t)wait.length ? end - begin : (ssize_t)wait.length - 1;
        memcpy(m->carry, end - m->carried, m->carried);
    }
}

/* ---- talkers ---- */

static void say(Talker *t, char kind, uint64_t scheduled)
{
    size_t length = t->before.length + payload + t->after.length;
    if (t->out_length + length > t->out_size) {
        t->out_size = (t->out_length + length) * 2;
        t->out = realloc(t->out, t->out_size);
    }
    char *to = t->out + t->out_length;
    memcpy(to, t->before.bytes, t->before.length);
    to += t->before.length;
    memset(to, 'x', payload);
    put_mark(to, kind, t - talking, kind == 'P' ? 0 : ++t->built);
    if (rate > 0) put_time(to, scheduled);
    memcpy(to + payload, t->after.bytes, t->after.length);
    t->out_length += length;
}
static void flush(Talker *t)
{
    Member *m = t->member;
    while (t->out_sent < t->out_length) {
        ssize_t count = write(m->fd, t->out + t->out_sent, t->out_length - t->out_sent);
        if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
            if (!m->waits_to_write) watch(m, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            m->waits_to_write = true;
            return;
        }
        if (count < 0) { leave(m); return; }
        t->out_sent += count;
    }
    t->out_length = t->out_sent = 0;
    if (m->waits_to_write) watch(m, EPOLL_CTL_MOD, EPOLLIN);
    m->waits_to_write = false;
}
static void refill(Talker *t, uint64_t now)
{
    if (t->member->state != READY || t->out_length) return;
    if (t->built - t->credited >= (uint32_t)window) {
        if (now - t->progress < 2 * SECOND) return;
        stuck++; /* its lines were lost, or take too long: continue without them */
        t->credited = t->built;
        t->progress = now;
    }
    while (t->built - t->credited < (uint32_t)window) say(t, 'D', now);
    flush(t);
}

/* ---- rounds ---- */

static void wait_ns(int64_t ns)
{
    struct timespec timeout = { ns / SECOND, ns % SECOND };
    struct pollfd readable = { epoll, POLLIN, 0 };
    if (ns > 0) ppoll(&readable, 1, &timeout, 0); /* epoll_wait() has whole milliseconds only */
    int count = epoll_wait(epoll, events, member_count, 0);
    for (int i = 0; i < count; i++) {
        Member *m = events[i].data.ptr;
        uint32_t what = events[i].events;
        if (m->state == GONE) continue;
        if (m->state == CONNECTING) {
            int error = 0;
            socklen_t length = sizeof error;
            getsockopt(m->fd, SOL_SOCKET, SO_ERROR, &error, &length);
            if (error) { leave(m); continue; }
            watch(m, EPOLL_CTL_MOD, EPOLLIN);
            m->state = GREETING;
            next_step(m);
        } else {
            if (what & (EPOLLIN | EPOLLERR | EPOLLHUP)) read_member(m);
            if (m->state == READY && what & EPOLLOUT && m->number % members < talkers)
                flush(&talking[m->room * talkers + m->number % members]);
        }
    }
}
/* let deliveries gather for a moment: a generator that reads much at once is not the bottleneck */
static void let_gather(void)
{
    if (pause_us) nanosleep(&(struct timespec){ 0, pause_us * 1000l }, 0);
    wait_ns(pause_us ? 0 : 1000000);
}

/* ---- the parts of a run ---- */

/* connect all members; return the seconds until the last one was in */
static double come_in(void)
{
    uint64_t start = clock_ns(), now = start;
    while (ready + (int)(refused + disconnects) < member_count && now - start < connect_seconds * SECOND) {
        while (started < member_count && pending < pending_at_once) connect_member(&all[started]);
        wait_ns(20000000);
        now = clock_ns();
    }
    return (now - start) / 1e9;
}
/* send one message in each room, which must reach every member of it; return the number of those deliveries */
static uint64_t probe(void)
{
    uint64_t expected = (uint64_t)rooms * (members - !echo), end = clock_ns() + probe_seconds * SECOND;
    for (int i = 0; i < talker_count; i += talkers)
        if (talking[i].member->state == READY) { say(&talking[i], 'P', clock_ns()); flush(&talking[i]); }
    while (probed < expected && ready == member_count && clock_ns() < end) wait_ns(10000000);
    return expected;
}
static void talk(void)
{
    uint64_t now, due = run_start, said = 0;
    int turn = 0;
    while ((now = clock_ns()) < run_end) {
        if (!talker_count) {
            wait_ns(50000000);
        } else if (window) {
            for (int i = 0; i < talker_count; i++) refill(&talking[i], now);
            let_gather();
        } else {
            for (; due <= now && due < run_end; due = run_start + ++said * (SECOND / rate)) {
                Talker *t = &talking[turn++ % talker_count];
                if (t->member->state == READY) { say(t, 'D', due); flush(t); }
            }
            wait_ns((int64_t)(due < run_end ? due : run_end) - (int64_t)clock_ns());
        }
    }
}
/* wait for the lines that are still on their way, until two seconds bring nothing; return how long that took */
static double drain(uint64_t expected)
{
    uint64_t start = clock_ns(), now = start, progress = start, last = deliveries;
    uint64_t end = start + drain_seconds * SECOND;
    while (deliveries - disordered < expected && now < end && now - progress < 2 * SECOND) {
        if (window) let_gather(); else wait_ns(10000000);
        now = clock_ns();
        if (deliveries != last) { last = deliveries; progress = now; }
    }
    return (now - start) / 1e9;
}

/* ---- the command line ---- */

static void read_options(int argc, char **argv)
{
    static struct { const char *name; char kind; void *to; } table[] = {
        { "port", 'a', 0 }, { "rooms", 'i', &rooms }, { "members", 'i', &members }, { "talkers", 'i', &talkers },
        { "payload", 'i', &payload }, { "window", 'i', &window }, { "rate", 'd', &rate }, { "seconds", 'd', &seconds },
        { "sources", 'i', &sources }, { "pending", 'i', &pending_at_once }, { "pause", 'i', &pause_us },
        { "echo", 'i', &echo }, { "drain", 'd', &drain_seconds },
        { "probe", 'd', &probe_seconds }, { "connect", 'd', &connect_seconds },
        { "publish", 't', &publish }, { "ping", 't', &ping }, { "pong", 't', &pong },
        { "hello", 'h', 0 }, { "wait", 'w', 0 }, { "pid", 'p', 0 },
    };
    enum { COUNT = sizeof table / sizeof *table };
    struct option options[COUNT + 1] = { { 0 } };
    for (int i = 0; i < COUNT; i++) options[i] = (struct option){ table[i].name, required_argument, 0, 0 };
    for (int at; (getopt_long_only(argc, argv, "", options, &at)) == 0;) switch (table[at].kind) {
    case 'a': if (port_count == MAX_PORTS) fail("too many -port"); ports[port_count++] = atoi(optarg); break;
    case 'i': *(int *)table[at].to = atoi(optarg); break;
    case 'd': *(double *)table[at].to = atof(optarg); break;
    case 't': *(Text *)table[at].to = unescaped(optarg); break;
    case 'h': if (step_count == MAX_STEPS) fail("too many -hello"); steps[step_count++].send = unescaped(optarg); break;
    case 'w': if (step_count) steps[step_count - 1].wait = unescaped(optarg); break;
    case 'p': measure_process(atoi(optarg)); break;
    }
    mark_length = rate > 0 ? TIMED_MARK : SHORT_MARK;
    if (!port_count || !step_count) fail("-port and -hello are needed");
    if (rooms < 1 || rooms > 10000 || members < 1 || talkers < 0 || talkers > members) fail("no such rooms");
    if (talkers && (window > 0) == (rate > 0)) fail("talkers need either -window or -rate");
    if ((long)rooms * talkers > 65536) fail("65,536 talkers at most");
    if (payload < mark_length) fail(rate > 0 ? "-payload is 32 at least, for latency" : "-payload is 16 at least");
    for (int i = 0; i < step_count; i++)
        if (!steps[i].wait.length || steps[i].wait.length > CARRY) fail("each -hello needs a -wait of 64 bytes at most");
}
static void make_members(void)
{
    member_count = rooms * members;
    talker_count = rooms * talkers;
    all = calloc(member_count, sizeof *all);
    talking = calloc(talker_count + 1, sizeof *talking);
    seen = calloc((size_t)member_count * talkers + 1, sizeof *seen);
    events = calloc(member_count, sizeof *events);
    if (!all || !talking || !seen || !events) fail_errno("memory");
    for (int i = 0; i < member_count; i++) all[i] = (Member){ .number = i, .room = i / members };
    for (int i = 0; i < talker_count; i++) {
        Talker *t = &talking[i];
        size_t at = 0;
        t->member = &all[i / talkers * members + i % talkers];
        t->before = filled(publish, &at, t->member->number, t->member->room, payload);
        t->after = filled(publish, &at, t->member->number, t->member->room, payload);
        choose_receiver(t, members - 1 - i % talkers);
    }
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    prctl(PR_SET_TIMERSLACK, 1000ul); /* sleep as long as asked, not up to 50 µs longer */
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){ files.rlim_max, files.rlim_max });
    if ((rlim_t)rooms * members + 16 > files.rlim_max) fail("more connections than `ulimit -n` allows");
    make_members();
    if ((epoll = epoll_create1(EPOLL_CLOEXEC)) < 0) fail_errno("epoll");

    long memory_before = memory_of_server();
    double came_in = come_in();
    int in = ready;
    if (!talker_count) for (uint64_t end = clock_ns() + SECOND / 5; clock_ns() < end;) wait_ns(10000000);
    uint64_t probes_expected = talker_count && in == member_count ? probe() : 0;
    if (in < member_count || probed < probes_expected) seconds = 0; /* further figures would have no meaning */
    long memory_ready = memory_of_server();

    disconnects = reads = bytes_in = 0;
    run_start = clock_ns();
    run_end = run_start + (uint64_t)(seconds * SECOND);
    for (int i = 0; i < talker_count; i++) talking[i].progress = run_start;
    double self = cpu_of_self();
    begin_cpu_of_server();
    talk();
    double took = (clock_ns() - run_start) / 1e9, server_share = cpu_of_server() / took;
    double self_share = (cpu_of_self() - self) / took;
    uint64_t in_time = deliveries, sent = 0;
    for (int i = 0; i < talker_count; i++) sent += talking[i].built;
    uint64_t expected = sent * (members - !echo);
    double drained = drain(expected), server = cpu_of_server();

    printf("{\"connections\":%d,\"ready\":%d,\"refused\":%lu,\"connect_seconds\":%.4f,\"connects_per_second\":%.1f,"
           "\"probes\":%lu,\"probes_expected\":%lu,", member_count, in, refused, came_in, in / came_in, probed,
           probes_expected);
    printf("\"seconds\":%.4f,\"sent\":%lu,\"deliveries\":%lu,\"deliveries_per_second\":%.1f,\"expected\":%lu,"
           "\"lost\":%ld,\"disordered\":%lu,\"disconnects\":%lu,\"stuck\":%lu,", took, sent, deliveries,
           in_time / took, expected, (long)(expected - (deliveries - disordered)), disordered, disconnects, stuck);
    print_latency();
    printf("\"server_cpu_seconds\":%.4f,\"server_cpu_per_million\":%.5f,\"server_cpu_share\":%.3f,"
           "\"generator_cpu_share\":%.3f,\"drain_seconds\":%.3f,\"deliveries_per_read\":%.1f,"
           "\"bytes_per_delivery\":%.1f,", server, server * 1e6 / (deliveries ? deliveries : 1), server_share,
           self_share, drained, reads ? (double)deliveries / reads : 0,
           deliveries ? (double)bytes_in / deliveries : 0);
    printf("\"memory_before\":%ld,\"memory_ready\":%ld,\"memory_end\":%ld,\"bytes_per_connection\":%.1f}\n",
           memory_before, memory_ready, memory_of_server(),
           (double)(memory_ready - memory_before) / (in ? in : 1));
    return 0;
}
