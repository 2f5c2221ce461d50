/* cluster_agents.c: many workers of a cluster that only pretend to work, in one process.
 *
 *     cluster_agents PORT USER PASSWORD INBOX BUILD AGENTS WORK_MS
 *
 * Each agent has a connection to the server at that port of the loopback address, a slot, and the
 * protocol of `tidepool worker` (host/cluster/protocol.h): it shows itself, asks whether the
 * coordinator lives, pulls a chunk, names it while it runs, publishes the answer, and when the
 * server has that acknowledges the chunk and pulls the next one. It takes WORK_MS for a chunk, and
 * answers that its items are done and gave nothing (as for_each wants it). It does not verify
 * signatures: ten thousand machines would, each its own; here it would be one processor.
 *
 * Ends with SIGTERM, and says what it has done. */
#include "cluster/parcel.h"
#include "cluster/protocol.h"
#include "cluster/sign.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { READ_BYTES = 256 << 10, LOOK_MS = 5, AGAIN_MS = 200, ALIVE_BEATS = 5 };

typedef enum agent_state { IDLE, ASKING, WORKING, ANSWERING } agent_state;

typedef struct bytes {
    char *data;
    size_t len, room;
} bytes;

typedef struct agent {
    int fd, id;
    char name[TP_ID_TEXT];
    agent_state state;
    bytes in, out;
    char session[TP_ID_TEXT], ack[TP_SUBJECT_MAX];
    unsigned long long chunk;
    uint32_t sending, count;
    uint64_t due_ms, show_ms, name_ms, pull_ms; /* when it does what next */
    uint64_t alive_ms; /* when the session was seen to live */
} agent;

