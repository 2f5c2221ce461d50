/* dashboard.c: serves the page of a report (trace/report.h) while the script runs: the page itself,
 * its data as server-sent events, and the button that cancels a map.
 *
 * HTTP is libmicrohttpd's, loaded when the page is asked for, on a thread of its own. The tracer's
 * thread gives it the data (tp_live); a browser that is slow gets the newest when it is ready for
 * more, so that each one holds the memory of one state.
 *
 * The page is for the user who has started the script, and nobody else: it is at 127.0.0.1 only,
 * every address has the token, other Hosts (a name that somebody has made point to 127.0.0.1) and
 * requests that other pages cause are refused, and a connection that has not been answered after
 * PATIENCE_S is closed, whatever it does. Each connection has one request. */
#include "program/dashboard.h"

#include "base/sigmask.h"
#include "runtime/runtime.h"
#include "trace/report.h"
#include "trace/tracer.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    TOKEN_BYTES = 16,
    TOKEN_LEN = 2 * TOKEN_BYTES,
    ADDRESS_MAX = 100,
    CONNECTIONS_MAX = 64,
    STREAMS_MAX = 16,
    HEADER_BYTES_MAX = 16 << 10, /* memory for a request's header */
    BODY_MAX = 4 << 10,
    BLOCK = 32 << 10, /* of an event stream */
    PATIENCE_S = 10,
    FAREWELL_MS = 500, /* how long browsers have at the end to take the last state */
    STACK_BYTES = 256 << 10
};

/* ---- what is used of libmicrohttpd (microhttpd.h) ---- */

struct MHD_Daemon;
struct MHD_Connection;
struct MHD_Response;

union MHD_ConnectionInfo {
    int fd;
    void *socket_context;
};

enum { MHD_NO, MHD_YES };
enum {
    MHD_USE_INTERNAL_POLLING_THREAD = 8,
    MHD_USE_POLL = 64,
    MHD_USE_ITC = 1024,
    MHD_ALLOW_SUSPEND_RESUME = 8192 | MHD_USE_ITC
};
enum {
    MHD_OPTION_END = 0,
    MHD_OPTION_CONNECTION_MEMORY_LIMIT = 1,
    MHD_OPTION_CONNECTION_LIMIT = 2,
    MHD_OPTION_CONNECTION_TIMEOUT = 3,
    MHD_OPTION_LISTEN_SOCKET = 12,
    MHD_OPTION_THREAD_STACK_SIZE = 19,
    MHD_OPTION_NOTIFY_CONNECTION = 27
};
enum { MHD_HEADER_KIND = 1, MHD_GET_ARGUMENT_KIND = 8 };
enum { MHD_CONNECTION_NOTIFY_STARTED = 0 };
enum { MHD_CONNECTION_INFO_CONNECTION_FD = 6, MHD_CONNECTION_INFO_SOCKET_CONTEXT = 7 };
enum { MHD_RESPMEM_MUST_COPY = 2 };
enum { MHD_CONTENT_READER_END_OF_STREAM = -1 };
#define MHD_SIZE_UNKNOWN UINT64_MAX

typedef int handler(void *cls, struct MHD_Connection *connection, const char *url,
                    const char *method, const char *version, const char *upload,
                    size_t *upload_size, void **con_cls);
typedef ssize_t reader(void *cls, uint64_t at, char *to, size_t max);

