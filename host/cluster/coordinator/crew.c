/* crew.c: the workers that a coordinator knows, from what they say of themselves. */
#include "cluster/coordinator/crew.h"

#include "cluster/coordinator/coordinator.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WORKERS_MAX = 32768, /* workers known at most; a power of two */
    OFFERS_MAX = 4096,   /* of one worker */
    GONE_BEATS = 5, /* a worker that has missed so many beats is gone */
    BEATS_A_SECOND = 2000, /* of all workers together, which beat more slowly when they are more */
    BEAT_AGAIN_S = 10, /* how often workers are reminded of their beat */
    DEVICE_FIELDS = 7, /* what a worker says of each device */
    DEVICES_TEXT = 24 << 10
};

static void forget_devices(worker *w)
{
    free(w->devices);
    free(w->memory);
    free(w->device_text);
    free(w->refusals);
    w->refusals = NULL;
    w->n_refusals = 0;
    w->devices = NULL;
    w->memory = NULL;
    w->device_text = NULL;
    w->n_devices = w->kernels = 0;
    w->sites = 0;
}

uint64_t tp_crew_beats(const cluster *c, unsigned n)
{
    return n * c->crew.beat_ms * 1000000ull;
}

bool tp_crew_is_gone(const cluster *c, const worker *w, uint64_t now)
{
    return now > w->seen_ns + tp_crew_beats(c, GONE_BEATS);
}

bool tp_crew_is_heard(const cluster *c, const worker *w, uint64_t now)
{
    return now < w->seen_ns + tp_crew_beats(c, 3) / 2;
}

/* The worker with that id. With `adds` a place for one that is new, which has no id yet: a free
 * one, or that of one that is gone. NULL: there is none. */
static worker *find_worker(cluster *c, const char *id, bool adds)
{
    uint64_t now = adds ? uv_hrtime() : 0;
    worker *room = NULL;
    char digits[8]; /* the first digits of its random id */
    snprintf(digits, sizeof digits, "%s", id);
    unsigned long at = strtoul(digits, NULL, 16);
    for (unsigned i = 0; i < WORKERS_MAX; i++) {
        worker *w = &c->crew.workers[(at + i) % WORKERS_MAX];
        if (!*w->id)
            return room ? room : adds ? w : NULL;
        if (strcmp(w->id, id) == 0)
            return w;
        if (adds && !room && w->out == 0 && tp_crew_is_gone(c, w, now))
            room = w;
    }
    return room;
}

worker *tp_crew_find(cluster *c, const char *id)
{
    return find_worker(c, id, false);
}

void tp_crew_set_offers(cluster *c, worker *w, unsigned offers)
{
    offers = offers < OFFERS_MAX ? offers : OFFERS_MAX;
    if (w->offers == 0 && offers > 0) {
        w->place = c->crew.n_offering;
        c->crew.offering[c->crew.n_offering++] = w;
        c->crew.count_ns = 0;
    } else if (w->offers > 0 && offers == 0) {
        worker *last = c->crew.offering[--c->crew.n_offering];
        last->place = w->place;
        c->crew.offering[w->place] = last;
        c->crew.count_ns = 0;
    }
    c->crew.offers += offers - w->offers;
    w->offers = offers;
}

/* Reads what a worker tells of its devices: a line for each, the best first, with TYPE, 1 or 0
 * (it shares the host's memory), UNITS, MEMORY, NAME, PLATFORM and VENDOR between tabs. */
static void read_devices(worker *w, const char *text)
{
    w->device_text = strdup(text);
    w->devices = calloc(DEVICES_MAX, sizeof *w->devices);
    w->memory = calloc(DEVICES_MAX, sizeof *w->memory);
    if (!w->device_text || !w->devices || !w->memory) {
        forget_devices(w); /* it is told again */
        return;
    }
    char *rest = w->device_text;
    for (char *line; w->n_devices < DEVICES_MAX && (line = strsep(&rest, "\n"));) {
        char *field[DEVICE_FIELDS];
        unsigned n = 0;
        while (n < DEVICE_FIELDS && line)
            field[n++] = strsep(&line, "\t");
        if (n < DEVICE_FIELDS)
            continue;
        for (unsigned k = 0; k < n; k++) /* they are shown to people */
            for (char *p = field[k]; *p; p++)
                *p = iscntrl((unsigned char)*p) ? '?' : *p;
        w->memory[w->n_devices] = strtoull(field[3], NULL, 10);
        w->devices[w->n_devices++] =
            (tp_seen_device){ .type = field[0],
                              .is_unified = *field[1] == '1',
                              .units = (unsigned)strtoul(field[2], NULL, 10),
                              .name = field[4],
                              .platform = field[5],
                              .vendor = field[6] };
    }
}

