/* process.c: the life of a supervisor's process: how it is started, replaced and ended. */
#include "workers/supervisor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    /* A new process says first which build it is, after some milliseconds. One that has not in
     * SILENT_S is probably another program, and is ended; so is one that is not ready in START_S.
     * After TELL_S users are told what is waited for. */
    SILENT_S = 10,
    START_S = 60,
    TELL_S = 3,
    /* how many processes in a row may end by themselves before they have begun anything */
    STRIKES_MAX = 10,
    /* for how long processes may be killed by somebody before they have begun anything; then the
     * supervisor gives up */
    KILLED_S = 10,
    REST_MS = 50      /* the longest pause between two starts in that case */
};

/* Lets others look at what the process says of itself, if it can be mapped; then nobody does. */
static void show(supervisor *s)
{
    void *control = mmap(NULL, TP_WIRE_CONTROL, PROT_READ, MAP_SHARED, s->out.fd, 0);
    if (control == MAP_FAILED)
        return;
    s->control = control;
    tp_agent_show_inside(s->agent, &s->control->inside, (uint64_t)s->peer.pid);
}

static void hide(supervisor *s)
{
    if (!s->control)
        return;
    tp_agent_show_inside(s->agent, NULL, 0);
    munmap((void *)(uintptr_t)s->control, TP_WIRE_CONTROL);
    s->control = NULL;
}

void tp_process_end(supervisor *s)
{
    if (s->peer.pid == 0)
        return;
    hide(s);
    tp_peer_kill(&s->peer);
    tp_link_read_socket(s);
    tp_link_read_output(s);
    tp_link_end_lines(s);
    tp_peer_close(&s->peer);
    tp_region_close(&s->in);
    tp_region_close(&s->out);
    tp_region_close(&s->asks);
    tp_link_release_permit(s);
    tp_wire_given_free(&s->given);
    tp_wire_held_close(&s->held);
    s->frame_len = 0;
    s->is_away = s->is_poked = false;
    uint32_t late = s->culprit && s->places[s->culprit - 1].is_late ? s->culprit : 0;
    s->beginning = s->culprit = 0;
    for (uint32_t i = 0; s->n_open > 0 && i < s->n_places; i++) {
        place *p = &s->places[i];
        if (p->slice && (tp_place_is_out(p) || i + 1 == late))
            tp_results_time_out(s, &p->slice->work);
        if (p->slice)
            tp_results_finish(s, p);
    }
}

void tp_process_note_early_death(supervisor *s, unsigned strikes)
{
    const char *signal;
    char how[64];
    int code;
    tp_peer_kill(&s->peer);
    tp_peer_describe(&s->peer, how, sizeof how, &signal, &code);
    s->deaths++;
    if (!signal || strcmp(signal, "SIGKILL") != 0 || tp_peer_oom_kills() > s->oom_kills)
        s->strikes += strikes;
    else if (!s->killed_since)
        s->killed_since = uv_hrtime();
}

/* Tells users, once, that there is no answer yet. */
static void tell_waiting(const supervisor *s, const char *path)
{
    char line[4096 + 160];
    if (atomic_exchange_explicit(&s->host->has_told_waiting, true, memory_order_relaxed))
        return;
    int n = snprintf(line, sizeof line,
                     "tidepool: worker processes do not answer: waiting for %s --worker\n", path);
    if (n > 0 && (size_t)n < sizeof line)
        tp_host_print(s->host, 2, line, (size_t)n);
}

/* Sets err when the new process, which was started at that time, has not become ready in time, or
 * is not wanted any more. Returns whether it has. */
static bool is_too_slow(const supervisor *s, const char *path, uint64_t since, tp_error *err)
{
    uint64_t seconds = (uv_hrtime() - since) / 1000000000;
    bool is_silent = tp_control_of(s)->layout == 0;
    if (seconds >= TELL_S)
        tell_waiting(s, path);
    if (tp_engine_is_stopped(s->host->engine))
        tp_error_set(err, TP_ESYS, "cannot start worker processes: the host is being closed");
    else if (is_silent && seconds >= SILENT_S)
        tp_error_set(err, TP_ESYS,
                     "cannot start worker processes: %s --worker has said nothing for %d s. Is it "
                     "Tidepool's program? TIDEPOOL_WORKER, or in C tp_config.worker, names it",
                     path, SILENT_S);
    else if (seconds >= START_S)
        tp_error_set(err, TP_ESYS,
                     "cannot start worker processes: %s --worker was not ready after %d s", path,
                     START_S);
    return err->code != TP_OK;
}

/* Waits until the new process is ready. One that was stopped meanwhile is ended: nobody else
 * would end it, since it runs nothing that has a timeout. */
static int await_ready(supervisor *s, const char *path, tp_error *err)
{
    uint64_t since = uv_hrtime();
    tp_wire_out *c = tp_control_of(s);
    while (atomic_load_explicit(&c->turn, memory_order_acquire) == 0) {
        if (!tp_link_wait(s, LOOK_MS) || tp_peer_is_stopped(&s->peer)) {
            const char *signal;
            char how[64], words[TP_PEER_TAIL + 1];
            tp_link_last_words(s, words);
            int code;
            /* a process that exits during its start will probably do so again */
            tp_process_note_early_death(s, STRIKES_MAX / 2);
            tp_peer_describe(&s->peer, how, sizeof how, &signal, &code);
            return tp_error_set(err, TP_ESYS, "cannot start worker processes: %s --worker %s%s%s",
                                path, how, *words ? ": " : "", words);
        }
        if (is_too_slow(s, path, since, err))
            return -1;
    }
    s->seen = 1;
    char version[sizeof c->version], message[sizeof c->message];
    memcpy(version, c->version, sizeof version);
    memcpy(message, c->message, sizeof message);
    version[sizeof version - 1] = message[sizeof message - 1] = '\0';
    if (c->layout != TP_WIRE_LAYOUT || strcmp(version, TP_VERSION) != 0)
        return tp_error_set(err, TP_ESYS,
                            "cannot start worker processes: %s is another build (%s; this is %s)",
                            path, version, TP_VERSION);
    if (atomic_load_explicit(&c->state, memory_order_relaxed) != TP_WIRE_READY)
        return tp_error_set(err, TP_ESYS, "cannot start worker processes: %s", message);
    return 0;
}