#define FUNCTIONS(X)                                                                             \
    X(struct MHD_Daemon *, start_daemon,                                                         \
      (unsigned flags, uint16_t port, void *policy, void *policy_cls, handler *h, void *h_cls,   \
       ...))                                                                                     \
    X(void, stop_daemon, (struct MHD_Daemon *))                                                  \
    X(void, suspend_connection, (struct MHD_Connection *))                                       \
    X(void, resume_connection, (struct MHD_Connection *))                                        \
    X(const union MHD_ConnectionInfo *, get_connection_info,                                     \
      (struct MHD_Connection *, int type, ...))                                                  \
    X(const char *, lookup_connection_value,                                                     \
      (struct MHD_Connection *, int kind, const char *key))                                      \
    X(struct MHD_Response *, create_response_from_buffer, (size_t, void *, int mode))            \
    X(struct MHD_Response *, create_response_from_callback,                                      \
      (uint64_t size, size_t block, reader *r, void *cls, void (*free)(void *)))                 \
    X(int, add_response_header, (struct MHD_Response *, const char *, const char *))             \
    X(int, queue_response, (struct MHD_Connection *, unsigned status, struct MHD_Response *))    \
    X(void, destroy_response, (struct MHD_Response *))

/* ---- the dashboard ---- */

/* A state as bytes of an event stream, which several browsers are sent. */
typedef struct event {
    unsigned refs; /* the dashboard's lock */
    size_t len;
    char bytes[];
} event;

/* A connection. Made and freed on the server's thread. */
typedef struct link {
    struct link *next, *prev; /* the lock */
    int fd;
    uint64_t since_ns;
    bool is_stream; /* the lock: an event stream, which is not closed after PATIENCE_S */
    size_t body;    /* bytes of a request's body that were skipped; the server's thread */
} link_t;

/* A browser that is sent events. Made and freed on the server's thread; all else: the lock. */
typedef struct stream {
    struct stream *next, *prev;
    struct MHD_Connection *connection;
    event *now;    /* what it is being sent; held; NULL: nothing */
    size_t at;
    uint64_t seen; /* the number of the last event that it was sent */
    bool is_suspended;
} stream;

typedef struct dashboard {
    /* Set by tp_dashboard_open, read-only afterwards. */
    tp_host *host;
    unsigned port;
    char token[TOKEN_LEN + 1], address[ADDRESS_MAX];
    int fd; /* the listening socket; belongs to libmicrohttpd once it has started */
    void *library;
    struct MHD_Daemon *daemon;
#define FIELD(result, name, arguments) result (*name) arguments;
    FUNCTIONS(FIELD)
#undef FIELD

    uv_mutex_t lock;
    uv_cond_t cond; /* a stream has ended */
    /* ---- guarded by lock ---- */
    link_t *links;
    stream *streams;
    unsigned n_streams;
    event *latest; /* held; NULL: nothing was shown yet */
    uint64_t number;
    bool is_last;   /* what is shown next is the end */
    bool is_ending; /* streams end when they have been sent what there is */

    uint64_t swept_ns; /* the tracer's thread's */
} dashboard;

static dashboard *the_dashboard; /* the owner's */

/* ---- events; locked ---- */

static void drop(event *e)
{
    if (e && --e->refs == 0)
        free(e);
}

static void resume_all(dashboard *d)
{
    for (stream *s = d->streams; s; s = s->next)
        if (s->is_suspended) {
            s->is_suspended = false;
            d->resume_connection(s->connection);
        }
}

/* ---- the tracer's thread ---- */

/* Closes connections that take too long. A link's `fd` stays open until unlink_connection, so it
 * names no other file here. */
static void sweep(dashboard *d)
{
    uint64_t now = uv_hrtime();
    if (now - d->swept_ns < 1000000000)
        return;
    d->swept_ns = now;
    uv_mutex_lock(&d->lock);
    for (link_t *l = d->links; l; l = l->next)
        if (!l->is_stream && now - l->since_ns > PATIENCE_S * 1000000000ull)
            shutdown(l->fd, SHUT_RDWR);
    uv_mutex_unlock(&d->lock);
}

static bool is_watched(void *user)
{
    dashboard *d = user;
    sweep(d);
    uv_mutex_lock(&d->lock);
    bool is_any = d->n_streams > 0;
    uv_mutex_unlock(&d->lock);
    return is_any;
}