void tp_crew_see(cluster *c, const char *id, const char *data, size_t len)
{
    char text[DEVICES_TEXT], build[TP_ID_TEXT + 1], host[64], inbox[TP_SUBJECT_MAX / 2];
    unsigned slots, beat_ms;
    int at = 0;
    snprintf(text, sizeof text, "%.*s", (int)(len < sizeof text ? len : sizeof text - 1), data);
    if (strcmp(text, "gone") == 0) {
        worker *dead = find_worker(c, id, false);
        if (dead)
            dead->seen_ns = 1; /* as if it had been silent for long */
        c->crew.count_ns = c->crew.ask_ns = 0;
        return;
    }
    if (!*id || strlen(id) >= TP_ID_TEXT ||
        sscanf(text, "%32s %u %63s %127s %u %n", build, &slots, host, inbox, &beat_ms, &at) != 5 ||
        at == 0)
        return;
    char *devices = strchr(text + at, '\n');
    if (devices)
        *devices++ = '\0';
    worker *w = find_worker(c, id, true);
    if (!w)
        return;
    slots = slots < 1024 ? slots : 1024;
    beat_ms = beat_ms < TP_BEAT_MAX_MS ? beat_ms : TP_BEAT_MAX_MS;
    if (beat_ms > c->crew.beat_ms) /* another coordinator has asked for that */
        c->crew.beat_ms = beat_ms;
    if (strcmp(w->id, id) != 0) {
        if (!*w->id)
            c->crew.known[c->crew.n_known++] = w;
        tp_crew_set_offers(c, w, 0);
        tp_lanes_free(&w->lanes);
        forget_devices(w);
        *w = (worker){ .is_same = strcmp(build, c->server.build.hex) == 0 };
        snprintf(w->id, sizeof w->id, "%s", id);
        snprintf(w->host, sizeof w->host, "%s", host);
        snprintf(w->build, sizeof w->build, "%.90s", text + at);
        /* we will publish to this subject: accept only inboxes of workers, without wildcards */
        if (strncmp(inbox, TP_INBOX_WORKER ".", strlen(TP_INBOX_WORKER) + 1) == 0 &&
            inbox[strspn(inbox, "_.abcdefghijklmnopqrstuvwxyzTPW0123456789")] == '\0')
            snprintf(w->inbox, sizeof w->inbox, "%s", inbox);
        c->crew.count_ns = c->crew.ask_ns = 0;
    }
    if (devices) {
        if (!w->devices && *w->inbox)
            read_devices(w, devices);
        if (w->kernels != slots)
            c->crew.count_ns = 0;
        w->kernels = w->n_devices ? slots : 0;
        slots = 0;
    }
    if (w->slots != slots)
        c->crew.count_ns = 0;
    w->slots = slots;
    w->seen_ns = uv_hrtime();
    if (slots == 0) /* it leaves */
        tp_crew_set_offers(c, w, 0);
}

/* With so many workers, how often shall they show themselves? They never do it more often again:
 * some may not have heard of it. */
static void set_beat(cluster *c, unsigned alive, uint64_t now)
{
    char text[40];
    uint64_t ms = (uint64_t)alive * 1000 / BEATS_A_SECOND;
    ms = ms < TP_BEAT_MAX_MS ? ms : TP_BEAT_MAX_MS;
    bool is_more = ms > c->crew.beat_ms + c->crew.beat_ms / 4;
    if (!is_more && (c->crew.beat_ms == TP_BEAT_MS || now < c->crew.beat_ns))
        return;
    c->crew.beat_ms = is_more ? ms : c->crew.beat_ms;
    c->crew.beat_ns = now + BEAT_AGAIN_S * 1000000000ull;
    int len = snprintf(text, sizeof text, "beat %llu", (unsigned long long)c->crew.beat_ms);
    tp_nats_publish(&c->server.nats, TP_SUBJECT_CTL "all", NULL, text, (size_t)len);
}

bool tp_crew_has_devices(const cluster *c, const worker *w, uint64_t now)
{
    return w->is_same && w->kernels > 0 && !tp_crew_is_gone(c, w, now);
}

