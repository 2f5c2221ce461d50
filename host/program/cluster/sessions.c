/* sessions.c: the coordinators whose work is here, and the hosts that run it. */
#include "program/cluster/sessions.h"

#include "base/system.h"
#include "base/thread.h"
#include "host.h"
#include "program/cluster/code.h"
#include "program/cluster/replies.h"
#include "program/cluster/telling.h"
#include "program/pocl_cache.h"
#include "program/process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    ALIVE_AGAIN_MS = 3000, /* a session that does not answer is asked again */
    CLOSING_MS = 2000 /* a device that runs for so long what nobody wants is given up, when its
                         script is gone */
};

session *tp_session_find(const node *n, const char *hex)
{
    session *s = n->sessions;
    while (s && strcmp(s->hex, hex) != 0)
        s = s->next;
    return s;
}

void tp_session_ask(node *n, session *s)
{
    char subject[TP_SUBJECT_MAX], reply[TP_SUBJECT_MAX];
    if (s->tries == 0)
        tp_signer_random(&n->signer, s->nonce, sizeof s->nonce);
    s->tries++;
    s->ask_ms = tp_node_now_ms() + ALIVE_AGAIN_MS;
    snprintf(subject, sizeof subject, TP_SUBJECT_Q "%s", s->hex);
    snprintf(reply, sizeof reply, "%s.s.%s", n->inbox, s->hex);
    tp_nats_publish(&n->nats, subject, reply, s->nonce, sizeof s->nonce);
}

static void wake(tp_waiter *w)
{
    session *s = (session *)(void *)((char *)w - offsetof(session, waiter));
    tp_nats_wake(&s->node->nats);
}

session *tp_session_open(node *n, const uint8_t *id, const char *hex)
{
    session *s = calloc(1, sizeof *s);
    if (!s || tp_far_stores_open(s)) {
        free(s);
        return NULL;
    }
    memcpy(s->id, id, sizeof s->id);
    snprintf(s->hex, sizeof s->hex, "%s", hex);
    s->node = n;
    s->modules = -1;
    s->waiter.wake = wake;
    s->next = n->sessions;
    n->sessions = s;
    tp_session_ask(n, s);
    return s;
}

void tp_session_give_devices_up(node *n)
{
    tp_node_say(
        "a device runs what nobody wants any more, and does not end: its process is replaced");
    for (chunk *k = n->chunks; k; k = k->next)
        if (k->state < ANSWERED)
            tp_reply_give_back(n, k);
    tp_nats_flush(&n->nats, 1000);
    _exit(EXIT_FAILURE);
}

/* Waits until the devices of a session that is over have come to rest. */
static void rest(node *n, session *s)
{
    const uint64_t until = tp_node_now_ms() + CLOSING_MS;
    while (s->host && tp_own_devices_are_stuck(n->devices, s->host)) {
        if (tp_node_now_ms() >= until)
            tp_session_give_devices_up(n);
        tp_node_hear(n);
        uv_sleep(5);
    }
}

/* A host that a thread of its own closes: drivers may compile once more before it can end. */
typedef struct closing {
    tp_host *host;
    _Atomic bool is_over; /* the thread's last write (release) */
} closing;

static void close_host(void *user)
{
    closing *c = user;
    tp_error ignored = { 0 };
    if (tp_host_adopt(c->host, &ignored) == 0)
        tp_host_close(c->host);
    atomic_store_explicit(&c->is_over, true, memory_order_release);
}

/* Closes the host of a session that is over, while others are heard. */
static void close_driver(node *n, session *s)
{
    closing c = { .host = s->host };
    uv_thread_t thread;
    rest(n, s);
    if (!s->host || tp_thread_create(&thread, 0, close_host, &c)) {
        tp_host_close(s->host);
        return;
    }
    while (!atomic_load_explicit(&c.is_over, memory_order_acquire)) {
        tp_node_hear(n);
        uv_sleep(5);
    }
    uv_thread_join(&thread);
}

void tp_session_close(node *n, session *s)
{
    tp_far_stores_end(s);
    for (chunk *k = n->chunks, *next; k; k = next) {
        next = k->next;
        if (k->session == s) {
            tp_node_acknowledge(n, k, "+TERM");
            tp_node_forget(n, k);
        }
    }
    for (unsigned i = 0; i < CANCELLED; i++)
        if (n->cancelled[i].session == s)
            n->cancelled[i].session = NULL;
    session **at = &n->sessions;
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    tp_code_free(s);
    tp_known_free(&s->known);
    if (n->devices)
        close_driver(n, s);
    else
        tp_host_close(s->host);
    if (s->modules >= 0)
        close(s->modules);
    tp_telling_close(s);
    tp_far_stores_close(s);
    free(s);
}

/* tp_config.write of a session's host. Any thread of its; the client library takes calls from
 * several. */
static void print(void *user, int fd, const char *bytes, size_t len)
{
    enum { MOST = 512 << 10 };
    session *s = user;
    node *n = s->node;
    char subject[TP_SUBJECT_MAX];
    size_t name = strlen(n->host_name) + 1;
    snprintf(subject, sizeof subject, TP_SUBJECT_R "%s.out", s->hex);
    for (; len > 0;) {
        size_t part = len < MOST ? len : MOST;
        char *message = malloc(1 + name + part);
        if (!message)
            return;
        message[0] = (char)('0' + fd);
        memcpy(message + 1, n->host_name, name);
        memcpy(message + 1 + name, bytes, part);
        tp_nats_publish(&n->nats, subject, NULL, message, 1 + name + part);
        free(message);
        bytes += part;
        len -= part;
    }
}

int tp_session_open_host(node *n, session *s, bool tags_lines, tp_error *err)
{
    tp_config config = {
        .size = sizeof config,
        .workers = (int)n->slots,
        .write = print,
        .user = s,
        .tag_lines = tags_lines,
        .worker = tp_is_set("TIDEPOOL_WORKER") ? getenv("TIDEPOOL_WORKER") : TP_SYSTEM_PROGRAM,
    };
    char cache[4096], state[4096];
    if (n->devices) { /* compiled programs are kept as those of scripts are */
        config.opencl = getenv("TIDEPOOL_OPENCL");
        config.cache_dir = tp_caches_own(cache, sizeof cache);
        config.state_dir = tp_caches_state(state, sizeof state);
    }
    s->modules = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (s->modules < 0)
        return tp_error_set(err, TP_ESYS, "cannot open /dev/null: %s", strerror(errno));
    if (tp_host_open(&s->host, &config, err)) {
        close(s->modules);
        s->modules = -1;
        return -1;
    }
    tp_system_path_of(s->modules, s->host->modules, sizeof s->host->modules);
    snprintf(s->host->place, sizeof s->host->place, "on %s", n->host_name);
    s->host->stores = &s->stores.keeper;
    s->host->permits = &s->stores.permits;
    return 0;
}