static void show(void *user, const char *json, size_t len)
{
    static const char begin[] = "data: ", end[] = "\n\n", last[] = "event: end\ndata: .\n\n";
    dashboard *d = user;
    event *e = malloc(sizeof *e + sizeof begin + len + sizeof end + sizeof last);
    if (!e) /* out of memory: the next state comes soon */
        return;
    char *to = e->bytes;
    memcpy(to, begin, sizeof begin - 1);
    to += sizeof begin - 1;
    /* in an event stream a line end would need another "data: " behind it */
    for (size_t i = 0; i < len; i++)
        *to++ = json[i] == '\n' ? ' ' : json[i];
    memcpy(to, end, sizeof end - 1);
    to += sizeof end - 1;
    uv_mutex_lock(&d->lock);
    if (d->is_last) {
        memcpy(to, last, sizeof last - 1);
        to += sizeof last - 1;
    }
    e->refs = 1;
    e->len = (size_t)(to - e->bytes);
    drop(d->latest);
    d->latest = e;
    d->number++;
    resume_all(d);
    uv_mutex_unlock(&d->lock);
}

/* ---- the server's thread ---- */

static ssize_t read_stream(void *cls, uint64_t at, char *to, size_t max)
{
    dashboard *d = the_dashboard;
    stream *s = cls;
    ssize_t n = 0;
    (void)at;
    uv_mutex_lock(&d->lock);
    if (!s->now && d->latest && s->seen != d->number) {
        s->now = d->latest;
        s->now->refs++;
        s->at = 0;
        s->seen = d->number;
    }
    if (s->now) {
        size_t left = s->now->len - s->at, part = left < max ? left : max;
        memcpy(to, s->now->bytes + s->at, part);
        s->at += part;
        n = (ssize_t)part;
        if (s->at == s->now->len) {
            drop(s->now);
            s->now = NULL;
        }
    } else if (d->is_ending) {
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else { /* the lock is held, so nobody can try to resume it before this is set */
        s->is_suspended = true;
        d->suspend_connection(s->connection);
    }
    uv_mutex_unlock(&d->lock);
    return n;
}

static void end_stream(void *cls)
{
    dashboard *d = the_dashboard;
    stream *s = cls;
    uv_mutex_lock(&d->lock);
    *(s->prev ? &s->prev->next : &d->streams) = s->next;
    if (s->next)
        s->next->prev = s->prev;
    d->n_streams--;
    drop(s->now);
    uv_cond_broadcast(&d->cond);
    uv_mutex_unlock(&d->lock);
    free(s);
}

static void link_connection(void *cls, struct MHD_Connection *connection, void **context, int what)
{
    dashboard *d = cls;
    link_t *l = *context;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        l = calloc(1, sizeof *l);
        *context = l; /* NULL: no memory, so its requests are not answered */
        if (!l)
            return;
        l->fd = d->get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->fd;
        l->since_ns = uv_hrtime();
        uv_mutex_lock(&d->lock);
        l->next = d->links;
        if (d->links)
            d->links->prev = l;
        d->links = l;
        uv_mutex_unlock(&d->lock);
    } else if (l) {
        uv_mutex_lock(&d->lock);
        *(l->prev ? &l->prev->next : &d->links) = l->next;
        if (l->next)
            l->next->prev = l->prev;
        uv_mutex_unlock(&d->lock);
        free(l);
        *context = NULL;
    }
}

