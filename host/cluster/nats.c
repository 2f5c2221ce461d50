/* nats.c: loads the NATS client library, connects, and queues what comes in. See nats.h. */
#include "cluster/nats.h"

#include "cluster/certificate.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CONNECT_MS = 5000,
    RECONNECT_MS = 100,
    PING_MS = 5000, /* with two that are not answered, a dead server is noticed after 10 s */
    PINGS_OUT = 2,
    LOOK_NS = 50 * 1000 * 1000,
    /* natsStatus of nats.h */
    NO_SERVER = 6,
    HAS_NO_TLS = 8,
    AUTH_FAILED = 11,
    TLS_FAILED = 29,
    NO_RESPONDERS = 34
};

/* how long its threads may take to leave us alone after a connection was closed */
static const uint64_t CLOSE_NS = 5ull * 1000 * 1000 * 1000;

/* of Debian 12 and 13; what we call, and the numbers of natsStatus, are the same in both */
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
    return 0;
}

int tp_nats_open(tp_nats *n, tp_error *err)
{
    *n = (tp_nats){ 0 };
    n->last = &n->first;
    if (uv_mutex_init(&n->lock))
        return tp_error_oom(err, "cluster");
    if (uv_cond_init(&n->more)) {
        uv_mutex_destroy(&n->lock);
        return tp_error_oom(err, "cluster");
    }
    return 0;
}

/* ---- called by the library's threads ---- */

static void add(tp_nats *n, tp_nats_event *e)
{
    uv_mutex_lock(&n->lock);
    *n->last = e;
    n->last = &e->next;
    uv_cond_signal(&n->more);
    uv_mutex_unlock(&n->lock);
}

static tp_nats_event *event_of(tp_nats *n, natsMsg *m)
{
    tp_nats_event *e = calloc(1, sizeof *e);
    const char *status;
    if (!e) {
        /* as if the network had lost it: what matters is sent again */
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

static void on_message(natsConnection *connection, natsSubscription *s, natsMsg *m, void *user)
{
    (void)connection, (void)s;
    tp_nats_event *e = event_of(user, m);
    if (e)
        add(user, e);
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

static void release(void *user)
{
    tp_nats *n = user;
    uv_mutex_lock(&n->lock);
    n->live--;
    uv_cond_signal(&n->more);
    uv_mutex_unlock(&n->lock);
}

static void on_closed(natsConnection *connection, void *user)
{
    (void)connection;
    add_change(user, TP_NATS_CLOSED);
    release(user);
}

/* Without a handler the library prints them. */
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
    if (load(n, err))
        return -1;
    int rc = n->Options_Create(&o);
    rc = rc ? rc : set_options(n, o, url, name, who);
    n->live = 1;
    rc = rc ? rc : n->Connection_Connect(&n->connection, o);
    n->Options_Destroy(o);
    int64_t most = rc == 0 ? n->Connection_GetMaxPayload(n->connection) : 0;
    if (rc == 0 && most < TP_NATS_PAYLOAD) {
        tp_nats_disconnect(n);
        return tp_error_set(err, TP_EUSAGE,
                            "the engine at %.200s takes messages of at most %lld bytes, and %d are "
                            "needed (max_payload in its configuration)",
                            url, (long long)most, TP_NATS_PAYLOAD);
    }
    if (rc == 0)
        return 0;
    n->connection = NULL;
    n->live = 0;
    return say_why(n, url, rc, err);
}

int tp_nats_subscribe(tp_nats *n, const char *subject, tp_error *err)
{
    natsSubscription *s = NULL;
    int rc = n->n_subscriptions < TP_NATS_SUBSCRIPTIONS
                 ? n->Connection_Subscribe(&s, n->connection, subject, on_message, n)
                 : 0;
    if (!s)
        return tp_error_set(err, TP_ESYS, "cannot subscribe to %.100s: %.100s", subject,
                            n->Status_GetText(rc));
    n->Subscription_SetPendingLimits(s, -1, -1);
    uv_mutex_lock(&n->lock);
    n->live++;
    uv_mutex_unlock(&n->lock);
    if (n->Subscription_SetOnCompleteCB(s, release, n))
        release(n);
    n->subscriptions[n->n_subscriptions++] = s;
    return 0;
}

tp_nats_event *tp_nats_take(tp_nats *n, uint64_t deadline_ns)
{
    uv_mutex_lock(&n->lock);
    while (!n->first && !n->is_woken) {
        uint64_t now = uv_hrtime();
        if (now >= deadline_ns || uv_cond_timedwait(&n->more, &n->lock, deadline_ns - now))
            break;
    }
    tp_nats_event *e = n->first;
    if (e) {
        n->first = e->next;
        if (!n->first)
            n->last = &n->first;
    } else {
        n->is_woken = false;
    }
    uv_mutex_unlock(&n->lock);
    return e;
}

void tp_nats_free(tp_nats *n, tp_nats_event *e)
{
    if (e && e->message)
        n->Msg_Destroy(e->message);
    free(e);
}

void tp_nats_wake(tp_nats *n)
{
    uv_mutex_lock(&n->lock);
    n->is_woken = true;
    uv_cond_signal(&n->more);
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
}

tp_nats_event *tp_nats_ask(tp_nats *n, const char *subject, const void *data, size_t len,
                           int64_t timeout_ms)
{
    natsMsg *m = NULL;
    int rc = n->connection ? n->Connection_Request(&m, n->connection, subject, data, (int)len,
                                                   timeout_ms)
                           : -1;
    if (rc == 0)
        return event_of(n, m);
    tp_nats_event *e = rc == NO_RESPONDERS ? calloc(1, sizeof *e) : NULL;
    if (e)
        e->status = 503;
    return e;
}

static bool says(const tp_nats_event *e, const char *text)
{
    return memmem(e->data, e->len, text, strlen(text)) != NULL;
}

tp_nats_stored tp_nats_is_stored(const tp_nats_event *e, char *why, size_t size)
{
    /* insufficient resources, storage or memory; an account's limit */
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
    if (says(e, "\"err_code\":10077")) /* a limit of the stream's: one a subject, or its size */
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
    if (n->connection)
        n->Connection_FlushTimeout(n->connection, timeout_ms);
}

void tp_nats_disconnect(tp_nats *n)
{
    if (!n->connection)
        return;
    n->Connection_Close(n->connection);
    for (int i = 0; i < n->n_subscriptions; i++)
        n->Subscription_Destroy(n->subscriptions[i]);
    n->n_subscriptions = 0;
    n->Connection_Destroy(n->connection);
    n->connection = NULL;
    uint64_t until = uv_hrtime() + CLOSE_NS;
    uv_mutex_lock(&n->lock);
    while (n->live > 0 && uv_hrtime() < until)
        uv_cond_timedwait(&n->more, &n->lock, LOOK_NS);
    uv_mutex_unlock(&n->lock);
    for (tp_nats_event *e; (e = tp_nats_take(n, 0));)
        tp_nats_free(n, e);
}

void tp_nats_close(tp_nats *n)
{
    tp_nats_disconnect(n);
    uv_cond_destroy(&n->more);
    uv_mutex_destroy(&n->lock);
}
