/* nats.c: the loop that a connection of the NATS client library lives in, what comes and goes
 * there, and another connection when that is lost. See nats.h; nats_open.c makes one.
 *
 * The library is told that it is in somebody's event loop. Then it neither reads nor writes by
 * itself: it says which socket is to be watched for what, and turn() calls it when there is
 * something to do. */
#include "cluster/nats_private.h"

#include "base/thread.h"
#include "cluster/protocol.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    REFUSED_MAX = 2, /* a server that says so often that we may not in means it */
    LOOK_NS = 50 * 1000 * 1000,
    WRITE_BYTES = 16 << 10,   /* publishing writes when this much has gathered, and */
    USED_BYTES = 128 << 10, /* used messages are freed when they have this many bytes, */
    /* with this much that the socket has not taken yet, tp_nats_publish waits */
    WAIT_BYTES = 512 << 10,
    KEPT_BYTES = 8 << 20 /* of what is published while there is no connection so much is kept */
};

/* CLOSE_NS: how long to wait for the library's last callback after a connection was closed.
 * WAIT_NS: how long a server may read nothing before messages for it are dropped */
static const uint64_t CLOSE_NS = 5ull * 1000 * 1000 * 1000, WAIT_NS = 10ull * 1000 * 1000 * 1000;

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
    *n = (tp_nats){ .socket = -1, .wake_fd = tp_bell_open() };
    if (n->wake_fd < 0)
        return tp_error_set(err, TP_ESYS, "cannot open an eventfd: %s", strerror(errno));
    if (uv_mutex_init(&n->lock))
        goto no_lock;
    if (uv_mutex_init(&n->publishing))
        goto no_publishing;
    return 0;
no_publishing:
    uv_mutex_destroy(&n->lock);
no_lock:
    close(n->wake_fd);
    return tp_error_oom(err, "cluster");
}

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

static int subscribe(tp_nats *n, int i)
{
    natsSubscription **s = &n->subscriptions[i];
    *s = NULL;
    int rc = n->Connection_SubscribeSync(s, n->connection, n->subjects[i]);
    if (*s)
        n->Subscription_SetPendingLimits(*s, -1, -1);
    return *s ? 0 : rc;
}

/* Publishes on a connection, which may be closed already. Locked (publishing). */
static int publish_locked(tp_nats *n, natsConnection *connection, const char *subject,
                          const char *reply, const void *data, size_t len)
{
    return reply ? n->Connection_PublishRequest(connection, subject, reply, data, (int)len)
                 : n->Connection_Publish(connection, subject, data, (int)len);
}

/* The head of what is kept for the next connection: the subject, the reply subject and the bytes
 * follow. */
typedef struct kept {
    size_t subject, reply, len; /* subject, reply: with the zero; reply 0: there is none */
} kept;

/* Locked (publishing). False: there is no room. */
static bool keep_locked(tp_nats *n, const char *subject, const char *reply, const void *data,
                        size_t len)
{
    const kept k = { strlen(subject) + 1, reply ? strlen(reply) + 1 : 0, len };
    const size_t size = sizeof k + k.subject + k.reply + k.len;
    uint8_t *to = n->kept.len + size <= KEPT_BYTES ? tp_buf_reserve(&n->kept, size) : NULL;
    if (!to)
        return false;
    n->kept.len += size;
    memcpy(to, &k, sizeof k);
    memcpy(to += sizeof k, subject, k.subject);
    to += k.subject;
    if (k.reply)
        memcpy(to, reply, k.reply);
    if (len)
        memcpy(to + k.reply, data, len);
    return true;
}

/* From now on all publish on this one, what was kept first. NULL: what they publish is kept. */
static void set_connection(tp_nats *n, natsConnection *connection)
{
    kept k;
    uv_mutex_lock(&n->publishing);
    for (size_t at = 0; connection && at < n->kept.len; at += k.subject + k.reply + k.len) {
        memcpy(&k, n->kept.data + at, sizeof k);
        at += sizeof k;
        const char *subject = (const char *)n->kept.data + at, *reply = subject + k.subject;
        publish_locked(n, connection, subject, k.reply ? reply : NULL, reply + k.reply, k.len);
    }
    if (connection)
        tp_buf_free(&n->kept);
    n->connection = connection;
    uv_mutex_unlock(&n->publishing);
}

/* Makes it the connection, with what was subscribed to. Where that fails it is closed, as if it
 * had been lost. */
