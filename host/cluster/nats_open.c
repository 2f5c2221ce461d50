/* nats_open.c: loads the NATS client library, and makes one connection, which says to our loop
 * (nats.c) what it wants. */
#include "cluster/nats_private.h"

#include "cluster/certificate.h"

#include <dlfcn.h>
#include <string.h>

enum {
    CONNECT_MS = 5000,
    CONNECT_TRIES = 5, /* when a server that is there ends the connection at once */
    PING_MS = 5000, /* with two that are not answered, a dead server is noticed after 10 s */
    PINGS_OUT = 2
};

/* those of Debian 12 and 13: the functions that we call, and the numbers of natsStatus, are the
 * same in both */
static const char *const libraries[] = { "libnats.so.3.4", "libnats.so.3.10" };

int tp_nats_load(tp_nats *n, tp_error *err)
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

/* ---- what the library says of its socket; it holds the connection's lock ---- */

static int attach(void **user, void *loop, natsConnection *connection, int socket)
{
    tp_nats *n = loop;
    (void)connection;
    *user = n;
    uv_mutex_lock(&n->lock);
    n->socket = socket;
    n->wants_write = false;
    n->is_attached = true;
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
    tp_nats_rouse_locked(n);
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
        tp_nats_rouse_locked(n);
    uv_mutex_unlock(&n->lock);
    return 0;
}

/* The library's last call for a connection, or that of on_closed is. */
static int detach(void *user)
{
    tp_nats *n = user;
    change_reading(n, false);
    uv_mutex_lock(&n->lock);
    n->is_attached = false;
    tp_nats_rouse_locked(n);
    uv_mutex_unlock(&n->lock);
    return 0;
}

/* ---- called by the library's threads ---- */

/* The library has given up the connection, by itself or when it was told to. */
static void on_closed(natsConnection *connection, void *user)
{
    tp_nats *n = user;
    (void)connection;
    uv_mutex_lock(&n->lock);
    n->is_live = false;
    tp_nats_rouse_locked(n);
    uv_mutex_unlock(&n->lock);
}

/* Ignores errors; without this handler the library prints them. */
static void on_error(natsConnection *connection, natsSubscription *s, int status, void *user)
{
    (void)connection, (void)s, (void)status, (void)user;
}

/* ---- called by who connects ---- */

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

static int set_options(tp_nats *n, natsOptions *o)
{
    const tp_signer *who = n->who;
    int rc = n->Options_SetURL(o, n->url);
    rc = rc ? rc : n->Options_SetName(o, n->name);
    rc = rc ? rc : n->Options_SetUserInfo(o, who->user, who->password);
    rc = rc || !is_secure(n->url) ? rc : set_secure(n, o, who);
    rc = rc ? rc : n->Options_SetTimeout(o, CONNECT_MS);
    rc = rc ? rc : n->Options_SetAllowReconnect(o, false);
    rc = rc ? rc : n->Options_SetPingInterval(o, PING_MS);
    rc = rc ? rc : n->Options_SetMaxPingsOut(o, PINGS_OUT);
    rc = rc ? rc : n->Options_SetSendAsap(o, true);
    rc = rc ? rc : n->Options_SetCustomInboxPrefix(o, who->inbox);
    rc = rc ? rc : n->Options_SetEventLoop(o, n, attach, change_reading, change_writing, detach);
    rc = rc ? rc : n->Options_SetClosedCB(o, on_closed, n);
    return rc ? rc : n->Options_SetErrorHandler(o, on_error, n);
}

int tp_nats_say_why(const tp_nats *n, const char *url, int rc, tp_error *err)
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

int tp_nats_open_connection(tp_nats *n, natsConnection **connection)
{
    natsOptions *o = NULL;
    *connection = NULL;
    uv_mutex_lock(&n->lock);
    n->is_live = true;
    uv_mutex_unlock(&n->lock);
    int rc = n->Options_Create(&o);
    rc = rc ? rc : set_options(n, o);
    rc = rc ? rc : n->Connection_Connect(connection, o);
    n->Options_Destroy(o);
    if (rc == 0)
        return 0;
    *connection = NULL;
    uv_mutex_lock(&n->lock);
    n->is_live = false; /* of one that was never made the library says nothing */
    uv_mutex_unlock(&n->lock);
    return rc;
}

int tp_nats_open_at_last(tp_nats *n, natsConnection **connection)
{
    int rc = 0;
    for (int i = 0; i < CONNECT_TRIES; i++) {
        if (i > 0)
            uv_sleep(CONNECT_AGAIN_MS);
        rc = tp_nats_open_connection(n, connection);
        const bool may_be_cut = rc == WAS_CLOSED || rc == IO_ERROR || rc == ANY_ERROR ||
                                (rc == TLS_FAILED && is_secure(n->url));
        if (!may_be_cut)
            break;
    }
    return rc;
}
