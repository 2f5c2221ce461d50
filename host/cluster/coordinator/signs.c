/* signs.c: what workers say beside their results. */
#include "cluster/coordinator/signs.h"

#include "cluster/coordinator/coordinator.h"
#include "cluster/happened.h"
#include "cluster/protocol.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tp_signs_begin_box(cluster *c, flight *l, worker *w, uint64_t since_ns)
{
    tp_lanes_begin(&w->lanes, &l->box, c->engine, &l->slice->work, l->count, w->host,
                   w->n_devices ? w->kernels : w->slots, &c->crew.n_lanes,
                   since_ns > l->sent_ns ? since_ns : l->sent_ns);
}

/* The worker with that id says what it runs of the flight's chunk. For people, so nothing of it has
 * to be true. */
static void note_afar(cluster *c, flight *l, const char *id, tp_afar *what, uint64_t ms)
{
    uint64_t now = uv_hrtime();
    worker *w = tp_crew_find(c, id);
    what->taken_ns = l->slice->taken_ns;
    what->since_ns = ms == 0 ? 0 : ms < now / 1000000 ? now - (ms - 1) * 1000000 : 1;
    snprintf(what->host, sizeof what->host, "%s", w ? w->host : "?");
    if (w && what->since_ns)
        tp_signs_begin_box(c, l, w, what->since_ns);
    what->worker = l->box.id;
    tp_agent_tell_afar(&l->agent, &l->afar, what);
}

void tp_signs_take_held(cluster *c, const char *data, size_t len)
{
    uint64_t now = uv_hrtime();
    char *text = strndup(data, len), *rest = text;
    for (char *line; text && (line = strsep(&rest, "\n"));) {
        unsigned long long chunk, item, ms, done, total;
        unsigned sending, waits, maps;
        char id[TP_ID_TEXT];
        int at = 0;
        _Static_assert(TP_ID_TEXT == 33, "the width of %32s");
        flight *l = sscanf(line, "%llu %u %u %32s %llu %llu %u %llu %llu %n", &chunk, &sending,
                           &waits, id, &item, &ms, &maps, &done, &total, &at) == 9 &&
                            at > 0
                        ? tp_fleet_find(c, chunk, sending)
                        : NULL;
        /* nothing but an acknowledgement may be published for it, or nothing */
        if (!l || (line[at] != '-' &&
                   strncmp(line + at, "$JS.ACK." TP_STREAM_W ".", 9 + strlen(TP_STREAM_W)) != 0))
            continue;
        l->held_ns = now;
        tp_fleet_set_blocked(c, l, waits == 1 && now > c->fleet.moved_ns + tp_crew_beats(c, 2));
        tp_blob_drop(&c->server.nats, &l->blob); /* its worker has fetched the payload */
        snprintf(l->ack, sizeof l->ack, "%s", line[at] == '-' ? "" : line + at);
        tp_afar what = { .item = item,
                         .maps = maps,
                         .done = done,
                         .total = total,
                         .compiles = waits == 2 };
        if (maps > 0 && rest && strncmp(rest, "in ", 3) == 0)
            snprintf(what.name, sizeof what.name, "%s", strsep(&rest, "\n") + 3);
        note_afar(c, l, id, &what, ms);
    }
    free(text);
}

/* A worker asks whether this session is alive: answers with a signature. */
static void answer_question(cluster *c, const tp_nats_event *e)
{
    tp_signed_alive a = { .alive = { .magic = TP_ALIVE_MAGIC } };
    if (e->len != TP_ID_BYTES || !*e->reply)
        return;
    memcpy(a.alive.build, c->server.build.id, TP_ID_BYTES);
    memcpy(a.alive.session, c->server.session, TP_ID_BYTES);
    memcpy(a.alive.nonce, e->data, TP_ID_BYTES);
    tp_signer_sign(&c->server.signer, a.signature, &a.alive, sizeof a.alive);
    tp_nats_publish(&c->server.nats, e->reply, NULL, &a, sizeof a);
}

bool tp_signs_take(cluster *c, const tp_nats_event *e)
{
    size_t r = strlen(TP_SUBJECT_R), s = strlen(c->server.session_hex);
    if (e->kind != TP_NATS_MESSAGE)
        return false;
    if (strncmp(e->subject, TP_SUBJECT_HB, strlen(TP_SUBJECT_HB)) == 0)
        tp_crew_see(c, e->subject + strlen(TP_SUBJECT_HB), e->data, e->len);
    else if (strncmp(e->subject, TP_SUBJECT_Q, strlen(TP_SUBJECT_Q)) == 0)
        answer_question(c, e);
    else if (strncmp(e->subject, TP_SUBJECT_R, r) == 0 && strlen(e->subject) > r + s &&
             strcmp(e->subject + r + s, ".held") == 0)
        tp_signs_take_held(c, e->data, e->len);
    else
        return false;
    return true;
}

void tp_signs_hear(void *user)
{
    cluster *c = user;
    for (tp_nats_event *e; (e = tp_nats_take(&c->server.nats, 0));) {
        if (tp_signs_take(c, e)) {
            tp_nats_free(&c->server.nats, e);
            continue;
        }
        tp_nats_events_add(&c->server.later, e);
    }
}

void tp_signs_take_happened(cluster *c, const tp_nats_event *e)
{
    tp_happened head;
    char id[TP_ID_TEXT];
    const uint64_t now = uv_hrtime();
    if (e->len < sizeof head)
        return;
    memcpy(&head, e->data, sizeof head);
    tp_to_hex(id, head.worker, sizeof head.worker);
    flight *l = tp_fleet_find(c, head.chunk, head.sending);
    worker *w = l ? tp_crew_find(c, id) : NULL;
    if (!w || !w->is_same)
        return;
    tp_signs_begin_box(c, l, w, head.ran_ns < now ? now - head.ran_ns : 0);
    /* what another worker says of it, which was sent it, too, is not in its box */
    if (!l->box.id || l->box.of == &w->lanes)
        tp_happened_take(e->data, e->len, l->slice, &l->box, &w->lanes, w->host, &l->happened);
}

void tp_signs_take_output(cluster *c, const char *data, size_t len)
{
    const char *end = data + len;
    const char *nul = len > 2 ? memchr(data + 1, '\0', len - 1) : NULL;
    if (!nul || (*data != '1' && *data != '2') || nul - data > 64)
        return;
    int fd = *data - '0', name = (int)(nul - data - 1);
    const char *p = nul + 1;
    if (!c->base.host->config.tag_lines) {
        tp_host_print(c->base.host, fd, p, (size_t)(end - p));
        return;
    }
    while (p < end) {
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        size_t n = newline ? (size_t)(newline + 1 - p) : (size_t)(end - p);
        char *line = malloc(n + 80);
        if (line) {
            int tag = snprintf(line, 80, "%.*s ", name, data + 1);
            memcpy(line + tag, p, n);
            tp_host_print(c->base.host, fd, line, n + (size_t)tag);
        }
        free(line);
        p += n;
    }
}
