/* engine_gc.c: removes results and payloads of sessions whose coordinators are gone, and consumers
 * of builds that no session has. See engine_gc.h.
 *
 * A session is alive if its coordinator answers a question as it does for workers. If a coordinator
 * was only cut off for a while, it sends again what was removed. The stream of work is purged as a
 * whole, and only when no session is alive: purging single sessions makes servers before 2.9.15
 * forget other sessions' work that is under way. Workers drop a dead session's work when they get
 * it. */
#include "program/engine_gc.h"

#include "cluster/parcel.h"
#include "cluster/protocol.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { SESSIONS = 4096, CONSUMERS = 1024, ASK_MS = 2000, TRIES = 3, REST_MS = 500 };

typedef struct session {
    char hex[TP_ID_TEXT];
    bool is_alive;
    char build[TP_ID_TEXT]; /* only of a session that is alive */
} session;

/* What has been found and removed. */
typedef struct sweep {
    tp_nats *nats;
    const tp_signer *signer;
    session *sessions; /* SESSIONS of them */
    unsigned n;
    unsigned long long messages;
} sweep;

/* Asks the server; the answer is the caller's. NULL when there is none, or an error. */
static tp_nats_event *ask(const sweep *g, const char *subject, const char *body)
{
    static const char error[] = "\"error\":";
    tp_nats_event *e = tp_nats_ask(g->nats, subject, body, strlen(body), ASK_MS);
    if (e && e->status == 0 && e->len > 0 && !memmem(e->data, e->len, error, sizeof error - 1))
        return e;
    tp_nats_free(g->nats, e);
    return NULL;
}

static void add_session(sweep *g, const char *hex)
{
    for (unsigned i = 0; i < g->n; i++)
        if (memcmp(g->sessions[i].hex, hex, TP_ID_TEXT - 1) == 0)
            return;
    if (g->n < SESSIONS)
        memcpy(g->sessions[g->n++].hex, hex, TP_ID_TEXT - 1);
}

/* Notes the sessions that have something in a stream: their names follow `before` in subjects, and
 * `parts` other parts. */
static void find_sessions(sweep *g, const char *stream, const char *before, int parts)
{
    char subject[TP_SUBJECT_MAX], body[TP_SUBJECT_MAX], name[TP_SUBJECT_MAX];
    snprintf(subject, sizeof subject, "$JS.API.STREAM.INFO.%s", stream);
    snprintf(body, sizeof body, "{\"subjects_filter\":\"%s>\"}", before);
    tp_nats_event *e = ask(g, subject, body);
    if (!e)
        return;
    int quoted = snprintf(name, sizeof name, "\"%s", before);
    const char *p = e->data, *end = e->data + e->len;
    while ((p = memmem(p, (size_t)(end - p), name, (size_t)quoted))) {
        p += quoted;
        for (int i = 0; i < parts && p; i++) {
            p = memchr(p, '.', (size_t)(end - p));
            p = p ? p + 1 : NULL;
        }
        if (!p)
            break;
        if ((size_t)(end - p) >= TP_ID_TEXT && strspn(p, "0123456789abcdef") == TP_ID_TEXT - 1 &&
            p[TP_ID_TEXT - 1] == '.')
            add_session(g, p);
    }
    tp_nats_free(g->nats, e);
}

/* Sets whether the session's coordinator is alive, and of which build. */
static void look(const sweep *g, session *s)
{
    char subject[TP_SUBJECT_MAX];
    uint8_t id[TP_ID_BYTES], nonce[TP_ID_BYTES];
    struct {
        uint8_t signature[TP_SIGNATURE_BYTES];
        tp_alive alive;
    } a;
    snprintf(subject, sizeof subject, TP_SUBJECT_Q "%s", s->hex);
    tp_from_hex(id, s->hex, sizeof id);
    for (int i = 0; i < TRIES && !s->is_alive; i++) {
        tp_signer_random(g->signer, nonce, sizeof nonce);
        tp_nats_event *e = tp_nats_ask(g->nats, subject, nonce, sizeof nonce, ASK_MS);
        if (e && e->len == sizeof a) {
            memcpy(&a, e->data, sizeof a);
            s->is_alive =
                tp_signer_verify(g->signer, a.signature, &a.alive, sizeof a.alive) &&
                memcmp(a.alive.session, id, sizeof id) == 0 &&
                memcmp(a.alive.nonce, nonce, sizeof nonce) == 0;
            tp_to_hex(s->build, a.alive.build, sizeof a.alive.build);
        }
        bool is_over = s->is_alive || i == TRIES - 1;
        tp_nats_free(g->nats, e);
        if (!is_over)
            uv_sleep(REST_MS); /* its coordinator may be about to reconnect: try once more */
    }
}