/* Answers with what the response has, and drops that. NULL: out of memory. */
static int send_response(dashboard *d, struct MHD_Connection *connection, unsigned status,
                         const char *type, struct MHD_Response *response)
{
    static const char *const headers[][2] = {
        { "Connection", "close" },
        { "Cache-Control", "no-store" },
        { "X-Content-Type-Options", "nosniff" },
        { "X-Frame-Options", "DENY" },
        { "Referrer-Policy", "no-referrer" },
        { "Cross-Origin-Opener-Policy", "same-origin" },
        { "Cross-Origin-Resource-Policy", "same-origin" },
        { "Content-Security-Policy",
          "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
          "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
          "frame-ancestors 'none'" },
    };
    if (!response)
        return MHD_NO;
    int fine = d->add_response_header(response, "Content-Type", type);
    for (size_t i = 0; fine && i < sizeof headers / sizeof *headers; i++)
        fine = d->add_response_header(response, headers[i][0], headers[i][1]);
    if (fine)
        fine = d->queue_response(connection, status, response);
    d->destroy_response(response);
    return fine;
}

__attribute__((format(printf, 4, 5))) static int say(dashboard *d,
                                                     struct MHD_Connection *connection,
                                                     unsigned status, const char *format, ...)
{
    char text[300];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    size_t len = n < (int)sizeof text ? (size_t)n : sizeof text - 1;
    return send_response(d, connection, status, "text/plain; charset=utf-8",
                         d->create_response_from_buffer(len, text, MHD_RESPMEM_MUST_COPY));
}

/* Is that "127.0.0.1:PORT" or "localhost:PORT"? */
static bool is_here(const dashboard *d, const char *host)
{
    char here[2][40];
    snprintf(here[0], sizeof here[0], "127.0.0.1:%u", d->port);
    snprintf(here[1], sizeof here[1], "localhost:%u", d->port);
    return strcasecmp(host, here[0]) == 0 || strcasecmp(host, here[1]) == 0;
}

/* Does a page that is not ours cause the request, as far as the browser says? */
static bool is_foreign(dashboard *d, struct MHD_Connection *connection)
{
    static const char scheme[] = "http://";
    const char *origin = d->lookup_connection_value(connection, MHD_HEADER_KIND, "Origin");
    const char *site = d->lookup_connection_value(connection, MHD_HEADER_KIND, "Sec-Fetch-Site");
    if (origin && (strncasecmp(origin, scheme, sizeof scheme - 1) != 0 ||
                   !is_here(d, origin + sizeof scheme - 1)))
        return true;
    return site && strcmp(site, "same-origin") != 0 && strcmp(site, "none") != 0;
}

/* What follows "/TOKEN" in the path; NULL: the token is wrong or missing. Compares in constant
 * time, so that timing does not help to guess it. */
static const char *behind_token(const dashboard *d, const char *url)
{
    unsigned differs = 0;
    if (url[0] != '/' || strlen(url + 1) < TOKEN_LEN)
        return NULL;
    for (int i = 0; i < TOKEN_LEN; i++)
        differs |= (unsigned)(url[1 + i] ^ d->token[i]);
    const char *rest = url + 1 + TOKEN_LEN;
    return !differs && (*rest == '/' || !*rest) ? rest : NULL;
}

static int send_page(dashboard *d, struct MHD_Connection *connection)
{
    tp_buf page = { 0 };
    int fine = MHD_NO;
    if (tp_report_put_live_page(&page) == 0)
        fine = send_response(d, connection, 200, "text/html; charset=utf-8",
                             d->create_response_from_buffer(page.len, page.data,
                                                            MHD_RESPMEM_MUST_COPY));
    tp_buf_free(&page);
    return fine;
}

static int send_events(dashboard *d, struct MHD_Connection *connection, link_t *l)
{
    stream *s = calloc(1, sizeof *s);
    if (!s)
        return MHD_NO;
    s->connection = connection;
    uv_mutex_lock(&d->lock);
    bool is_full = d->n_streams == STREAMS_MAX;
    if (!is_full) {
        s->next = d->streams;
        if (d->streams)
            d->streams->prev = s;
        d->streams = s;
        d->n_streams++;
        l->is_stream = true;
    }
    uv_mutex_unlock(&d->lock);
    if (is_full) {
        free(s);
        return say(d, connection, 503, "%d pages are open already\n", STREAMS_MAX);
    }
    struct MHD_Response *response =
        d->create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, read_stream, s, end_stream);
    if (!response)
        end_stream(s);
    return send_response(d, connection, 200, "text/event-stream", response);
}

