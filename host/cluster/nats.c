/* nats.c: loads the NATS client library, connects, and is the loop that its connection lives in.
 * See nats.h.
 *
 * The library is told that it is in somebody's event loop. Then it neither reads nor writes by
 * itself: it says which socket is to be watched for what (attach and the functions behind it), and
 * turn() calls it when there is something to do. */
#include "cluster/nats.h"

#include "base/system.h"
#include "cluster/certificate.h"
#include "cluster/protocol.h"

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    CONNECT_MS = 5000,
    RECONNECT_MS = 100,
    PING_MS = 5000, /* with two that are not answered, a dead server is noticed after 10 s */
    PINGS_OUT = 2,
    LOOK_NS = 50 * 1000 * 1000,
    WRITE_BYTES = 16 << 10,   /* publishing writes when this much has gathered, and */
    USED_BYTES = 128 << 10, /* used messages are freed when they have this many bytes, */
    /* with this much that the socket has not taken yet, tp_nats_publish waits */
    WAIT_BYTES = 512 << 10,
    /* natsStatus of nats.h */
    NO_SERVER = 6,
    HAS_NO_TLS = 8,
    AUTH_FAILED = 11,
    TLS_FAILED = 29,
    NO_RESPONDERS = 34
};

/* CLOSE_NS: how long to wait for the library's last callback after a connection was closed.
 * WAIT_NS: how long a server may read nothing before messages for it are dropped */
static const uint64_t CLOSE_NS = 5ull * 1000 * 1000 * 1000, WAIT_NS = 10ull * 1000 * 1000 * 1000;

/* those of Debian 12 and 13: the functions that we call, and the numbers of natsStatus, are the
 * same in both */
static const char *const libraries[] = { "libnats.so.3.4", "libnats.so.3.10" };