static void adopt(tp_nats *n, natsConnection *connection)
{
    int rc = 0;
    n->n_connections++;
    set_connection(n, connection);
    for (int i = 0; i < n->n_subscriptions; i++)
        rc = rc ? rc : subscribe(n, i);
    if (rc)
        n->Connection_Close(connection);
}

/* Lets go of the connection, which is closed. */
static void let_go(tp_nats *n)
{
    natsConnection *connection = n->connection;
    set_connection(n, NULL);
    for (int i = 0; i < n->n_subscriptions; i++) {
        n->Subscription_Destroy(n->subscriptions[i]);
        n->subscriptions[i] = NULL;
    }
    n->Connection_Destroy(connection);
}

static void set_wanted(tp_nats *n, bool is_wanted)
{
    uv_mutex_lock(&n->publishing);
    n->is_wanted = is_wanted;
    tp_buf_free(&n->kept);
    uv_mutex_unlock(&n->publishing);
    if (is_wanted)
        return;
    for (int i = 0; i < n->n_subscriptions; i++)
        free(n->subjects[i]);
    n->n_subscriptions = 0;
    free(n->url);
    free(n->name);
    n->url = n->name = NULL;
}

int tp_nats_connect(tp_nats *n, const char *url, const char *name, const tp_signer *who,
                    tp_error *err)
{
    natsConnection *connection = NULL;
    uint8_t random[16];
    char hex[2 * sizeof random + 1], subject[TP_NATS_INBOX + 2];
    if (tp_nats_load(n, err))
        return -1;
    n->url = strdup(url);
    n->name = strdup(name);
    n->who = who;
    n->taker = uv_thread_self();
    n->refused = 0;
    if (!n->url || !n->name) {
        set_wanted(n, false);
        return tp_error_oom(err, "cluster");
    }
    int rc = tp_nats_open_at_last(n, &connection);
    if (rc) {
        set_wanted(n, false);
        return tp_nats_say_why(n, url, rc, err);
    }
    set_wanted(n, true);
    adopt(n, connection);
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
    const bool has_room = n->n_subscriptions < TP_NATS_SUBSCRIPTIONS;
    char *copy = has_room ? strdup(subject) : NULL;
    if (!copy)
        return tp_error_set(err, TP_ESYS, "cannot subscribe to %.100s", subject);
    n->subjects[n->n_subscriptions++] = copy;
    const int rc = n->connection ? subscribe(n, n->n_subscriptions - 1) : 0;
    if (rc == 0 || rc == WAS_CLOSED) /* then the next connection has it */
        return 0;
    free(n->subjects[--n->n_subscriptions]);
    return tp_error_set(err, TP_ESYS, "cannot subscribe to %.100s: %.100s", subject,
                        n->Status_GetText(rc));
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

/* Locked. Is there anything that next_event is to see to? */
static bool has_changed_locked(const tp_nats *n)
{
    return n->has_sought || (n->connection && !n->is_live && !n->is_attached);
}

/* Reads and writes what there is, and else waits until there is something, but no longer than that;
 * also for tp_nats_wake, if `may_wake`. */
static void turn(tp_nats *n, uint64_t deadline_ns, bool may_wake)
{
    if (n->connection)
        write_out(n);
    if (n->is_lost && !n->is_seeking && deadline_ns > n->seek_ns)
        deadline_ns = n->seek_ns;
    uint64_t now = deadline_ns ? uv_hrtime() : 0;
    uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
    struct timespec time = { (time_t)(left / 1000000000), (long)(left % 1000000000) };
    uv_mutex_lock(&n->lock);
    struct pollfd fds[] = {
        { .fd = n->wake_fd, .events = POLLIN },
        { .fd = n->connection ? n->socket : -1,
          .events = (short)(n->wants_write ? POLLIN | POLLOUT : POLLIN) },
    };
    if (has_changed_locked(n) || (n->is_woken && may_wake))
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

/* ---- after a connection was lost ---- */

/* The seeker's thread: tries once. */
static void seek(void *user)
{
    tp_nats *n = user;
    natsConnection *connection;
    const int rc = tp_nats_open_connection(n, &connection);
    uv_mutex_lock(&n->lock);
    n->sought = connection;
    n->sought_rc = rc;
    n->has_sought = true;
    tp_nats_rouse_locked(n);
    uv_mutex_unlock(&n->lock);
}

static tp_nats_event *change(tp_nats_kind kind)
{
    tp_nats_event *e = calloc(1, sizeof *e);
    if (e)
        e->kind = kind;
    return e;
}

static void set_seek_time(tp_nats *n)
{
    n->seek_ns = uv_hrtime() + CONNECT_AGAIN_MS * 1000000ull;
}

/* Waits for the seeker. Gives what it has found; NULL with *rc: nothing. */
static natsConnection *end_seeking(tp_nats *n, int *rc)
{
    uv_thread_join(&n->seeker);
    n->is_seeking = false;
    uv_mutex_lock(&n->lock);
    natsConnection *connection = n->sought;
    *rc = n->sought_rc;
    n->sought = NULL;
    n->has_sought = false;
    uv_mutex_unlock(&n->lock);
    return connection;
}

/* Sees to a connection that was lost. NULL: there is nothing to tell. Without memory to tell of it
 * nothing is done yet. */
static tp_nats_event *look_for_change(tp_nats *n)
{
    tp_nats_event *e;
    int rc = 0;
    uv_mutex_lock(&n->lock);
    const bool has_changed = has_changed_locked(n);
    uv_mutex_unlock(&n->lock);
    if (!has_changed) {
        if (n->is_lost && !n->is_seeking && uv_hrtime() >= n->seek_ns) {
            n->is_seeking = tp_thread_create(&n->seeker, 0, seek, n) == 0;
            if (!n->is_seeking)
                set_seek_time(n);
        }
        return NULL;
    }
    if (n->connection) {
        e = change(TP_NATS_LOST);
        if (e) {
            let_go(n);
            n->is_lost = true;
            set_seek_time(n);
        }
        return e;
    }
    e = change(TP_NATS_BACK);
    if (!e)
        return NULL;
    natsConnection *connection = end_seeking(n, &rc);
    n->refused = rc == AUTH_FAILED ? n->refused + 1 : 0;
    n->is_lost = rc != 0 && n->refused < REFUSED_MAX;
    if (rc == 0) {
        adopt(n, connection);
        return e;
    }
    set_seek_time(n);
    e->kind = TP_NATS_CLOSED;
    if (!n->is_lost)
        return e;
    free(e);
    return NULL;
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
    tp_nats_event *e = look_for_change(n);
    for (int i = 0; i < n->n_subscriptions && !e; i++) {
        natsMsg *m = NULL;
        uint64_t queued = 0;
        if (!n->subscriptions[i] ||
            n->Subscription_QueuedMsgs(n->subscriptions[i], &queued) || queued == 0)
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
    tp_nats_rouse_locked(n);
    uv_mutex_unlock(&n->lock);
}

/* Gives whether it is kept for the next connection. What there is no room for is dropped, as the
 * network does with what is on its way. */
static bool publish_or_keep(tp_nats *n, const char *subject, const char *reply, const void *data,
                            size_t len)
{
    bool is_kept = false;
    uv_mutex_lock(&n->publishing);
    if (n->is_wanted && (!n->connection || publish_locked(n, n->connection, subject, reply, data,
                                                          len) == WAS_CLOSED))
        is_kept = keep_locked(n, subject, reply, data, len);
    uv_mutex_unlock(&n->publishing);
    return is_kept;
}

void tp_nats_publish(tp_nats *n, const char *subject, const char *reply, const void *data,
                     size_t len)
{
    uv_thread_t self = uv_thread_self();
    publish_or_keep(n, subject, reply, data, len);
    if (!uv_thread_equal(&self, &n->taker) || !n->connection)
        return;
    /* so that what waits for a slow server does not grow without limit */
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
    if (!n->is_wanted)
        return NULL;
    snprintf(n->reply, sizeof n->reply, "%s.%llu", n->inbox, (unsigned long long)++n->asked);
    /* on which connection it goes */
    uint64_t on = n->n_connections + publish_or_keep(n, subject, n->reply, data, len);
    for (;;) {
        tp_nats_event *e = next_event(n);
        if (n->n_connections > on) /* it was lost on the way, or the answer was */
            on = n->n_connections + publish_or_keep(n, subject, n->reply, data, len);
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
    int rc;
    if (!n->is_wanted)
        return;
    natsConnection *late = n->is_seeking ? end_seeking(n, &rc) : NULL;
    if (late)
        adopt(n, late);
    n->is_lost = false;
    if (n->connection) {
        write_out(n);
        n->Connection_Close(n->connection);
        let_go(n);
    }
    set_wanted(n, false);
    uint64_t until = uv_hrtime() + CLOSE_NS;
    for (bool is_live = true; is_live && uv_hrtime() < until;) {
        uv_mutex_lock(&n->lock);
        is_live = n->is_live || n->is_attached;
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
    uv_mutex_destroy(&n->publishing);
    uv_mutex_destroy(&n->lock);
}