static int cancel(dashboard *d, struct MHD_Connection *connection)
{
    const char *map = d->lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "map");
    char *end = NULL;
    errno = 0;
    uint64_t number = map && *map >= '0' && *map <= '9' ? strtoull(map, &end, 10) : 0;
    if (!end || *end || errno)
        return say(d, connection, 400, "cancel needs a map: cancel?map=1\n");
    if (!tp_engine_cancel_job(d->host->engine, number))
        return say(d, connection, 410, "there is no map %llu, or it is over\n",
                   (unsigned long long)number);
    return say(d, connection, 200, "map %llu is cancelled\n", (unsigned long long)number);
}

/* A request whose header is known: answers it, or waits for its body, *is_open then. */
static int begin_answer(dashboard *d, struct MHD_Connection *connection, const char *url,
                        const char *method, link_t *l, bool *is_open)
{
    const char *host = d->lookup_connection_value(connection, MHD_HEADER_KIND, "Host");
    const char *length = d->lookup_connection_value(connection, MHD_HEADER_KIND, "Content-Length");
    if (!host || !is_here(d, host))
        return say(d, connection, 403, "this page is at 127.0.0.1:%u only\n", d->port);
    if (is_foreign(d, connection))
        return say(d, connection, 403, "other pages may not ask for this\n");
    const char *path = behind_token(d, url);
    if (!path)
        return say(d, connection, 403,
                   "the address lacks its token: take the one that tidepool has printed\n");
    bool is_cancel = strcmp(path, "/cancel") == 0;
    bool is_page = !*path || strcmp(path, "/") == 0, is_events = strcmp(path, "/events") == 0;
    if (!is_cancel && !is_page && !is_events)
        return say(d, connection, 404, "there is nothing here\n");
    if (strcmp(method, is_cancel ? "POST" : "GET") != 0)
        return say(d, connection, 405, "this takes %s only\n", is_cancel ? "POST" : "GET");
    if (length && strtoull(length, NULL, 10) > BODY_MAX)
        return say(d, connection, 413, "that is too much\n");
    if (is_page)
        return send_page(d, connection);
    if (is_events)
        return send_events(d, connection, l);
    *is_open = true;
    return MHD_YES;
}

/* Called when the header is known, for each piece of the body, and at its end. */
static int answer(void *cls, struct MHD_Connection *connection, const char *url,
                  const char *method, const char *version, const char *upload,
                  size_t *upload_size, void **con_cls)
{
    dashboard *d = cls;
    link_t *l =
        d->get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    bool is_open = false;
    (void)version, (void)upload;
    if (!l)
        return MHD_NO;
    if (!*con_cls) {
        int fine = begin_answer(d, connection, url, method, l, &is_open);
        *con_cls = l;
        return fine;
    }
    if (*upload_size == 0)
        return cancel(d, connection);
    l->body += *upload_size;
    *upload_size = 0;
    return l->body <= BODY_MAX ? MHD_YES : MHD_NO;
}

/* ---- its life: the owner's ---- */

