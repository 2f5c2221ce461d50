/* sites.c: where kernels may run: values of the option `gpu`, and the workers with such devices. */
#include "cluster/coordinator/sites.h"

#include "base/amount.h"
#include "cluster/coordinator/coordinator.h"
#include "cluster/exec_cluster.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The workers with devices that the word selects are at the site: among them those with the best
 * kind of them. False: there are none. */
static bool place_word(cluster *c, const tp_device_word *word, uint64_t site, uint64_t now)
{
    bool is_whole = false;
    int best = INT_MAX;
    for (unsigned i = 0; i < c->crew.n_known && !is_whole; i++)
        is_whole =
            tp_crew_has_devices(c, c->crew.known[i], now) &&
            tp_device_word_is_whole(word, c->crew.known[i]->devices, c->crew.known[i]->n_devices);
    for (int is_last = 0; is_last < 2; is_last++)
        for (unsigned i = 0; i < c->crew.n_known; i++) {
            worker *w = c->crew.known[i];
            unsigned found[DEVICES_MAX];
            if (!tp_crew_has_devices(c, w, now) ||
                tp_device_match(word, is_whole, w->devices, w->n_devices, found) < word->wanted)
                continue;
            int rank = tp_device_rank(w->devices[found[0]].type);
            best = rank < best ? rank : best;
            if (is_last && rank == best)
                w->sites |= site;
        }
    return best < INT_MAX;
}

unsigned tp_sites_count(cluster *c)
{
    uv_mutex_lock(&c->lock);
    unsigned n = c->n_words;
    uv_mutex_unlock(&c->lock);
    return n;
}

void tp_sites_find(cluster *c, uint64_t now)
{
    unsigned n = tp_sites_count(c);
    for (unsigned i = 0; i < c->crew.n_known && n > 0; i++)
        c->crew.known[i]->sites = 0;
    for (unsigned k = 0; k < n; k++)
        for (const char *at = c->words[k]; at && *at;) {
            unsigned len = (unsigned)strcspn(at, "\n");
            const tp_device_word word = tp_device_word_read(at, len);
            if (place_word(c, &word, (uint64_t)1 << k, now))
                break;
            at += len + (at[len] == '\n');
        }
}

/* Does the worker have the devices of the site, and was it heard of lately? */
static bool is_for(const cluster *c, const worker *w, uint64_t site, uint64_t now)
{
    return w->sites & site && tp_crew_has_devices(c, w, now) && tp_crew_is_heard(c, w, now);
}

worker *tp_sites_choose(const cluster *c, const flight *l, uint64_t now)
{
    worker *best = NULL;
    for (unsigned i = 0; i < c->crew.n_known; i++) {
        worker *w = c->crew.known[i];
        if (is_for(c, w, l->agent.site, now) && !tp_crew_refusal(w, l->image->digest) &&
            (!best || (uint64_t)w->out * best->kernels < (uint64_t)best->out * w->kernels))
            best = w;
    }
    return best;
}

const char *tp_sites_refusal(const cluster *c, const flight *l, uint64_t now)
{
    const refusal *last = NULL;
    for (unsigned i = 0; i < c->crew.n_known; i++) {
        const worker *w = c->crew.known[i];
        if (!(w->sites & l->agent.site) || !tp_crew_has_devices(c, w, now))
            continue;
        const refusal *r = tp_crew_refusal(w, l->image->digest);
        if (!r)
            return NULL;
        last = last && last->said_ns > r->said_ns ? last : r;
    }
    const bool is_early = last && now < last->said_ns + ALONE_S * 1000000000ull &&
                          tp_crew_may_have_more_devices(c, now);
    return last && !is_early ? last->why : NULL;
}

unsigned tp_sites_room(const cluster *c, uint64_t site, uint64_t now)
{
    unsigned room = 0;
    for (unsigned i = 0; i < c->crew.n_known; i++) {
        const worker *w = c->crew.known[i];
        if (is_for(c, w, site, now) && w->out < w->kernels)
            room += w->kernels - w->out;
    }
    return room;
}

/* Is there a worker at that site? */
static bool is_met(const cluster *c, uint64_t site, uint64_t now)
{
    for (unsigned i = 0; i < c->crew.n_known; i++)
        if (c->crew.known[i]->sites & site && tp_crew_has_devices(c, c->crew.known[i], now))
            return true;
    return false;
}

static bool has_grounded(const cluster *c, uint64_t site)
{
    for (unsigned i = 0; i < c->fleet.n_flights && c->fleet.n_kernels > 0; i++)
        if (c->fleet.flights[i].is_grounded && c->fleet.flights[i].agent.site == site)
            return true;
    return false;
}

/* Adds to a text of `size` bytes, as far as there is room. */
static void add_text(char *text, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void add_text(char *text, size_t size, const char *format, ...)
{
    size_t at = strlen(text);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + at, size - at, format, arguments);
    va_end(arguments);
}

/* Says that there are no devices for these words of an option `gpu`, and which there are. */
static void say_unmet(cluster *c, const char *words, uint64_t now)
{
    char text[4000] = "tidepool: gpu = ";
    const bool is_list = strchr(words, '\n') != NULL;
    bool has_any = false;
    add_text(text, 600, is_list ? "{ " : "");
    for (const char *at = words, *next; *at; at = next) {
        int len = (int)strcspn(at, "\n");
        next = at + len + (at[len] == '\n');
        add_text(text, 600, "\"%.*s\"%s", len, at, *next ? ", " : "");
    }
    add_text(text, 700, "%s: no worker of the cluster has told of such a device yet",
             is_list ? " }" : "");
    for (unsigned i = 0; i < c->crew.n_known; i++) {
        const worker *w = c->crew.known[i];
        for (unsigned k = 0, n; tp_crew_has_devices(c, w, now) && k < w->n_devices; k += n) {
            const tp_seen_device *d = &w->devices[k];
            char memory[TP_AMOUNT_TEXT];
            for (n = 1; k + n < w->n_devices && strcmp(w->devices[k + n].name, d->name) == 0;)
                n++;
            add_text(text, sizeof text - 200, "%s\n  %s (%s, %s, %s), %u on %s",
                     has_any ? "" : "; there are:", d->name, d->type, d->platform,
                     tp_amount_of_bytes(memory, w->memory[k]), n, w->host);
            has_any = true;
        }
    }
    add_text(text, sizeof text, has_any ? "\n" : ", or of any\n");
    tp_cluster_say(c, text);
}

void tp_sites_note(cluster *c, unsigned k, bool has_work, uint64_t now)
{
    const uint64_t site = (uint64_t)1 << k;
    const bool is_unmet = !is_met(c, site, now) && (has_work || has_grounded(c, site));
    c->sites.n_unmet += is_unmet;
    if (!is_unmet) {
        c->sites.unmet_ns[k] = 0;
        c->sites.said &= ~site;
        return;
    }
    c->sites.unmet_ns[k] = c->sites.unmet_ns[k] ? c->sites.unmet_ns[k] : now;
    /* without any worker that is told, and that alone */
    if (c->sites.said & site || c->server.has_lost || c->crew.slots == 0 ||
        now < c->sites.unmet_ns[k] + ALONE_S * 1000000000ull)
        return;
    c->sites.said |= site;
    say_unmet(c, c->words[k], now);
}

void tp_sites_begin(cluster *c)
{
    c->sites.n_unmet = 0;
}