static const char *user, *password, *inbox, *build;
static uint64_t work_ms, beat_ms = TP_BEAT_MS;
static int poller;
static long done, pulls, asked, refused, given_back;
static volatile sig_atomic_t is_over;

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void add(bytes *b, const void *data, size_t len)
{
    if (b->len + len > b->room) {
        b->room = 2 * (b->len + len);
        b->data = realloc(b->data, b->room);
        if (!b->data)
            abort();
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

static void drop(bytes *b, size_t len)
{
    b->len -= len;
    memmove(b->data, b->data + len, b->len);
    if (b->len == 0) { /* ten thousand of them */
        free(b->data);
        *b = (bytes){ 0 };
    }
}

static void publish(agent *a, const char *subject, const char *reply, const void *data, size_t len)
{
    char head[3 * TP_SUBJECT_MAX];
    int n = snprintf(head, sizeof head, "PUB %s %s %zu\r\n", subject, reply, len);
    add(&a->out, head, (size_t)n);
    add(&a->out, data, len);
    add(&a->out, "\r\n", 2);
}

static void say(agent *a, const char *subject, const char *reply, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static void say(agent *a, const char *subject, const char *reply, const char *format, ...)
{
    char text[2 * TP_SUBJECT_MAX];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    publish(a, subject, reply, text, (size_t)n);
}

static void flush(agent *a)
{
    while (a->out.len > 0) {
        ssize_t n = send(a->fd, a->out.data, a->out.len, MSG_NOSIGNAL);
        if (n <= 0)
            break;
        drop(&a->out, (size_t)n);
    }
    struct epoll_event e = { .events = a->out.len > 0 ? EPOLLIN | EPOLLOUT : EPOLLIN,
                             .data.ptr = a };
    if (a->out.len > 0)
        epoll_ctl(poller, EPOLL_CTL_MOD, a->fd, &e);
}

static void show(agent *a, uint64_t now)
{
    char subject[TP_SUBJECT_MAX];
    a->show_ms = now + beat_ms;
    snprintf(subject, sizeof subject, TP_SUBJECT_HB "%s", a->name);
    say(a, subject, "", "%s 1 agent%d %s.%s %u pretended", build, a->id, inbox, a->name,
        (unsigned)beat_ms);
}

/* Asks for a chunk; with `ack` as the acknowledgement of one. */
static void pull(agent *a, const char *ack)
{
    char subject[TP_SUBJECT_MAX], reply[TP_SUBJECT_MAX];
    a->state = IDLE;
    a->pull_ms = now_ms() + 2 * beat_ms + AGAIN_MS;
    pulls++;
    snprintf(subject, sizeof subject, "$JS.API.CONSUMER.MSG.NEXT." TP_STREAM_W ".P_%s", build);
    snprintf(reply, sizeof reply, "%s.%s.p", inbox, a->name);
    say(a, ack ? ack : subject, reply, "%s{\"batch\":1,\"expires\":%llu000000}", ack ? "+NXT " : "",
        2ull * beat_ms);
}

static void name_chunk(agent *a, uint64_t now)
{
    char subject[TP_SUBJECT_MAX];
    a->name_ms = now + beat_ms;
    snprintf(subject, sizeof subject, TP_SUBJECT_R "%s.held", a->session);
    say(a, subject, "", "%llu %u 0 %s 0 0 0 0 0 %s\n", a->chunk, a->sending, a->name, a->ack);
}

static void begin(agent *a, uint64_t now)
{
    a->state = WORKING;
    a->due_ms = now + work_ms;
    name_chunk(a, now);
}

static void ask(agent *a)
{
    char subject[TP_SUBJECT_MAX], reply[TP_SUBJECT_MAX];
    a->state = ASKING;
    asked++;
    snprintf(subject, sizeof subject, TP_SUBJECT_Q "%s", a->session);
    snprintf(reply, sizeof reply, "%s.%s.s", inbox, a->name);
    publish(a, subject, reply, "0123456789abcdef", TP_ID_BYTES);
}

static void answer(agent *a)
{
    struct {
        tp_answer answer;
        tp_wire_record record;
    } all = { .answer = { .kind = TP_ANSWER_DONE,
                          .size = sizeof all.record,
                          .chunk = a->chunk,
                          .sending = a->sending },
              .record = { .size = sizeof all.record, .kind = TP_BLOCK_DONE, .n = a->count } };
    char subject[TP_SUBJECT_MAX], reply[TP_SUBJECT_MAX];
    a->state = ANSWERING;
    snprintf(subject, sizeof subject, TP_SUBJECT_R "%s.%llu.%llu.%u", a->session,
             a->chunk / TP_GROUP_CHUNKS, a->chunk, a->sending);
    snprintf(reply, sizeof reply, "%s.%s.a", inbox, a->name);
    publish(a, subject, reply, &all, sizeof all);
}

static void take_work(agent *a, const char *reply, const char *data, size_t len, uint64_t now)
{
    tp_sealed head;
    tp_task task;
    if (len < TP_SIGNATURE_BYTES + sizeof head + sizeof task || a->state != IDLE) {
        given_back++; /* a pull that seemed to be over was not */
        publish(a, reply, "", "-NAK", 4);
        return;
    }
    memcpy(&head, data + TP_SIGNATURE_BYTES, sizeof head);
    memcpy(&task, data + TP_SIGNATURE_BYTES + sizeof head, sizeof task);
    char session[TP_ID_TEXT];
    for (int i = 0; i < TP_ID_BYTES; i++)
        snprintf(session + 2 * i, 3, "%02x", head.session[i]);
    bool is_known = strcmp(session, a->session) == 0 && now < a->alive_ms + ALIVE_BEATS * beat_ms;
    strcpy(a->session, session);
    snprintf(a->ack, sizeof a->ack, "%s", reply);
    a->chunk = head.chunk;
    a->sending = head.sending;
    a->count = task.count;
    if (is_known)
        begin(a, now);
    else
        ask(a);
}

static void take(agent *a, const char *subject, const char *reply, const char *data, size_t len)
{
    static const char error[] = "\"error\"", there[] = "10077";
    uint64_t now = now_ms();
    const char *what = subject + strlen(inbox) + strlen(a->name) + 2;
    if (strncmp(subject, TP_SUBJECT_W, strlen(TP_SUBJECT_W)) == 0) {
        take_work(a, reply, data, len, now);
    } else if (strncmp(subject, inbox, strlen(inbox)) != 0) {
        if (len > 5 && len < 20 && memcmp(data, "beat ", 5) == 0)
            beat_ms = (uint64_t)atol(data + 5); /* the rest of the line is "\r\n" */
        if (len == 5 && memcmp(data, "hello", 5) == 0)
            a->show_ms = a->pull_ms = now; /* there was no consumer */
    } else if (*what == 's' && a->state == ASKING) {
        a->alive_ms = now;
        begin(a, now);
    } else if (*what == 'a' && a->state == ANSWERING) {
        refused += memmem(data, len, there, sizeof there - 1) != NULL;
        if (memmem(data, len, error, sizeof error - 1) &&
            !memmem(data, len, there, sizeof there - 1))
            return; /* it is sent again */
        done++;
        pull(a, a->ack);
    } else if (*what == 'p' && a->state == IDLE) {
        a->pull_ms = now + AGAIN_MS; /* the last one is over, or there is no stream yet */
    }
}

/* Takes one line of the server's, with what belongs to it. False: it is not all there. */
static bool take_line(agent *a, size_t *at)
{
    char *line = a->in.data + *at, *end = memchr(line, '\n', a->in.len - *at);
    if (!end)
        return false;
    size_t len = (size_t)(end + 1 - line);
    char text[3 * TP_SUBJECT_MAX];
    snprintf(text, sizeof text, "%.*s", (int)len, line);
    bool has_head = strncmp(text, "HMSG ", 5) == 0;
    if (has_head || strncmp(text, "MSG ", 4) == 0) {
        char *words[8] = { 0 }, *rest = text;
        int n = 0;
        for (char *word; n < 8 && (word = strsep(&rest, " \r\n")) && *word;)
            words[n++] = word;
        int sizes = has_head ? 2 : 1;
        size_t head = has_head ? (size_t)atol(words[n - 2]) : 0, all = (size_t)atol(words[n - 1]);
        if (a->in.len - *at < len + all + 2)
            return false;
        take(a, words[1], n - sizes > 3 ? words[3] : "", line + len + head, all - head);
        len += all + 2;
    } else if (strncmp(text, "PING", 4) == 0) {
        add(&a->out, "PONG\r\n", 6);
    } else if (*text == '-') {
        fprintf(stderr, "agent %d: the server says %s", a->id, text);
    }
    *at += len;
    return true;
}

static void read_all(agent *a)
{
    static char buffer[READ_BYTES];
    ssize_t n = recv(a->fd, buffer, sizeof buffer, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        fprintf(stderr, "agent %d: the server has closed the connection\n", a->id);
        exit(1);
    }
    if (n > 0)
        add(&a->in, buffer, (size_t)n);
    size_t at = 0;
    while (at < a->in.len && take_line(a, &at))
        continue;
    if (at)
        drop(&a->in, at);
    flush(a);
}

static void open_agent(agent *a, int id, int port)
{
    struct sockaddr_in to = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = a };
    char text[600];
    const int one = 1;
    a->id = id;
    snprintf(a->name, sizeof a->name, "%05x%027x", (unsigned)id * 2654435761u >> 12, id);
    a->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (a->fd < 0 || connect(a->fd, (struct sockaddr *)&to, sizeof to)) {
        fprintf(stderr, "agent %d cannot connect: %s\n", id, strerror(errno));
        exit(1);
    }
    setsockopt(a->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(a->fd, F_SETFL, O_NONBLOCK);
    epoll_ctl(poller, EPOLL_CTL_ADD, a->fd, &e);
    int n = snprintf(text, sizeof text,
                     "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,"
                     "\"no_responders\":true,\"name\":\"agent%d\",\"user\":\"%s\",\"pass\":\"%s\"}"
                     "\r\nSUB %s.%s.> 1\r\nSUB " TP_SUBJECT_CTL "* 2\r\n",
                     id, user, password, inbox, a->name);
    add(&a->out, text, (size_t)n);
    /* not all at the same moment */
    a->show_ms = now_ms() + (uint64_t)(id * 7919 % TP_BEAT_MS);
    show(a, now_ms());
    pull(a, NULL);
    flush(a);
}

static void look(agent *a, uint64_t now)
{
    if (now >= a->show_ms)
        show(a, now);
    if (a->state == IDLE && now >= a->pull_ms)
        pull(a, NULL);
    if (a->state == WORKING && now >= a->due_ms)
        answer(a);
    else if (a->state == WORKING && now >= a->name_ms)
        name_chunk(a, now);
    if (a->out.len > 0)
        flush(a);
}

static void on_term(int sig)
{
    (void)sig;
    is_over = 1;
}

int main(int argc, char **argv)
{
    if (argc != 8) {
        fputs("usage: cluster_agents PORT USER PASSWORD INBOX BUILD AGENTS WORK_MS\n", stderr);
        return 2;
    }
    user = argv[2], password = argv[3], inbox = argv[4], build = argv[5];
    int n = atoi(argv[6]);
    work_ms = (uint64_t)atol(argv[7]);
    agent *agents = calloc((size_t)n, sizeof *agents);
    poller = epoll_create1(0);
    signal(SIGTERM, on_term);
    uint64_t begun = now_ms();
    for (int i = 0; agents && i < n; i++)
        open_agent(&agents[i], i, atoi(argv[1]));
    printf("%d agents are connected after %.1f s\n", n, (double)(now_ms() - begun) / 1000);
    fflush(stdout);
    struct epoll_event events[1024];
    uint64_t look_ms = 0;
    while (!is_over) {
        int ready = epoll_wait(poller, events, 1024, LOOK_MS);
        for (int i = 0; i < ready; i++)
            read_all(events[i].data.ptr);
        uint64_t now = now_ms();
        for (int i = 0; i < n && now >= look_ms; i++)
            look(&agents[i], now);
        if (now >= look_ms)
            look_ms = now + LOOK_MS;
    }
    printf("%ld chunks done, %ld pulls, %ld questions, %ld given back, %ld results were there "
           "already\n",
           done, pulls, asked, given_back, refused);
    return 0;
}