static void close_regions(started *p)
{
    tp_region_close(&p->in);
    tp_region_close(&p->out);
    tp_region_close(&p->asks);
}

/* Starts a process without waiting for its answer. */
static int start(const supervisor *s, started *p, const char *path, tp_error *err)
{
    *p = (started){ 0 };
    if (tp_region_open(&p->in, TP_WIRE_SIZE, err) || tp_region_open(&p->out, TP_WIRE_SIZE, err) ||
        tp_region_open(&p->asks, TP_WIRE_ASK_SIZE, err)) {
        close_regions(p);
        return -1;
    }
    tp_wire_in *in = (tp_wire_in *)(void *)p->in.data;
    *in = (tp_wire_in){ .layout = TP_WIRE_LAYOUT,
                        .host_pid = (int32_t)getpid(),
                        .workers = (uint32_t)s->host->config.workers,
                        .records_from = TP_WIRE_OUT_BEGIN,
                        .data_limit = s->host->data_limit,
                        .is_sampled = s->host->sampler != NULL };
    memcpy(in->modules, s->host->modules, sizeof in->modules);
    memcpy(in->place, s->host->place, sizeof in->place);
    if (tp_peer_start(
            &p->peer, path,
            (int[TP_PEER_SHARED]){ p->in.fd, p->out.fd, tp_array_pool_file(s->host->arrays),
                                   p->asks.fd },
            err) == 0)
        return 0;
    close_regions(p);
    return -1;
}

void tp_process_end_spare(supervisor *s)
{
    started *p = &s->spare;
    if (p->peer.pid == 0)
        return;
    tp_peer_kill(&p->peer);
    tp_peer_close(&p->peer);
    close_regions(p);
}

/* The path of the program to start, found in the buffer `found` if it is not configured; NULL when
 * there is none. */
static const char *program_of(const supervisor *s, char found[4096])
{
    const char *path = s->host->config.worker;
    return path ? path : tp_peer_find(found, 4096) ? found : NULL;
}

void tp_process_start_spare(supervisor *s)
{
    char found[4096];
    const char *path = program_of(s, found);
    tp_error err = { 0 };
    if (!s->wants_spare || s->spare.peer.pid != 0 || s->is_lent)
        return;
    s->wants_spare = false;
    if (path)
        start(s, &s->spare, path, &err);
}

/* Starts a process, or takes the spare one, and waits until it is ready. */
static int try_to_start(supervisor *s, tp_error *err)
{
    char found[4096];
    const char *path = program_of(s, found);
    started p = s->spare;
    if (!path)
        return tp_error_set(err, TP_ESYS,
                            "cannot start worker processes: the program `tidepool` is not where it "
                            "was installed; TIDEPOOL_WORKER, or in C "
                            "tp_config.worker, can name it");
    if (p.peer.pid != 0 && tp_peer_has_ended(&s->spare.peer)) {
        tp_process_end_spare(s);
        p = s->spare;
    }
    if (p.peer.pid == 0 && start(s, &p, path, err))
        return -1;
    s->spare = (started){ 0 };
    s->peer = p.peer;
    s->in = p.in;
    s->out = p.out;
    s->asks = p.asks;
    s->held = (tp_wire_held){ .fd = s->out.fd, .least = TP_WIRE_HELD_LEAST };
    s->is_cramped = false;
    s->records_from = 0;
    /* not when a spare was started: the one whose place it takes may have been killed since */
    s->oom_kills = tp_peer_oom_kills();
    s->turn = s->seen = s->printed = 0;
    s->items = 0;
    if (await_ready(s, path, err)) {
        tp_process_end(s);
        return -1;
    }
    show(s);
    return 0;
}

int tp_process_start(supervisor *s, tp_error *err)
{
    unsigned deaths;
    do {
        deaths = s->deaths;
        if (deaths > STRIKES_MAX)
            uv_sleep(deaths - STRIKES_MAX < REST_MS ? deaths - STRIKES_MAX : REST_MS);
        *err = (tp_error){ 0 };
        if (try_to_start(s, err) == 0)
            return 0;
    } while (s->deaths > deaths && tp_process_may_start(s) &&
             !tp_engine_is_stopped(s->host->engine));
    tp_process_note_begin(s); /* the next try counts from zero */
    return -1;
}

bool tp_process_may_start(const supervisor *s)
{
    return s->strikes < STRIKES_MAX &&
           !(s->killed_since && uv_hrtime() - s->killed_since > KILLED_S * 1000000000ull);
}

void tp_process_note_begin(supervisor *s)
{
    s->deaths = s->strikes = 0;
    s->killed_since = 0;
}

int tp_process_die_out(supervisor *s, tp_error *err)
{
    unsigned deaths = s->deaths;
    tp_process_note_begin(s);
    return tp_error_set(err, TP_ESYS,
                        "worker processes die before they begin anything (%u in a row)", deaths);
}