static int load(dashboard *d, tp_error *err)
{
    d->library = dlopen("libmicrohttpd.so.12", RTLD_NOW | RTLD_LOCAL);
    if (!d->library)
        return tp_error_set(err, TP_ESYS,
                            "--dashboard needs libmicrohttpd (libmicrohttpd.so.12), which is not "
                            "installed: on Debian, apt install libmicrohttpd12");
#define LOAD(result, name, arguments)                                                          \
    *(void **)&d->name = dlsym(d->library, "MHD_" #name);                                      \
    if (!d->name)                                                                              \
        return tp_error_set(err, TP_ESYS,                                                      \
                            "libmicrohttpd.so.12 is too old: it has no MHD_" #name);
    FUNCTIONS(LOAD)
#undef LOAD
    return 0;
}

static int make_token(dashboard *d, tp_error *err)
{
    unsigned char bytes[TOKEN_BYTES];
    int rc = uv_random(NULL, NULL, bytes, sizeof bytes, 0, NULL);
    if (rc)
        return tp_error_set(err, TP_ESYS, "cannot make a token: %s", uv_strerror(rc));
    for (int i = 0; i < TOKEN_BYTES; i++)
        snprintf(d->token + 2 * i, 3, "%02x", bytes[i]);
    return 0;
}

static int listen_at(dashboard *d, unsigned port, tp_error *err)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof at;
    int yes = 1;
    d->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (d->fd < 0 || setsockopt(d->fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) ||
        bind(d->fd, (struct sockaddr *)&at, sizeof at) || listen(d->fd, CONNECTIONS_MAX) ||
        getsockname(d->fd, (struct sockaddr *)&at, &len))
        return tp_error_set(err, TP_ESYS, "the dashboard cannot listen at 127.0.0.1:%u: %s", port,
                            strerror(errno));
    d->port = ntohs(at.sin_port);
    snprintf(d->address, sizeof d->address, "http://127.0.0.1:%u/%s/", d->port, d->token);
    return 0;
}

static int start_server(dashboard *d, tp_error *err)
{
    sigset_t before;
    tp_sigmask_block(&before); /* the new thread begins with what its maker has */
    d->daemon = d->start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL,
        answer, d, MHD_OPTION_LISTEN_SOCKET, d->fd, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)PATIENCE_S,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADER_BYTES_MAX, MHD_OPTION_THREAD_STACK_SIZE,
        (size_t)STACK_BYTES, MHD_OPTION_NOTIFY_CONNECTION, link_connection, d, MHD_OPTION_END);
    tp_sigmask_set(&before, NULL);
    if (!d->daemon)
        return tp_error_set(err, TP_ESYS, "cannot start the dashboard's server: %s",
                            strerror(errno));
    d->fd = -1;
    return 0;
}

int tp_dashboard_open(struct tp_host *host, unsigned port, const char **address, tp_error *err)
{
    dashboard *d = calloc(1, sizeof *d);
    if (!d)
        return tp_error_oom(err, "dashboard");
    d->fd = -1;
    d->host = host;
    const tp_live live = { is_watched, show, d };
    if (uv_mutex_init(&d->lock) || uv_cond_init(&d->cond)) {
        free(d);
        return tp_error_set(err, TP_ESYS, "cannot create a lock");
    }
    the_dashboard = d;
    /* what is made here when something fails is left to the process, which ends */
    if (load(d, err) || make_token(d, err) || listen_at(d, port, err) || start_server(d, err) ||
        tp_tracer_begin_live(&host->tracer, host, &live, err))
        return -1;
    *address = d->address;
    return 0;
}

void tp_dashboard_close(void)
{
    dashboard *d = the_dashboard;
    if (!d)
        return;
    uv_mutex_lock(&d->lock);
    d->is_last = true;
    uv_mutex_unlock(&d->lock);
    tp_tracer_end_live(&d->host->tracer);
    uv_mutex_lock(&d->lock);
    d->is_ending = true;
    resume_all(d); /* libmicrohttpd demands that no connection is suspended when it stops */
    uint64_t until = uv_hrtime() + FAREWELL_MS * 1000000ull;
    for (uint64_t now; d->n_streams > 0 && (now = uv_hrtime()) < until;)
        uv_cond_timedwait(&d->cond, &d->lock, until - now);
    uv_mutex_unlock(&d->lock);
    d->stop_daemon(d->daemon);
    drop(d->latest);
    uv_cond_destroy(&d->cond);
    uv_mutex_destroy(&d->lock);
    the_dashboard = NULL;
    free(d); /* the library stays loaded: some thread may still run its code */
}