/* Removes messages; `filter` NULL: all of the stream. */
static void purge(sweep *g, const char *stream, const char *filter)
{
    static const char purged[] = "\"purged\":";
    char subject[TP_SUBJECT_MAX], body[TP_SUBJECT_MAX] = "";
    snprintf(subject, sizeof subject, "$JS.API.STREAM.PURGE.%s", stream);
    if (filter)
        snprintf(body, sizeof body, "{\"filter\":\"%s\"}", filter);
    tp_nats_event *e = ask(g, subject, body);
    const char *p = e ? memmem(e->data, e->len, purged, sizeof purged - 1) : NULL;
    if (p)
        g->messages += strtoull(p + sizeof purged - 1, NULL, 10);
    tp_nats_free(g->nats, e);
}

/* Removes the consumers of builds that no live session has; they are made again when one comes.
 * Gives how many. */
static unsigned remove_consumers(const sweep *g)
{
    static const char before[] = "\"P_";
    char(*names)[TP_ID_TEXT] = calloc(CONSUMERS, TP_ID_TEXT);
    unsigned n = 0, removed = 0;
    tp_nats_event *e = names ? ask(g, "$JS.API.CONSUMER.NAMES." TP_STREAM_W, "{}") : NULL;
    const char *p = e ? e->data : NULL;
    while (p && n < CONSUMERS &&
           (p = memmem(p, (size_t)(e->data + e->len - p), before, sizeof before - 1))) {
        p += sizeof before - 1;
        size_t len = strspn(p, "0123456789abcdef");
        if (len == TP_ID_TEXT - 1)
            memcpy(names[n++], p, len);
    }
    tp_nats_free(g->nats, e);
    for (unsigned i = 0; i < n; i++) {
        char subject[TP_SUBJECT_MAX];
        bool is_used = false;
        for (unsigned k = 0; k < g->n; k++)
            is_used |= g->sessions[k].is_alive && strcmp(g->sessions[k].build, names[i]) == 0;
        snprintf(subject, sizeof subject, "$JS.API.CONSUMER.DELETE." TP_STREAM_W ".P_%s", names[i]);
        e = is_used ? NULL : ask(g, subject, "");
        removed += e != NULL;
        tp_nats_free(g->nats, e);
    }
    free(names);
    return removed;
}

int tp_engine_gc(tp_nats *n, const tp_signer *s)
{
    sweep g = { .nats = n, .signer = s, .sessions = calloc(SESSIONS, sizeof(session)) };
    unsigned alive = 0;
    char filter[TP_SUBJECT_MAX];
    if (!g.sessions)
        return EXIT_FAILURE;
    find_sessions(&g, TP_STREAM_R, TP_SUBJECT_R, 0);
    find_sessions(&g, TP_STREAM_B, TP_SUBJECT_B, 0);
    find_sessions(&g, TP_STREAM_W, TP_SUBJECT_W, 1);
    for (unsigned i = 0; i < g.n; i++) {
        look(&g, &g.sessions[i]);
        alive += g.sessions[i].is_alive;
    }
    for (unsigned i = 0; i < g.n; i++) {
        if (g.sessions[i].is_alive)
            continue;
        snprintf(filter, sizeof filter, TP_SUBJECT_R "%s.>", g.sessions[i].hex);
        purge(&g, TP_STREAM_R, filter);
        snprintf(filter, sizeof filter, TP_SUBJECT_B "%s.>", g.sessions[i].hex);
        purge(&g, TP_STREAM_B, filter);
    }
    if (alive == 0)
        purge(&g, TP_STREAM_W, NULL);
    unsigned consumers = remove_consumers(&g);
    printf("Removed: %llu message%s of %u script%s that %s gone, %u consumer%s of builds that no "
           "script has.\nKept: what is of %u script%s that run%s.\n",
           g.messages, g.messages == 1 ? "" : "s", g.n - alive, g.n - alive == 1 ? "" : "s",
           g.n - alive == 1 ? "is" : "are", consumers, consumers == 1 ? "" : "s", alive,
           alive == 1 ? "" : "s", alive == 1 ? "s" : "");
    free(g.sessions);
    return EXIT_SUCCESS;
}