bool tp_crew_note_refusal(worker *w, const uint8_t digest[TP_DIGEST_BYTES], const char *why,
                          size_t len)
{
    w->refusals = w->refusals ? w->refusals : calloc(REFUSALS_MAX, sizeof *w->refusals);
    if (!w->refusals)
        return false;
    refusal *r = &w->refusals[w->n_refusals++ % REFUSALS_MAX];
    memcpy(r->image, digest, sizeof r->image);
    snprintf(r->why, sizeof r->why, "%.*s", (int)(len < sizeof r->why ? len : sizeof r->why), why);
    r->said_ns = uv_hrtime();
    return true;
}

const refusal *tp_crew_refusal(const worker *w, const uint8_t digest[TP_DIGEST_BYTES])
{
    for (unsigned i = 0; i < w->n_refusals && i < REFUSALS_MAX; i++)
        if (memcmp(w->refusals[i].image, digest, TP_DIGEST_BYTES) == 0)
            return &w->refusals[i];
    return NULL;
}

bool tp_crew_may_have_more_devices(const cluster *c, uint64_t now)
{
    unsigned workers = 0, drivers = 0; /* each worker has one at the most */
    for (unsigned i = 0; i < c->crew.n_known; i++) {
        const worker *w = c->crew.known[i];
        workers += w->is_same && w->slots > 0 && !tp_crew_is_gone(c, w, now);
        drivers += tp_crew_has_devices(c, w, now);
    }
    return drivers < workers;
}

bool tp_crew_count(cluster *c, uint64_t now)
{
    if (now < c->crew.count_ns)
        return false;
    unsigned alive = 0;
    c->crew.slots = c->crew.queued = 0;
    c->crew.other = NULL;
    for (unsigned i = 0; i < c->crew.n_known; i++) {
        worker *w = c->crew.known[i];
        if (tp_crew_is_gone(c, w, now)) {
            tp_crew_set_offers(c, w, 0);
            continue;
        }
        alive++;
        if (!w->is_same) {
            c->crew.other = w;
            continue;
        }
        c->crew.slots += w->slots;
        if (w->offers == 0)
            c->crew.queued += w->slots;
    }
    c->crew.alive = alive;
    set_beat(c, alive, now);
    c->crew.count_ns = now + LOOK_NS + c->crew.n_known * LOOK_EACH_NS;
    return true;
}

worker *tp_crew_choose(const cluster *c, uint64_t now)
{
    worker *best = NULL;
    for (unsigned i = 0; i < c->crew.n_offering; i++) {
        worker *w = c->crew.offering[i];
        if (w->out < w->offers && tp_crew_is_heard(c, w, now) &&
            (!best || (uint64_t)w->out * best->offers < (uint64_t)best->out * w->offers))
            best = w;
    }
    return best;
}

void tp_crew_ask_for_devices(cluster *c, uint64_t now)
{
    if (now < c->crew.ask_ns)
        return;
    c->crew.ask_ns = now + BEAT_AGAIN_S * 1000000000ull;
    tp_nats_publish(&c->server.nats, TP_SUBJECT_CTL "all", NULL, "devices", 7);
}

void tp_crew_excuse(cluster *c, uint64_t now)
{
    for (unsigned i = 0; i < c->crew.n_known; i++)
        if (!tp_crew_is_gone(c, c->crew.known[i], c->server.lost_ns))
            c->crew.known[i]->seen_ns = now;
}

void tp_crew_reset(cluster *c)
{
    struct crew *r = &c->crew;
    for (unsigned i = 0; i < r->n_known; i++) {
        forget_devices(r->known[i]);
        tp_lanes_free(&r->known[i]->lanes);
        *r->known[i] = (worker){ 0 };
    }
    r->n_known = r->n_offering = r->offers = r->alive = 0;
    r->beat_ms = TP_BEAT_MS;
    r->count_ns = 0;
}

bool tp_crew_open(cluster *c)
{
    struct crew *r = &c->crew;
    r->workers = r->workers ? r->workers : calloc(WORKERS_MAX, sizeof *r->workers);
    r->known = r->known ? r->known : calloc(WORKERS_MAX, sizeof *r->known);
    r->offering = r->offering ? r->offering : calloc(WORKERS_MAX, sizeof *r->offering);
    return r->workers && r->known && r->offering;
}

void tp_crew_close(cluster *c)
{
    struct crew *r = &c->crew;
    for (unsigned i = 0; i < r->n_known; i++) {
        forget_devices(r->known[i]);
        tp_lanes_free(&r->known[i]->lanes);
    }
    free(r->workers);
    free(r->known);
    free(r->offering);
}