static int load(tp_nats *n, tp_error *err)
{
    if (n->library)
        return 0;
    /* never unloaded: its threads outlive connections */
    for (size_t i = 0; !n->library && i < sizeof libraries / sizeof *libraries; i++)
        n->library = dlopen(libraries[i], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!n->library)
        return tp_error_set(err, TP_ESYS,
                            "a cluster needs the NATS client library (%s or %s), which is not "
                            "installed: apt install libnats3.4 on Debian 12, libnats3.10 on 13",
                            libraries[0], libraries[1]);
#define LOAD(result, name, arguments)                                                        \
    *(void **)&n->name = dlsym(n->library, "nats" #name);                                    \
    if (!n->name)                                                                            \
        return tp_error_set(err, TP_ESYS, "the NATS client library is too old: no nats" #name);
    TP_NATS_FUNCTIONS(LOAD)
#undef LOAD
    *(void **)&n->Connection_ProcessCloseEvent =
        dlsym(n->library, "natsConnection_ProcessCloseEvent");
    return 0;
}

void tp_nats_events_add(tp_nats_events *events, tp_nats_event *e)
{
    e->next = NULL;
    if (events->first)
        events->last->next = e;
    else
        events->first = e;
    events->last = e;
}

tp_nats_event *tp_nats_events_next(tp_nats_events *events)
{
    tp_nats_event *e = events->first;
    if (e) {
        events->first = e->next;
        e->next = NULL;
    }
    return e;
}

int tp_nats_open(tp_nats *n, tp_error *err)
{
    *n = (tp_nats){ .socket = -1 };
    n->wake_fd = tp_bell_open();
    if (n->wake_fd < 0)
        return tp_error_set(err, TP_ESYS, "cannot open an eventfd: %s", strerror(errno));
    if (uv_mutex_init(&n->lock)) {
        close(n->wake_fd);
        return tp_error_oom(err, "cluster");
    }
    return 0;
}

/* ---- called by any thread ---- */

/* Locked. Wakes the taker, for which there is something to see. */
static void rouse_locked(tp_nats *n)
{
    if (n->is_sleeping && tp_bell_ring(n->wake_fd))
        n->is_sleeping = false; /* once is enough */
}

static void add(tp_nats *n, tp_nats_event *e)
{
    uv_mutex_lock(&n->lock);
    tp_nats_events_add(&n->changes, e);
    rouse_locked(n);
    uv_mutex_unlock(&n->lock);
}

/* ---- what the library says of its socket; it holds the connection's lock ---- */

static int attach(void **user, void *loop, natsConnection *connection, int socket)
{
    tp_nats *n = loop;
    (void)connection;
    *user = n;
    uv_mutex_lock(&n->lock);
    n->socket = socket;
    n->wants_write = false;
    rouse_locked(n);
    uv_mutex_unlock(&n->lock);
    return 0;
}

/* Reading is over when the connection is: then the socket is closed, by us from libnats 3.10 on. */
static int change_reading(void *user, bool is_on)
{
    tp_nats *n = user;
    if (is_on)
        return 0;
    uv_mutex_lock(&n->lock);
    int old = n->socket;
    n->socket = -1;
    n->wants_write = false;
    rouse_locked(n);
    uv_mutex_unlock(&n->lock);
    if (old >= 0 && n->Connection_ProcessCloseEvent)
        n->Connection_ProcessCloseEvent(&old);
    return 0;
}

static int change_writing(void *user, bool is_on)
{
    tp_nats *n = user;
    uv_mutex_lock(&n->lock);
    n->wants_write = is_on && n->socket >= 0;
    if (n->wants_write)
        rouse_locked(n);
    uv_mutex_unlock(&n->lock);
    return 0;
}

static int detach(void *user)
{
    return change_reading(user, false);
}

/* ---- called by the library's threads ---- */

static tp_nats_event *event_of(tp_nats *n, natsMsg *m)
{
    tp_nats_event *e = calloc(1, sizeof *e);
    const char *status;
    if (!e) {
        /* no memory: drop it as if the network had lost it; what matters is sent again */
        n->Msg_Destroy(m);
        return NULL;
    }
    e->message = m;
    e->subject = n->Msg_GetSubject(m);
    e->reply = n->Msg_GetReply(m);
    e->reply = e->reply ? e->reply : "";
    e->data = n->Msg_GetData(m);
    e->len = (size_t)n->Msg_GetDataLength(m);
    if (n->MsgHeader_Get(m, "Status", &status) == 0)
        e->status = atoi(status);
    return e;
}

static void add_change(tp_nats *n, tp_nats_kind kind)
{
    tp_nats_event *e = calloc(1, sizeof *e);
    if (!e)
        return;
    e->kind = kind;
    add(n, e);
}

static void on_lost(natsConnection *connection, void *user)
{
    (void)connection;
    add_change(user, TP_NATS_LOST);
}

static void on_back(natsConnection *connection, void *user)
{
    (void)connection;
    add_change(user, TP_NATS_BACK);
}

/* The library's last callback for a connection. */
static void on_closed(natsConnection *connection, void *user)
{
    tp_nats *n = user;
    (void)connection;
    add_change(n, TP_NATS_CLOSED);
    uv_mutex_lock(&n->lock);
    n->is_live = false;
    rouse_locked(n);
    uv_mutex_unlock(&n->lock);
}

/* Ignores errors; without this handler the library prints them. */
static void on_error(natsConnection *connection, natsSubscription *s, int status, void *user)
{
    (void)connection, (void)s, (void)status, (void)user;
}

/* ---- called by the taker ---- */

static bool is_secure(const char *url)
{
    return strncmp(url, "tls://", 6) == 0;
}

/* Over TLS, to the engine of who has this key and to nobody else. */
static int set_secure(tp_nats *n, natsOptions *o, const tp_signer *who)
{
    char pem[TP_PEM_MAX];
    tp_certificate_trusted(pem, who->public_key);
    int rc = n->Options_SetSecure(o, true);
    rc = rc ? rc : n->Options_SetCATrustedCertificates(o, pem);
    return rc ? rc : n->Options_SetExpectedHostname(o, TP_ENGINE_NAME);
}

static int set_options(tp_nats *n, natsOptions *o, const char *url, const char *name,
                       const tp_signer *who)
{
    int rc = n->Options_SetURL(o, url);
    rc = rc ? rc : n->Options_SetName(o, name);
    rc = rc ? rc : n->Options_SetUserInfo(o, who->user, who->password);
    rc = rc || !is_secure(url) ? rc : set_secure(n, o, who);
    rc = rc ? rc : n->Options_SetTimeout(o, CONNECT_MS);
    rc = rc ? rc : n->Options_SetMaxReconnect(o, -1);
    rc = rc ? rc : n->Options_SetReconnectWait(o, RECONNECT_MS);
    rc = rc ? rc : n->Options_SetPingInterval(o, PING_MS);
    rc = rc ? rc : n->Options_SetMaxPingsOut(o, PINGS_OUT);
    rc = rc ? rc : n->Options_SetSendAsap(o, true);
    rc = rc ? rc : n->Options_SetCustomInboxPrefix(o, who->inbox);
    rc = rc ? rc : n->Options_SetEventLoop(o, n, attach, change_reading, change_writing, detach);
    rc = rc ? rc : n->Options_SetDisconnectedCB(o, on_lost, n);
    rc = rc ? rc : n->Options_SetReconnectedCB(o, on_back, n);
    rc = rc ? rc : n->Options_SetClosedCB(o, on_closed, n);
    return rc ? rc : n->Options_SetErrorHandler(o, on_error, n);
}

/* Says why the engine at `url` cannot be used. */
static int say_why(const tp_nats *n, const char *url, int rc, tp_error *err)
{
    const char *rest = strstr(url, "://");
    rest = rest ? rest + 3 : url;
    if (rc == NO_SERVER)
        return tp_error_set(err, TP_ESYS,
                            "there is no engine at %.200s: `tidepool engine up` starts one", url);
    if (rc == AUTH_FAILED)
        return tp_error_set(err, TP_EUSAGE,
                            "the engine at %.200s refuses the token: `tidepool engine token` shows "
                            "that of the engine that runs",
                            url);
    if (rc == HAS_NO_TLS)
        return tp_error_set(err, TP_EUSAGE, "the engine at %.200s has no TLS: try nats://%.200s",
                            url, rest);
    if (rc == TLS_FAILED && !is_secure(url))
        return tp_error_set(err, TP_EUSAGE, "the engine at %.200s wants TLS: try tls://%.200s", url,
                            rest);
    if (rc == TLS_FAILED)
        return tp_error_set(err, TP_EUSAGE,
                            "the engine at %.200s is not that of the token: its certificate is of "
                            "another key (`tidepool engine token` shows the token of the engine "
                            "that runs)",
                            url);
    return tp_error_set(err, TP_ESYS, "cannot connect to the engine at %.200s: %.100s", url,
                        n->Status_GetText(rc));
}

int tp_nats_connect(tp_nats *n, const char *url, const char *name, const tp_signer *who,
                    tp_error *err)
{
    natsOptions *o = NULL;
    uint8_t random[16];
    char hex[2 * sizeof random + 1], subject[TP_NATS_INBOX + 2];
    if (load(n, err))
        return -1;
    int rc = n->Options_Create(&o);
    rc = rc ? rc : set_options(n, o, url, name, who);
    n->taker = uv_thread_self();
    n->is_live = true;
    rc = rc ? rc : n->Connection_Connect(&n->connection, o);
    n->Options_Destroy(o);
    if (rc) {
        n->connection = NULL;
        n->is_live = false;
        return say_why(n, url, rc, err);
    }
    const int64_t most = n->Connection_GetMaxPayload(n->connection);
    if (most < TP_NATS_PAYLOAD) {
        tp_nats_disconnect(n);
        return tp_error_set(err, TP_EUSAGE,
                            "the engine at %.200s takes messages of at most %lld bytes, and %d are "
                            "needed (max_payload in its configuration)",
                            url, (long long)most, TP_NATS_PAYLOAD);
    }
    tp_signer_random(who, random, sizeof random);
    tp_to_hex(hex, random, sizeof random);
    snprintf(n->inbox, sizeof n->inbox, "%s.%s", who->inbox, hex);
    snprintf(subject, sizeof subject, "%s.*", n->inbox);
    if (tp_nats_subscribe(n, subject, err) == 0)
        return 0;
    tp_nats_disconnect(n);
    return -1;
}

int tp_nats_subscribe(tp_nats *n, const char *subject, tp_error *err)
{
    natsSubscription *s = NULL;
    int rc = n->n_subscriptions < TP_NATS_SUBSCRIPTIONS
                 ? n->Connection_SubscribeSync(&s, n->connection, subject)
                 : 0;
    if (!s)
        return tp_error_set(err, TP_ESYS, "cannot subscribe to %.100s: %.100s", subject,
                            n->Status_GetText(rc));
    n->Subscription_SetPendingLimits(s, -1, -1);
    n->subscriptions[n->n_subscriptions++] = s;
    return 0;
}

/* Writes what was published, as far as the socket takes it now. */
static void write_out(tp_nats *n)
{
    uv_mutex_lock(&n->lock);
    bool wants_write = n->wants_write;
    uv_mutex_unlock(&n->lock);
    /* only with something to write: otherwise the library takes the connection for lost */
    if (wants_write && n->Connection_Buffered(n->connection) > 0)
        n->Connection_ProcessWriteEvent(n->connection);
}

/* Reads and writes what there is, and else waits until there is something, but no longer than that;
 * also for tp_nats_wake, if `may_wake`. */
static void turn(tp_nats *n, uint64_t deadline_ns, bool may_wake)
{
    if (n->connection)
        write_out(n);
    uint64_t now = deadline_ns ? uv_hrtime() : 0;
    uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
    struct timespec time = { (time_t)(left / 1000000000), (long)(left % 1000000000) };
    uv_mutex_lock(&n->lock);
    struct pollfd fds[] = {
        { .fd = n->wake_fd, .events = POLLIN },
        { .fd = n->socket, .events = (short)(n->wants_write ? POLLIN | POLLOUT : POLLIN) },
    };
    if (n->changes.first || (n->is_woken && may_wake))
        time = (struct timespec){ 0 };
    else
        n->is_sleeping = left > 0;
    uv_mutex_unlock(&n->lock);
    int ready = ppoll(fds, 2, &time, NULL);
    uv_mutex_lock(&n->lock);
    n->is_sleeping = false;
    uv_mutex_unlock(&n->lock);
    if (ready > 0 && fds[0].revents && !tp_bell_hush(n->wake_fd))
        ready = 0; /* only this thread hushes the bell, so that does not happen */
    if (ready > 0 && (fds[1].revents & ~POLLOUT) && n->connection)
        n->Connection_ProcessReadEvent(n->connection);
}

/* Makes the event that tells that nobody answers a message (status 503). `reply` is that message's,
 * "" when not known. */
static tp_nats_event *nobody(const char *reply)
{
    tp_nats_event *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    e->subject = reply;
    e->reply = e->data = "";
    e->status = 503;
    return e;
}

/* What has been read, or happened. */
static tp_nats_event *next_event(tp_nats *n)
{
    uv_mutex_lock(&n->lock);
    tp_nats_event *e = tp_nats_events_next(&n->changes);
    uv_mutex_unlock(&n->lock);
    for (int i = 0; i < n->n_subscriptions && !e; i++) {
        natsMsg *m = NULL;
        uint64_t queued = 0;
        if (n->Subscription_QueuedMsgs(n->subscriptions[i], &queued) || queued == 0)
            continue;
        int rc = n->Subscription_NextMsg(&m, n->subscriptions[i], 0);
        if (rc == 0)
            e = event_of(n, m);
        else if (rc == NO_RESPONDERS) /* the library keeps the message */
            e = nobody(i == 0 ? n->reply : "");
    }
    return e;
}

tp_nats_event *tp_nats_take(tp_nats *n, uint64_t deadline_ns)
{
    tp_nats_event *e = tp_nats_events_next(&n->later);
    bool is_over = false;
    while (!e && !(e = next_event(n)) && !is_over) {
        uv_mutex_lock(&n->lock);
        is_over = n->is_woken;
        n->is_woken = false;
        uv_mutex_unlock(&n->lock);
        is_over = is_over || deadline_ns == 0 || uv_hrtime() >= deadline_ns;
        turn(n, is_over ? 0 : deadline_ns, true);
    }
    if (e && n->connection && n->Connection_Buffered(n->connection) >= WRITE_BYTES)
        write_out(n);
    return e;
}

/* Frees the messages that are not needed any more. Several at once, since the first one wakes a
 * thread of the library's that does it. */
static void free_messages(tp_nats *n)
{
    for (unsigned i = 0; i < n->n_used; i++)
        n->Msg_Destroy(n->used[i]);
    n->n_used = 0;
    n->used_bytes = 0;
}

void tp_nats_free(tp_nats *n, tp_nats_event *e)
{
    if (e && e->message) {
        n->used[n->n_used++] = e->message;
        n->used_bytes += e->len;
        if (n->n_used == TP_NATS_USED || n->used_bytes > USED_BYTES)
            free_messages(n);
    }
    free(e);
}

void tp_nats_wake(tp_nats *n)
{
    uv_mutex_lock(&n->lock);
    n->is_woken = true;
    rouse_locked(n);
    uv_mutex_unlock(&n->lock);
}

void tp_nats_publish(tp_nats *n, const char *subject, const char *reply, const void *data,
                     size_t len)
{
    if (!n->connection)
        return;
    if (reply)
        n->Connection_PublishRequest(n->connection, subject, reply, data, (int)len);
    else
        n->Connection_Publish(n->connection, subject, data, (int)len);
    uv_thread_t self = uv_thread_self();
    if (!uv_thread_equal(&self, &n->taker))
        return;
    /* so that what waits for a slow server does not grow without limit; while the connection is
     * lost the library keeps it, up to a limit of its own */
    uint64_t until = 0;
    while (n->Connection_Buffered(n->connection) > WAIT_BYTES) {
        uv_mutex_lock(&n->lock);
        bool is_lost = n->socket < 0;
        uv_mutex_unlock(&n->lock);
        uint64_t now = uv_hrtime();
        until = until ? until : now + WAIT_NS;
        if (is_lost || now >= until)
            return;
        turn(n, now + LOOK_NS, false);
    }
}

void tp_nats_purge(tp_nats *n, const char *stream, const char *filter)
{
    char subject[TP_SUBJECT_MAX], body[TP_SUBJECT_MAX + 20];
    snprintf(subject, sizeof subject, "$JS.API.STREAM.PURGE.%s", stream);
    snprintf(body, sizeof body, "{\"filter\":\"%s\"}", filter);
    tp_nats_publish(n, subject, NULL, body, strlen(body));
}

void tp_nats_push(tp_nats *n)
{
    if (n->connection)
        write_out(n);
}

tp_nats_event *tp_nats_ask(tp_nats *n, const char *subject, const void *data, size_t len,
                           int64_t timeout_ms)
{
    uint64_t until = uv_hrtime() + (uint64_t)timeout_ms * 1000000;
    if (!n->connection)
        return NULL;
    snprintf(n->reply, sizeof n->reply, "%s.%llu", n->inbox, (unsigned long long)++n->asked);
    tp_nats_publish(n, subject, n->reply, data, len);
    for (;;) {
        tp_nats_event *e = next_event(n);
        if (!e && uv_hrtime() >= until)
            return NULL;
        if (!e) {
            turn(n, until, false);
            continue;
        }
        if (e->kind == TP_NATS_MESSAGE && strcmp(e->subject, n->reply) == 0)
            return e;
        if (e->kind == TP_NATS_MESSAGE && strncmp(e->subject, n->inbox, strlen(n->inbox)) == 0) {
            tp_nats_free(n, e); /* the late answer to an earlier tp_nats_ask, which has timed out */
            continue;
        }
        tp_nats_events_add(&n->later, e);
    }
}

static bool says(const tp_nats_event *e, const char *text)
{
    return memmem(e->data, e->len, text, strlen(text)) != NULL;
}

tp_nats_stored tp_nats_is_stored(const tp_nats_event *e, char *why, size_t size)
{
    /* JetStream's error codes for insufficient resources, storage or memory, and an account's
     * limit */
    static const char *const full[] = { "10023", "10047", "10028", "10002" };
    static const char said[] = "\"description\":\"";
    snprintf(why, size, "it gives no answer");
    if (!e || e->status != 0 || e->len == 0)
        return e && e->status == 503 ? TP_NATS_NOWHERE : TP_NATS_SILENT;
    if (!says(e, "\"error\""))
        return TP_NATS_STORED;
    const char *begin = memmem(e->data, e->len, said, sizeof said - 1);
    begin = begin ? begin + sizeof said - 1 : e->data;
    const char *end = memchr(begin, '"', (size_t)(e->data + e->len - begin));
    end = end ? end : e->data + e->len;
    snprintf(why, size, "%.*s", (int)(end - begin < 100 ? end - begin : 100), begin);
    /* the stream's limit of one message per subject (then it has this one already), or of its
     * size */
    if (says(e, "\"err_code\":10077"))
        return says(e, "per subject") ? TP_NATS_STORED : TP_NATS_FULL;
    for (size_t i = 0; i < sizeof full / sizeof *full; i++) {
        char code[30];
        snprintf(code, sizeof code, "\"err_code\":%s", full[i]);
        if (says(e, code))
            return TP_NATS_FULL;
    }
    return TP_NATS_REFUSED;
}

uint64_t tp_nats_sequence(tp_nats *n, const tp_nats_event *e)
{
    static const char name[] = "\"seq\":";
    const char *said;
    char digits[24];
    if (!e || !e->message)
        return 0;
    if (n->MsgHeader_Get(e->message, "Nats-Sequence", &said) == 0)
        return strtoull(said, NULL, 10);
    const char *at = e->len < 1000 ? memmem(e->data, e->len, name, sizeof name - 1) : NULL;
    if (!at)
        return 0;
    at += sizeof name - 1;
    snprintf(digits, sizeof digits, "%.*s", (int)(e->data + e->len - at), at);
    return strtoull(digits, NULL, 10);
}

void tp_nats_flush(tp_nats *n, int64_t timeout_ms)
{
    /* nobody listens to this subject: the server itself says so, after it has read all that came
     * before */
    tp_nats_free(n, tp_nats_ask(n, TP_SUBJECT_Q "flush", "", 0, timeout_ms));
}

void tp_nats_disconnect(tp_nats *n)
{
    if (!n->connection)
        return;
    write_out(n);
    n->Connection_Close(n->connection);
    for (int i = 0; i < n->n_subscriptions; i++)
        n->Subscription_Destroy(n->subscriptions[i]);
    n->n_subscriptions = 0;
    n->Connection_Destroy(n->connection);
    n->connection = NULL;
    uint64_t until = uv_hrtime() + CLOSE_NS;
    for (bool is_live = true; is_live && uv_hrtime() < until;) {
        uv_mutex_lock(&n->lock);
        is_live = n->is_live;
        uv_mutex_unlock(&n->lock);
        if (is_live)
            turn(n, uv_hrtime() + LOOK_NS, false);
    }
    for (tp_nats_event *e; (e = tp_nats_take(n, 0));)
        tp_nats_free(n, e);
    free_messages(n);
}

void tp_nats_close(tp_nats *n)
{
    tp_nats_disconnect(n);
    close(n->wake_fd);
    uv_mutex_destroy(&n->lock);
}
