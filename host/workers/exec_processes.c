/* exec_processes.c: worker processes. Each has a thread in the host, its supervisor, which takes
 * slices for it as a worker thread does.
 *
 * A supervisor sends the items of a slice to its process (wire/frame.h), waits, and reads the
 * results. When the process dies, or the supervisor has ended it because an item ran for too long
 * or is not wanted any more, that costs only the item that was running: results of earlier items
 * were published, later items were not begun and go back to the engine. The running item is known
 * for certain: it is the first without a result.
 *
 * Items that wait beside each other (tp_terms.concurrent) are slices of their own. Each has a place
 * in the process, which runs one of them at a time and shows which. When the process dies or is
 * ended, that one is to blame, and the others go back to the engine. If none ran, those that were
 * there run again with fewer beside them, until one is alone. */
#include "workers/workers.h"

#include "base/invariant.h"
#include "runtime/own_loop.h"
#include "wire/ask.h"
#include "wire/events.h"
#include "wire/frame.h"
#include "wire/peer.h"
#include "workers/pool.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* why a process was ended, for traces */
#define OVERTIME "was ended, since its input ran for too long"
#define UNNEEDED "was ended, since its input is not wanted any more"

enum {
    STACK_BYTES = 256 << 10,
    /* longer than for threads: waking a process and being woken takes some 100 us */
    SLICE_NS = 1000 * 1000,
    SPIN_NS = 100 * 1000,
    /* how often a supervisor checks whether the slice is still wanted, and which item runs */
    LOOK_MS = 5,
    REST_MS = 20, /* the same while its process waits for a queue, and the item may run for ever */
    PATIENCE_NS = 20 * 1000 *
                  1000, /* after a cancellation an item has this long to end by itself */
    /* the same for an item that streams: it is told by the next value that it gives */
    STREAM_PATIENCE_NS = 1000 * 1000 * 1000,
    /* an item that waits and is told to end has this long to do so */
    TOLD_PATIENCE_NS = 1000 * 1000 * 1000,
    /* so long a supervisor waits for a process whose item does not wait: then its slice goes
     * back */
    TURN_PATIENCE_MS = 50,
    START_S = 60,   /* a new process that has said nothing for so long is ended */
    /* so many processes in a row may die before they have begun anything: somebody may kill them */
    STARTS_MAX = 10,
    LEAVE_S = 5,    /* for what a process does before it ends, after it has run everything */
    LENT_BYTES_MAX = 1 << 20, /* more is for the supervisor to copy, not for the owner */
    REQUEST_BYTES_MAX = 4 << 20, /* of long strings, which are copied into a request */
    FRAME_MAX = 1 << 20
};

/* A process that was started; it may not have answered yet. */
typedef struct started {
    tp_peer peer; /* pid 0: there is none */
    tp_region in, out, asks;
    uint64_t oom_kills; /* the system's counter when the process was started */
} started;

/* The supervisor's view of a request that is running, or of a process that ends. */
typedef struct watch {
    tp_slice *slice; /* NULL: none, a process ends when it was idle */
    tp_wire_reader *reader; /* of the request's records; NULL: there is no request */
    uint64_t leave_until;   /* when a process that ends must have done so (uv_hrtime); else 0 */
    uint64_t item_since, unwanted_since; /* uv_hrtime; unwanted_since 0: it is wanted */
    uint32_t item; /* the running item */
} watch;

/* Items that a process is running. */
typedef struct request {
    bool is_open;     /* else it is over, and nothing below means anything */
    uint32_t number;  /* the turn with which it began */
    uint32_t before, count; /* its items, as offsets in their block */
    uint64_t sent_ns;
    tp_wire_reader reader;
    watch watch;
} request;

/* Where the process has an item that waits beside others. */
typedef struct place {
    tp_slice *slice; /* NULL: it is free */
    bool in_place;   /* its results are stored in the job's own arrays */
    bool is_late;    /* it has run for too long */
    uint64_t begun_ns, over_ns, told_ns; /* over_ns: since when it is to end; told_ns: and knows */
} place;

/* A process and its link. The supervisor's own, or the owner's while that acts for it (pool.h); but
 * the process writes `out.data`. */
typedef struct supervisor {
    tp_agent *agent;
    tp_host *host;
    started spare;    /* a second process, which takes the place of the first when that dies */
    bool wants_spare; /* a process had to be replaced, so that may happen again */
    tp_peer peer;
    tp_region in, out, asks;
    tp_wire_given given;
    tp_wire_held held; /* of the process's results */
    bool is_cramped;   /* the process has found no room even for one record */
    request request;
    bool is_lent;     /* the owner acts: no process may be started by its thread */
    uint32_t turn;    /* counts our turns */
    uint32_t seen;    /* the process's last turn that was noticed */
    uint32_t printed; /* its counter of writes when its socket was last read */
    uint64_t waited_ns; /* how long the last request took */
    uint64_t items;   /* how many it has been given */
    uint64_t oom_kills; /* see `started` */
    unsigned deaths;  /* how many processes in a row died without having begun anything */
    bool has_released; /* the slice's permit was released */
    /* ---- items that wait beside each other ---- */
    place *places; /* place i + 1 */
    unsigned n_places, n_open;
    uint32_t beginning; /* the place of the request that the process has not answered; 0: none */
    uint32_t culprit;   /* the place for whose sake the process must be ended; 0: none */
    bool is_away;       /* the process has the turn, and lets them go on */
    bool is_poked;      /* and was asked for it */
    tp_wire_reader away; /* of their records */
    /* held: the function of which the process has a permit besides the slice's */
    tp_func *permit_of;
    uint64_t permit_part[2]; /* tp_terms.part of the item that has it */
    char frame[FRAME_MAX + 8]; /* the part of an output frame that has arrived */
    size_t frame_len;
    tp_wire_events events; /* of the process */
    char line[2][4096]; /* unfinished lines that native code has written to descriptors 1 and 2 */
    size_t line_len[2];
} supervisor;

/* How a request ended. */
typedef enum outcome { DONE, FULL, ASKS, DIED, TIMED_OUT, UNWANTED, GARBAGE } outcome;

static tp_wire_out *control_of(const supervisor *s)
{
    return (tp_wire_out *)(void *)s->out.data;
}

static tp_wire_in *in_of(const supervisor *s)
{
    return (tp_wire_in *)(void *)s->in.data;
}

/* ---- what the process prints ---- */

/* Joins the pieces that native code writes to lines. */
static void print_native(supervisor *s, int which, const char *bytes, size_t len)
{
    if (which == 1)
        tp_peer_keep_tail(&s->peer, bytes, len);
    while (len > 0) {
        const char *newline = memchr(bytes, '\n', len);
        size_t n = newline ? (size_t)(newline + 1 - bytes) : len,
               room = sizeof s->line[which] - s->line_len[which];
        n = n < room ? n : room;
        memcpy(s->line[which] + s->line_len[which], bytes, n);
        s->line_len[which] += n;
        bytes += n;
        len -= n;
        if (s->line[which][s->line_len[which] - 1] == '\n' ||
            s->line_len[which] == sizeof s->line[which]) {
            tp_host_print(s->host, which + 1, s->line[which], s->line_len[which]);
            s->line_len[which] = 0;
        }
    }
}

static void end_lines(supervisor *s)
{
    for (int i = 0; i < 2; i++)
        if (s->line_len[i] > 0) {
            tp_host_print(s->host, i + 1, s->line[i], s->line_len[i]);
            s->line_len[i] = 0;
        }
}

/* Prints the complete frames that have arrived. False when the bytes are no frame. */
static bool take_frames(supervisor *s)
{
    size_t at = 0;
    while (s->frame_len - at >= 8) {
        uint32_t head[2];
        memcpy(head, s->frame + at, sizeof head);
        if (head[0] > TP_WIRE_SAMPLES || head[1] > FRAME_MAX)
            return false;
        if (s->frame_len - at - 8 < head[1])
            break;
        if (head[0] == 2)
            tp_peer_keep_tail(&s->peer, s->frame + at + 8, head[1]);
        if (head[0] == TP_WIRE_EVENTS)
            tp_wire_take_events(&s->events, s->frame + at + 8, head[1]);
        else if (head[0] == TP_WIRE_SAMPLES) {
            if (s->host->sampler)
                s->host->sampler->take(s->frame + at + 8, head[1]);
        } else if (head[0] > 0)
            tp_host_print(s->host, (int)head[0], s->frame + at + 8, head[1]);
        at += 8 + head[1];
    }
    memmove(s->frame, s->frame + at, s->frame_len - at);
    s->frame_len -= at;
    return true;
}

/* Reads what the process has printed. */
static void read_socket(supervisor *s)
{
    s->printed = (uint32_t)atomic_load_explicit(&control_of(s)->printed, memory_order_relaxed);
    for (;;) {
        ssize_t n = read(s->peer.socket, s->frame + s->frame_len, sizeof s->frame - s->frame_len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        s->frame_len += (size_t)n;
        if (!take_frames(s))
            /* users' code has written to our socket: nothing in it can be trusted */
            s->frame_len = 0;
    }
}

static void read_output(supervisor *s)
{
    char bytes[4096];
    for (int i = 0; i < 2; i++)
        for (;;) {
            ssize_t n = read(s->peer.output[i], bytes, sizeof bytes);
            if (n < 0 && errno == EINTR)
                continue;
            if (n <= 0)
                break;
            print_native(s, i, bytes, (size_t)n);
        }
}

/* ---- the life of a process ---- */

/* Permits of functions that other machines run, too; without any there is always one. */
static bool take_far(const supervisor *s, const tp_terms *of, const tp_func *f, bool may_wait)
{
    const tp_far_permits *p = s->host->permits;
    return !p || f->limit == 0 || p->take(p->user, of->part, f, may_wait);
}

static void release_far(const supervisor *s, const uint64_t part[2], const tp_func *f)
{
    const tp_far_permits *p = s->host->permits;
    if (p && f->limit > 0)
        p->release(p->user, part, f);
}

/* The process has a permit of the function, which its item calls. */
static void note_permit(supervisor *s, const tp_terms *of, tp_func *f)
{
    s->permit_of = tp_ref_hold(f);
    memcpy(s->permit_part, of->part, sizeof s->permit_part);
}

static void release_permit(supervisor *s)
{
    if (s->permit_of) {
        tp_func_release_permit(s->host->engine, s->permit_of);
        release_far(s, s->permit_part, s->permit_of);
    }
    tp_ref_drop(s->permit_of);
    s->permit_of = NULL;
}

/* Notes how the process has ended, or why it is being ended. */
static void note_death(const supervisor *s, const char *how)
{
    tp_trace *trace = s->agent->worker.trace;
    if (tp_trace_is_on(trace))
        tp_trace_note(trace, TP_EVENT_DEATH, s->agent->worker.id, 0, (uint64_t)s->peer.pid,
                      tp_trace_name(trace, how, strlen(how)));
}

static void time_out(supervisor *s, tp_work *w);
static void finish_place(supervisor *s, place *p);

/* Has the item failed for having run for too long? One that has not been told so, since another one
 * did not let the process go on, has not. */
static bool is_out(const place *p)
{
    return p->is_late && p->told_ns;
}

/* Ends the process if it still runs, and frees all of it except how it ended. Items that it has at
 * places go back, but those that have run for too long. */
static void end_process(supervisor *s)
{
    if (s->peer.pid == 0)
        return;
    tp_peer_kill(&s->peer);
    read_socket(s);
    read_output(s);
    end_lines(s);
    tp_peer_close(&s->peer);
    tp_region_close(&s->in);
    tp_region_close(&s->out);
    tp_region_close(&s->asks);
    release_permit(s);
    tp_wire_given_free(&s->given);
    tp_wire_held_close(&s->held);
    s->frame_len = 0;
    s->is_away = s->is_poked = false;
    uint32_t late = s->culprit && s->places[s->culprit - 1].is_late ? s->culprit : 0;
    s->beginning = s->culprit = 0;
    for (uint32_t i = 0; s->n_open > 0 && i < s->n_places; i++) {
        place *p = &s->places[i];
        if (p->slice && (is_out(p) || i + 1 == late))
            time_out(s, &p->slice->work);
        if (p->slice)
            finish_place(s, p);
    }
}

static bool wait_for_process(supervisor *s, int timeout_ms);

/* The last line that the process has written to its standard error, or nothing. */
static void get_last_words(const supervisor *s, char words[TP_PEER_TAIL + 1])
{
    const char *end = s->peer.tail + s->peer.tail_len, *line;
    while (end > s->peer.tail && end[-1] == '\n')
        end--;
    line = end;
    while (line > s->peer.tail && line[-1] != '\n')
        line--;
    memcpy(words, line, (size_t)(end - line));
    words[end - line] = '\0';
}

/* Waits until the new process is ready. One that was stopped meanwhile is ended: nobody else
 * would end it, since it runs nothing that has a timeout. */
static int await_ready(supervisor *s, const char *path, tp_error *err)
{
    uint64_t deadline = uv_hrtime() + START_S * 1000000000ull;
    tp_wire_out *c = control_of(s);
    while (atomic_load_explicit(&c->turn, memory_order_acquire) == 0) {
        if (!wait_for_process(s, LOOK_MS) || tp_peer_is_stopped(&s->peer)) {
            const char *signal;
            char how[64], words[TP_PEER_TAIL + 1];
            get_last_words(s, words);
            int code;
            tp_peer_kill(&s->peer);
            tp_peer_describe(&s->peer, how, sizeof how, &signal, &code);
            /* one that ends by itself will do so again */
            s->deaths += signal && strcmp(signal, "SIGKILL") == 0 ? 1 : STARTS_MAX / 2;
            return tp_error_set(err, TP_ESYS, "cannot start worker processes: %s --worker %s%s%s",
                                path, how, *words ? ": " : "", words);
        }
        if (uv_hrtime() > deadline || tp_engine_is_stopped(s->host->engine))
            return tp_error_set(err, TP_ESYS,
                                "cannot start worker processes: %s --worker does not answer", path);
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
    *p = (started){ .oom_kills = tp_peer_oom_kills() };
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

static void end_spare(supervisor *s)
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

/* Starts a spare process while the first one runs its request, since starting takes some
 * milliseconds. If it cannot be started, that is tried again when it is needed. */
static void start_spare(supervisor *s)
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
        end_spare(s);
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
    s->oom_kills = p.oom_kills;
    s->turn = s->seen = s->printed = 0;
    s->items = 0;
    if (await_ready(s, path, err)) {
        end_process(s);
        return -1;
    }
    return 0;
}

/* The same, again when the process dies meanwhile. */
static int start_process(supervisor *s, tp_error *err)
{
    unsigned deaths;
    do {
        deaths = s->deaths;
        *err = (tp_error){ 0 };
        if (try_to_start(s, err) == 0)
            return 0;
    } while (s->deaths > deaths && s->deaths < STARTS_MAX &&
             !tp_engine_is_stopped(s->host->engine));
    return -1;
}

/* ---- turns ---- */

static bool has_turned(const supervisor *s)
{
    return atomic_load_explicit(&control_of(s)->turn, memory_order_acquire) != s->seen;
}

/* Says where the process's next records go, once the ones that there are were read. Gives the
 * offset. */
static uint64_t give_room(supervisor *s)
{
    tp_wire_in *in = in_of(s);
    tp_wire_out *c = control_of(s);
    tp_wire_room room = tp_wire_find_room(&s->held, TP_WIRE_OUT_BEGIN, s->is_cramped);
    s->is_cramped = false;
    atomic_store_explicit(&in->records_from, room.from, memory_order_relaxed);
    atomic_store_explicit(&in->records_until, room.until, memory_order_relaxed);
    atomic_store_explicit(&in->held, room.held, memory_order_relaxed);
    atomic_store_explicit(&c->used, room.from, memory_order_relaxed);
    atomic_store_explicit(&c->open, 0, memory_order_relaxed);
    return room.from;
}

static void wake_process(supervisor *s)
{
    if (atomic_exchange(&control_of(s)->worker_sleeps, 0)) {
        char byte = 0;
        while (send(s->peer.socket, &byte, 1, MSG_NOSIGNAL) < 0 && errno == EINTR)
            ;
    }
}

static void take_turn(supervisor *s)
{
    atomic_store(&in_of(s)->turn, ++s->turn);
    wake_process(s);
}

/* Sleeps until the process does something, or for that time. False when it has ended. */
static bool wait_for_process(supervisor *s, int timeout_ms)
{
    tp_peer *p = &s->peer;
    tp_own_loop *own = s->agent->own_loop;
    struct pollfd fds[] = {
        { .fd = p->socket, .events = POLLIN },
        { .fd = p->output[0], .events = POLLIN },
        { .fd = p->output[1], .events = POLLIN },
        { .fd = p->pidfd, .events = POLLIN },
        { .fd = own ? uv_backend_fd(&own->loop) : -1, .events = POLLIN },
    };
    atomic_store(&control_of(s)->host_sleeps, 1);
    if (atomic_load(&control_of(s)->turn) == s->seen)
        poll(fds, sizeof fds / sizeof *fds, timeout_ms);
    if (fds[4].revents) /* the agent was woken */
        tp_loop_run(&own->loop, &own->bell, &own->timer, UV_RUN_NOWAIT, 0);
    atomic_store_explicit(&control_of(s)->host_sleeps, 0, memory_order_relaxed);
    if (fds[0].revents)
        read_socket(s);
    if (fds[1].revents || fds[2].revents)
        read_output(s);
    bool is_gone = fds[3].revents || (p->pidfd < 0 && fds[0].revents & POLLHUP);
    return !(is_gone && tp_peer_has_ended(p));
}

static void spin(const supervisor *s)
{
    if (s->waited_ns > 4 * SPIN_NS)
        return;
    uint64_t until = uv_hrtime() + SPIN_NS;
    while (uv_hrtime() < until) {
        for (int i = 0; i < 4; i++) {
            if (has_turned(s))
                return;
            tp_relax();
        }
        sched_yield();
    }
}

/* The item that the process says it is running, counted from the request's first. */
static uint32_t running(const supervisor *s)
{
    return (uint32_t)atomic_load_explicit(&control_of(s)->work.ctl[0], memory_order_relaxed);
}

static void open_watch(const supervisor *s, tp_slice *slice, tp_wire_reader *reader, watch *of)
{
    *of = (watch){
        .slice = slice, .reader = reader, .item_since = uv_hrtime(), .item = running(s)
    };
}

/* The place with that number, if there is an item at it. */
static place *find_place(const supervisor *s, uint32_t number)
{
    place *p = number > 0 && number <= s->n_places ? &s->places[number - 1] : NULL;
    return p && p->slice ? p : NULL;
}

/* The place whose item the process says it is running. */
static uint32_t shown(const supervisor *s)
{
    return (uint32_t)atomic_load_explicit(&control_of(s)->shown, memory_order_relaxed);
}

/* May the item not go on, which has had this time to end? One that waits must first be told. While
 * another one runs it cannot even be told that. */
static bool is_overdue(const supervisor *s, const place *p, uint64_t now)
{
    bool runs = shown(s) == (uint32_t)(p - s->places) + 1;
    return now - (p->told_ns ? p->told_ns : p->over_ns) >
           (uint64_t)(runs ? PATIENCE_NS : TOLD_PATIENCE_NS);
}

/* Notes which items that wait beside each other are to end. Not DONE, with the culprit set: one of
 * them does not end, so the process must. */
static outcome look_at_places(supervisor *s, uint64_t now)
{
    bool sees_cancels = s->n_open > 0 && tp_agent_sees_cancels(s->agent);
    for (uint32_t i = 0; s->n_open > 0 && i < s->n_places; i++) {
        place *p = &s->places[i];
        tp_work *w = p->slice ? &p->slice->work : NULL;
        if (!w)
            continue;
        if (!p->over_ns) {
            uint64_t limit = w->terms->timeout_ns;
            p->is_late = limit && now - p->begun_ns >= limit;
            if (p->is_late || (sees_cancels && tp_work_tell_cancelled(w)))
                p->over_ns = now;
        }
        if (p->over_ns && is_overdue(s, p, now)) {
            s->culprit = i + 1;
            return p->is_late ? TIMED_OUT : UNWANTED;
        }
    }
    return DONE;
}

/* Why the running item must be ended; DONE when it need not be. */
static outcome look(supervisor *s, watch *of)
{
    uint64_t now = uv_hrtime();
    outcome o = look_at_places(s, now);
    if (o != DONE || !of->reader)
        return o == DONE && of->leave_until && now > of->leave_until ? UNWANTED : o;
    tp_work *w = &of->slice->work;
    uint64_t limit = w->terms->timeout_ns;
    if (running(s) != of->item) {
        of->item = running(s);
        of->item_since = now;
    }
    if (tp_work_is_asked_to_stop(w))
        atomic_store_explicit(&control_of(s)->work.ctl[1], 1, memory_order_relaxed);
    if (limit && now - of->item_since >= limit && !has_turned(s))
        return TIMED_OUT;
    if (!w->sink->is_cancelled(w))
        of->unwanted_since = 0;
    else if (!of->unwanted_since)
        of->unwanted_since = now;
    else if (now - of->unwanted_since > (w->terms->streams ? STREAM_PATIENCE_NS : PATIENCE_NS))
        return UNWANTED;
    return DONE;
}

/* What the process's turn means. */
static outcome see_turn(supervisor *s)
{
    tp_wire_out *c = control_of(s);
    s->seen++;
    if (atomic_load_explicit(&c->turn, memory_order_acquire) != s->seen)
        return GARBAGE;
    if (atomic_load_explicit(&c->printed, memory_order_relaxed) != s->printed)
        read_socket(s);
    uint32_t state = atomic_load_explicit(&c->state, memory_order_relaxed);
    /* the owner has seen DONE, and does not wait because it says something else now */
    return state == TP_WIRE_DONE   ? DONE
           : s->is_lent            ? GARBAGE
           : state == TP_WIRE_FULL ? FULL
           : state == TP_WIRE_ASKS ? ASKS
                                   : GARBAGE;
}

/* Waits until the process takes a turn. */
static outcome await_outcome(supervisor *s, watch *of)
{
    uint64_t begun = uv_hrtime();
    spin(s);
    while (!has_turned(s)) {
        if (!wait_for_process(s, LOOK_MS)) {
            bool is_done = has_turned(s) &&
                           atomic_load_explicit(&control_of(s)->state, memory_order_relaxed) ==
                               TP_WIRE_DONE;
            if (!is_done)
                return DIED;
            break; /* the process has died while idle, which the next request will find */
        }
        outcome o = look(s, of);
        if (o != DONE)
            return o;
        start_spare(s);
    }
    s->waited_ns = uv_hrtime() - begun;
    return see_turn(s);
}

/* The function that the process names in what it asks for; NULL when that is none. */
static tp_func *asked_of(const supervisor *s)
{
    uint32_t id = atomic_load_explicit(&control_of(s)->asked_of, memory_order_relaxed);
    tp_ref *r = id < s->given.n ? s->given.refs[id] : NULL;
    return r && r->type == &tp_func_type ? (tp_func *)(void *)r : NULL;
}

/* Waits for a permit: the slice's own, or one of f. DONE when it has one, else why the request must
 * end. */
static outcome await_permit(supervisor *s, watch *of, tp_func *f)
{
    const tp_terms *terms = of->slice->work.terms;
    const tp_func *limited = f ? f : tp_job_func(of->slice->job);
    for (bool has_far = false;;) {
        uint64_t until = uv_hrtime() + LOOK_MS * 1000000ull;
        /* First that of all machines: then there is one here, too. Meanwhile others run, which may
         * have those that there are. */
        if (!has_far && s->host->permits && f) {
            tp_job_begin_block(s->agent, false);
            has_far = take_far(s, terms, limited, true);
            tp_job_end_block(s->agent);
        } else if (!has_far) {
            has_far = take_far(s, terms, limited, true);
        }
        bool has_permit = has_far && (f ? tp_slice_take_permit_of(of->slice, f, until)
                                        : tp_slice_take_permit(of->slice, until));
        if (has_permit && f)
            note_permit(s, terms, f);
        if (has_permit && !f)
            s->has_released = false;
        outcome o = tp_peer_has_ended(&s->peer) ? DIED : look(s, of);
        if (has_far && !has_permit && o != DONE)
            release_far(s, terms->part, limited);
        if (has_permit || o != DONE)
            return o;
    }
}

/* ---- stores ---- */

/* What a supervisor that waits for a queue looks at. */
typedef struct wait {
    supervisor *s;
    watch *of;
    outcome why; /* not DONE: the process must end, or has */
} wait;

static bool is_over(void *user)
{
    wait *w = user;
    tp_work *work = w->of->slice ? &w->of->slice->work : NULL;
    w->why = tp_peer_has_ended(&w->s->peer) ? DIED : look(w->s, w->of);
    return w->why != DONE || tp_engine_is_stopped(w->s->host->engine) ||
           (work && !w->of->leave_until && tp_work_tell_cancelled(work));
}

/* A value that was taken out and cannot be given to the process goes back. */
static void give_back(tp_store *store, tp_store_op *op)
{
    if (op->verb == TP_STORE_TAKE && op->moved == TP_MOVED && !tp_store_keeper_of(store)) {
        tp_store_put_back(store, &op->value);
    } else if (op->verb == TP_STORE_TAKE && op->moved == TP_MOVED) {
        op->verb = TP_STORE_PUSH; /* as the last one: others may have taken more since */
        tp_store_perform(store, NULL, op, NULL);
    }
    if (op->verb != TP_STORE_POP || !op->is_done)
        return;
    op->verb = TP_STORE_PUT;
    op->version = 0;
    tp_store_perform(store, NULL, op, NULL);
}

/* Waits for the queue as the process has asked, and does what it has asked for. Meanwhile the
 * process has no permit. DONE, or why the request must end. */
static outcome await_store(supervisor *s, watch *of, tp_store *queue, tp_store_op *op,
                           tp_error *err)
{
    uint64_t now = uv_hrtime(), deadline = op->wait_ns < UINT64_MAX - now ? now + op->wait_ns
                                                                          : UINT64_MAX;
    tp_func *nested = s->permit_of ? tp_ref_hold(s->permit_of) : NULL;
    bool is_far = tp_store_keeper_of(queue); /* then it waits there, a while for each call */
    bool has_own = of->slice && of->slice->has_permit;
    wait w = { s, of, DONE };
    int rc = 0;
    bool is_timed = of->slice && of->slice->work.terms->timeout_ns;
    uint64_t look_ns = (is_timed ? LOOK_MS : REST_MS) * 1000000ull;
    release_permit(s);
    if (has_own)
        release_far(s, of->slice->work.terms->part, tp_job_func(of->slice->job));
    while (rc == 0 && w.why == DONE && op->moved == TP_NOT_YET && uv_hrtime() < deadline) {
        if (is_far && is_over(&w)) {
            op->moved = TP_UNWANTED;
        } else if (is_far) {
            tp_job_begin_block(s->agent, false);
            rc = tp_store_perform(queue, NULL, op, err);
            tp_job_end_block(s->agent);
        } else {
            op->moved = tp_store_await(queue, op->verb == TP_STORE_PUSH, s->agent, deadline,
                                       look_ns, is_over, &w);
            if (w.why == DONE && op->moved == TP_MOVED)
                rc = tp_store_perform(queue, NULL, op, err);
        }
    }
    s->has_released |= has_own;
    /* what is taken for a process that is dead is not lost */
    if (op->moved == TP_MOVED && tp_peer_has_ended(&s->peer)) {
        give_back(queue, op);
        w.why = DIED;
    }
    if (w.why == DONE && has_own)
        w.why = await_permit(s, of, NULL);
    if (w.why == DONE && nested)
        w.why = await_permit(s, of, nested);
    tp_ref_drop(nested);
    return w.why;
}

static bool collect(supervisor *s, tp_work *w, tp_wire_reader *r, bool is_dead, tp_error *err);

/* Gives everything published since the last call to those whose results it is. */
static bool collect_of(supervisor *s, watch *of, tp_error *err)
{
    return of->reader ? collect(s, &of->slice->work, of->reader, false, err)
                      : collect(s, NULL, &s->away, false, err);
}

/* Writes the answer. When the process has been given too much, what it has returned is taken back
 * first; records that name that are read before. -1 with err set when the records are wrong, or
 * there is no memory. */
static int put_answer(supervisor *s, watch *of, tp_store *store, tp_store_op *op,
                      const tp_error *why, tp_error *err)
{
    tp_error refusal = { 0 };
    _Atomic uint64_t *returned = control_of(s)->returned;
    if (tp_wire_put_answer(&s->asks, &s->given, returned, op, why, &refusal) == 0)
        return 0;
    if (refusal.code == TP_ELIMIT) {
        if (!of->leave_until && !collect_of(s, of, err))
            return -1;
        refusal.code = TP_OK;
        returned = control_of(s)->returned; /* it may have moved */
        tp_wire_take_returned(&s->given, returned);
        if (tp_wire_put_answer(&s->asks, &s->given, returned, op, why, &refusal) == 0)
            return 0;
    }
    give_back(store, op);
    return tp_wire_put_answer(&s->asks, &s->given, returned, op, &refusal, err);
}

/* Does what the process asks for with a store. As `answer`. */
static outcome serve_store(supervisor *s, watch *of, tp_error *err)
{
    tp_store_op op;
    tp_store *store;
    char *key;
    tp_error why = { 0 };
    outcome o = GARBAGE;
    if (tp_wire_get_ask(&s->asks, &s->given, &op, &store, &key, err)) {
        o = DONE;
        if (tp_store_perform(store, s->host->stores, &op, &why) == 0 && op.moved == TP_NOT_YET &&
            op.wait_ns > 0)
            o = await_store(s, of, store, &op, &why);
        if (o == DONE)
            o = put_answer(s, of, store, &op, &why, err) ? GARBAGE : ASKS;
    }
    tp_store_op_clear(&op);
    free(key);
    return o;
}

/* Answers a question. */
static void say(const supervisor *s, bool yes)
{
    atomic_store_explicit(&in_of(s)->answer, yes, memory_order_relaxed);
}

/* Does what the process asks for in the name of an item that waits beside others. */
static outcome answer_place(supervisor *s, uint32_t asked)
{
    tp_wire_out *c = control_of(s);
    uint32_t flags = atomic_load_explicit(&c->flags, memory_order_relaxed);
    place *p = find_place(s, atomic_load_explicit(&c->asked_of, memory_order_relaxed));
    if (asked == TP_WIRE_IS_STUCK)
        say(s, tp_engine_is_stuck(s->host->engine, s->agent));
    else if (!p)
        return GARBAGE;
    else if (asked == TP_WIRE_GIVE_WAY)
        tp_slice_give_way(&p->slice->work, flags & 1, flags & 2);
    else if (asked == TP_WIRE_COME_BACK)
        say(s, tp_slice_come_back(&p->slice->work));
    else
        say(s, tp_slice_note_blocking(&p->slice->work,
                                      atomic_load_explicit(&c->number, memory_order_relaxed)));
    return ASKS;
}

/* Does what the process asks for. ASKS: the process may go on; otherwise how the request ended.
 * While this waits for a permit, the process has none. */
static outcome answer(supervisor *s, watch *of, tp_error *err)
{
    uint32_t asked = atomic_load_explicit(&control_of(s)->asked, memory_order_relaxed);
    if (asked == TP_WIRE_PERFORM)
        return serve_store(s, of, err);
    if (of->leave_until)
        return GARBAGE;
    if (asked >= TP_WIRE_GIVE_WAY && asked <= TP_WIRE_IS_STUCK)
        return answer_place(s, asked);
    if (!of->slice)
        return GARBAGE;
    tp_work *w = &of->slice->work;
    tp_func *f = asked_of(s);
    outcome o = DONE;
    if (asked == TP_WIRE_TRY_TAKE && f && !s->permit_of) {
        bool has_far = take_far(s, w->terms, f, false);
        bool has = has_far && tp_slice_take_permit_of(of->slice, f, 0);
        if (has)
            note_permit(s, w->terms, f);
        else if (has_far)
            release_far(s, w->terms->part, f);
        say(s, has);
    } else if (asked == TP_WIRE_RELEASE_OWN) {
        w->sink->release_permit(w);
        if (!s->has_released)
            release_far(s, w->terms->part, tp_job_func(of->slice->job));
        s->has_released = true;
    } else if (asked == TP_WIRE_RELEASE && f && f == s->permit_of) {
        release_permit(s);
    } else if (asked == TP_WIRE_TAKE_OWN) {
        o = await_permit(s, of, NULL);
    } else if (asked == TP_WIRE_TAKE && f && !s->permit_of) {
        o = await_permit(s, of, f);
    } else {
        o = GARBAGE;
    }
    return o == DONE ? ASKS : o;
}

/* Ends an idle process, after it has done what it must. */
static void dismiss(supervisor *s)
{
    if (s->peer.pid != 0 &&
        atomic_load_explicit(&control_of(s)->will_leave, memory_order_relaxed)) {
        tp_error err = { 0 };
        watch of = { .slice = (tp_slice *)(void *)s->agent->worker.current,
                     .leave_until = uv_hrtime() + LEAVE_S * 1000000000ull };
        outcome o = ASKS;
        atomic_fetch_add_explicit(&s->host->leaving, 1, memory_order_relaxed);
        atomic_store_explicit(&in_of(s)->wish, TP_WIRE_LEAVE, memory_order_relaxed);
        while (o == ASKS) {
            take_turn(s);
            o = await_outcome(s, &of);
            if (o == ASKS)
                o = answer(s, &of, &err);
        }
        atomic_fetch_sub_explicit(&s->host->leaving, 1, memory_order_relaxed);
    }
    end_process(s);
}

/* ---- requests ---- */

/* The item at the place is over, or goes back. */
static void finish_place(supervisor *s, place *p)
{
    tp_slice *slice = p->slice;
    tp_work *w = &slice->work;
    p->slice = NULL;
    s->n_open--;
    s->agent->worker.n_waiting--;
    tp_work_note(w, TP_EVENT_ITEM_END, w->offset, w->at - w->offset);
    tp_work_enter(w);
    tp_job_finish(slice);
    if (s->n_open == 0)
        tp_agent_set_full(s->agent, false);
}

/* Gives results that have come to the items of places; to w what is of none. */
static bool read_records(supervisor *s, tp_work *w, tp_wire_reader *r, uint64_t from,
                         uint64_t until, tp_error *err)
{
    while (from < until) {
        uint32_t number = 0;
        uint64_t end;
        if (!tp_wire_find_place(r, from, until, &number, &end, err))
            return false;
        place *p = find_place(s, number);
        if (number ? !p : !w) {
            tp_error_set(err, TP_EUSAGE, "it has written nonsense where its results lie: results "
                                         "of no item");
            return false;
        }
        if (!p) {
            if (!tp_wire_read(r, w, from, end, err))
                return false;
        } else if (is_out(p)) {
            time_out(s, &p->slice->work);
        } else {
            tp_work *of = &p->slice->work;
            tp_wire_reader one = { .base = r->base,
                                   .size = r->size,
                                   .first = of->at,
                                   .count = 1,
                                   .in_place = p->in_place,
                                   .given = r->given,
                                   .held = r->held };
            if (!tp_wire_read(&one, of, from, end, err))
                return false;
        }
        if (p)
            finish_place(s, p);
        from = end;
    }
    return true;
}

/* Gives the sink everything published since the last call. */
static bool collect(supervisor *s, tp_work *w, tp_wire_reader *r, bool is_dead, tp_error *err)
{
    tp_wire_out *c = control_of(s);
    uint64_t until = atomic_load_explicit(&c->used, memory_order_acquire),
             open = atomic_load_explicit(&c->open, memory_order_relaxed);
    uint32_t item = running(s);
    if (is_dead ? tp_region_follow(&s->out, s->out.size + 1, NULL),
        false   : tp_region_follow(&s->out, until, err))
        return false;
    r->base = s->out.data;
    r->size = s->out.size;
    uint64_t from = r->from;
    r->from = until;
    s->is_cramped = until == from;
    if (w && s->n_open == 0 ? !tp_wire_read(r, w, from, until, err)
                            : !read_records(s, w, r, from, until, err))
        return false;
    return !w || !is_dead || open != until || tp_wire_read_open(r, w, open, item, err);
}

/* The next item has failed with its process, not by an error of its own. */
static void fail(supervisor *s, tp_work *w, tp_failure_kind kind, const char *message)
{
    const tp_peer *p = &s->peer;
    tp_block *b =
        tp_block_new_crash(kind, message, p->tail, p->tail_len, w->attempt, s->agent->worker.index);
    if (b) {
        b->may_retry = tp_failure_kind_may_retry(kind);
        b->is_crash = kind == TP_KIND_CRASH;
    }
    tp_work_fail(w, b);
}

static double number_of(const tp_work *w)
{
    return (double)(w->terms->base + w->block->first + w->at + 1);
}

/* Did the process die because memory ran out? Then `why` says how. */
static bool had_no_memory(const supervisor *s, const tp_work *w, uint32_t item, const char *signal,
                          int code, char *why, size_t size)
{
    *why = '\0';
    if (code == TP_CHILD_NO_MEMORY)
        return true;
    if (atomic_load_explicit(&control_of(s)->refused, memory_order_relaxed) == 1 + item) {
        snprintf(why, size,
                 ", when there was no memory for it (the option `memory` lets a worker of this "
                 "function have %.4g MiB)",
                 (double)w->terms->memory / (1 << 20));
        return w->terms->memory > 0;
    }
    if (!signal || strcmp(signal, "SIGKILL") != 0 || tp_peer_oom_kills() <= s->oom_kills)
        return false;
    snprintf(why, size, ": the system had no memory left");
    return true;
}

/* The process has died. The item that ran, which is the first without a result, gets the failure.
 * `item` is its number for the process: in its request, or its place. */
static void blame(supervisor *s, tp_work *w, uint32_t item, const char *garbage)
{
    char how[64], words[TP_PEER_TAIL + 1], message[TP_PEER_TAIL + 300], why[160];
    const char *signal;
    int code;
    tp_peer_kill(&s->peer);
    read_socket(s);
    read_output(s);
    tp_peer_describe(&s->peer, how, sizeof how, &signal, &code);
    note_death(s, how);
    get_last_words(s, words);
    bool is_starved = !garbage && had_no_memory(s, w, item, signal, code, why, sizeof why);
    if (garbage)
        snprintf(message, sizeof message, "worker process was ended during input %.0f: %s",
                 number_of(w), garbage);
    else if (code == TP_CHILD_NO_THREAD)
        snprintf(message, sizeof message, "worker thread ended during input %.0f", number_of(w));
    else
        snprintf(message, sizeof message, "worker process %s during input %.0f%s%s%s", how,
                 number_of(w), is_starved ? why : "", *words ? ": " : "", words);
    fail(s, w, is_starved ? TP_KIND_MEMORY : TP_KIND_CRASH, message);
}

static void time_out(supervisor *s, tp_work *w)
{
    char message[120];
    snprintf(message, sizeof message, "input %.0f ran for more than %g s", number_of(w),
             (double)w->terms->timeout_ns * 1e-9);
    fail(s, w, TP_KIND_TIMEOUT, message);
}

static int die_out(supervisor *s, tp_error *err)
{
    unsigned deaths = s->deaths;
    s->deaths = 0;
    return tp_error_set(err, TP_ESYS,
                        "worker processes die before they begin anything (%u in a row)", deaths);
}

/* ---- items that wait beside each other ---- */

/* The process must be ended, or has died, and runs no request, or is not at fault with that. Who
 * is: the culprit that was found, the item that is shown as running, the one that was to begin, or
 * the only one. When nobody knows, each of them may be it. */
static void lose_places(supervisor *s, outcome o, const char *why)
{
    tp_error err = { 0 };
    const tp_wire_out *c = control_of(s);
    bool was_begun = s->beginning &&
                     atomic_load_explicit(&c->begun, memory_order_relaxed) == s->turn;
    uint32_t guilty = s->culprit ? s->culprit : shown(s);
    const char *garbage = o != GARBAGE ? NULL
                          : why && *why ? why
                                        : "it has written nonsense where its turns are counted";
    if (o != GARBAGE && s->is_away)
        collect(s, NULL, &s->away, false, &err); /* what was published counts */
    if (!find_place(s, guilty))
        guilty = was_begun && find_place(s, s->beginning) ? s->beginning : 0;
    unsigned n = s->n_open - (s->beginning && !was_begun && find_place(s, s->beginning));
    s->deaths += o == DIED && s->beginning && !was_begun;
    if (o == TIMED_OUT || o == UNWANTED)
        note_death(s, o == TIMED_OUT ? OVERTIME : UNNEEDED);
    for (uint32_t i = 0; i < s->n_places; i++) {
        place *p = &s->places[i];
        bool is_known = guilty > 0, is_new = i + 1 == s->beginning && !was_begun;
        uint32_t apart = p->slice ? tp_slice_apart(p->slice) : 0;
        if (!p->slice || is_out(p) || o == TIMED_OUT || o == UNWANTED || is_new)
            continue;
        if (i + 1 == guilty || (!is_known && (n == 1 || apart == 1)))
            blame(s, &p->slice->work, i + 1, garbage);
        else if (!is_known)
            tp_slice_set_apart(p->slice, (apart && apart < n ? apart : n) / 2 + (!apart && n % 2));
    }
    end_process(s);
}

/* The host's turn is over. */
static void hand_over(supervisor *s, tp_wire_wish wish)
{
    s->away =
        (tp_wire_reader){ .given = &s->given, .held = &s->held, .from = give_room(s) };
    s->culprit = 0;
    s->is_away = true;
    s->is_poked = false;
    atomic_store_explicit(&in_of(s)->poked, 0, memory_order_relaxed);
    atomic_store_explicit(&in_of(s)->wish, wish, memory_order_relaxed);
    take_turn(s);
}

/* The process has done what it was to do, or gives the turn back. */
static void come_back(supervisor *s)
{
    uint32_t starved = atomic_exchange_explicit(&control_of(s)->starved, 0, memory_order_relaxed);
    place *p = find_place(s, starved ? starved - 1 : 0);
    s->is_away = false;
    s->beginning = 0;
    s->deaths = 0;
    if (!p)
        return;
    p->slice->work.sink->starve(&p->slice->work);
    finish_place(s, p);
}

/* While the process has the turn: waits for it, but not beyond a time, and does what it asks
 * for. */
static void attend(supervisor *s, uint64_t until_ns)
{
    tp_error err = { 0 };
    uint64_t now = uv_hrtime(), ms = until_ns > now ? (until_ns - now) / 1000000 + 1 : 0;
    outcome o = DONE;
    if (!has_turned(s) && !wait_for_process(s, ms < LOOK_MS ? (int)ms : LOOK_MS) &&
        !has_turned(s))
        o = DIED;
    if (o == DONE && has_turned(s)) {
        place *p = find_place(s, shown(s));
        watch of = { .slice = p ? p->slice : NULL };
        o = see_turn(s);
        if (o == ASKS) {
            if (p)
                tp_work_enter(&p->slice->work);
            o = answer(s, &of, &err);
            if (p)
                tp_work_leave(&p->slice->work);
            if (o == ASKS)
                take_turn(s);
        } else if (o != GARBAGE && !collect(s, NULL, &s->away, false, &err)) {
            o = GARBAGE;
        } else if (o == FULL) {
            hand_over(s, TP_WIRE_GO_ON);
        } else if (o == DONE) {
            come_back(s);
        }
        o = o == ASKS || o == FULL ? DONE : o;
    }
    if (o == DONE)
        o = look_at_places(s, uv_hrtime());
    if (o != DONE)
        lose_places(s, o, err.message);
}

/* Asks the process for the turn. */
static void poke(supervisor *s)
{
    if (s->is_poked || !s->is_away)
        return;
    s->is_poked = true;
    atomic_store(&in_of(s)->poked, 1);
    wake_process(s);
}

/* Waits until the host has the turn, or there is no process. False when an item of the process
 * takes too long over it. */
static bool get_turn(supervisor *s)
{
    uint64_t until = uv_hrtime() + TURN_PATIENCE_MS * 1000000ull;
    while (s->is_away && uv_hrtime() < until) {
        poke(s);
        attend(s, until);
    }
    return !s->is_away;
}

/* Lets the items go on. Those that are to end are told so. */
static void give_turn(supervisor *s)
{
    for (uint32_t i = 0; i < s->n_places && !s->is_away; i++) {
        place *p = &s->places[i];
        if (!p->slice || !p->over_ns || p->told_ns)
            continue;
        p->told_ns = uv_hrtime();
        atomic_store_explicit(&in_of(s)->stopped, i + 1, memory_order_relaxed);
        hand_over(s, TP_WIRE_STOP);
        while (s->is_away)
            attend(s, UINT64_MAX);
    }
    if (s->n_open > 0 && !s->is_away)
        hand_over(s, TP_WIRE_GO_ON);
}

/* A free place for the slice; 0 when out of memory. */
static uint32_t take_place(supervisor *s, tp_slice *slice, bool in_place)
{
    uint32_t i = 0;
    while (i < s->n_places && s->places[i].slice)
        i++;
    if (i == s->n_places) {
        unsigned n = s->n_places ? 2 * s->n_places : 16;
        place *more = realloc(s->places, n * sizeof *more);
        if (!more)
            return 0;
        memset(more + s->n_places, 0, (n - s->n_places) * sizeof *more);
        s->places = more;
        s->n_places = n;
    }
    s->places[i] = (place){ .slice = slice, .in_place = in_place, .begun_ns = uv_hrtime() };
    s->n_open++;
    s->agent->worker.n_waiting++;
    return i + 1;
}

/* The place that take_place would give; 0: it would have to make some. */
static uint32_t next_place(const supervisor *s)
{
    uint32_t i = 0;
    while (i < s->n_places && s->places[i].slice)
        i++;
    return i + 1;
}

/* Begins the slice's item in the process, which runs it up to its first wait. The result is for the
 * pool. */
static int begin_at_place(supervisor *s, tp_slice *slice, tp_error *err)
{
    tp_work *w = &slice->work;
    tp_error why = { 0 };
    bool in_place = false;
    uint64_t recycle = w->terms->recycle;
    if (tp_work_is_asked_to_stop(w) || !get_turn(s))
        return 0;
    if (recycle && s->items >= recycle && s->n_open == 0)
        dismiss(s);
    if (s->deaths >= STARTS_MAX)
        return die_out(s, err);
    if (s->peer.pid == 0) {
        if (start_process(s, err))
            return tp_engine_is_stopped(s->host->engine) ? 0 : -1;
        s->wants_spare = true;
    }
    if (tp_own_loop_open(s->agent, err))
        return -1;
    s->agent->own_loop->loop.data = s;
    if (s->n_open == 0) {
        s->peer.tail_len = 0;
        s->events = (tp_wire_events){ s->agent->worker.trace, s->agent->worker.id,
                                      (uint64_t)s->peer.pid, uv_hrtime() };
        tp_trace_note(s->events.to, TP_EVENT_PROCESS, s->events.worker, 0, s->events.pid, 0);
        atomic_store_explicit(&control_of(s)->refused, 0, memory_order_relaxed);
    }
    tp_wire_take_returned(&s->given, control_of(s)->returned);
    if (tp_wire_put_request(&s->in, &s->given, w, 1, &s->agent->worker, next_place(s), &in_place,
                            &why)) {
        if (why.code != TP_ELIMIT)
            fail(s, w, tp_failure_kind_of(why.code, TP_KIND_CODEC), why.message);
        else if (s->n_open > 0) /* it goes back, until there is another process */
            tp_agent_set_full(s->agent, true);
        else
            end_process(s);
        return 0;
    }
    uint32_t number = take_place(s, slice, in_place);
    if (!number) {
        w->sink->starve(w);
        return 0;
    }
    s->beginning = number;
    s->items++;
    tp_work_note(w, TP_EVENT_ITEM, w->at, 1);
    tp_work_leave(w);
    hand_over(s, TP_WIRE_REQUEST);
    uint64_t begun = uv_hrtime();
    spin(s);
    while (s->is_away)
        attend(s, UINT64_MAX);
    s->waited_ns = uv_hrtime() - begun;
    start_spare(s);
    if (recycle && s->items >= recycle && s->n_open > 0)
        tp_agent_set_full(s->agent, true);
    return TP_POOL_GOES_ON;
}

/* see tp_job_sleep */
static void wait_for_news(tp_agent *agent, uint64_t until_ns)
{
    supervisor *s = agent->own_loop->loop.data;
    uint64_t now = uv_hrtime(), ms = until_ns > now ? (until_ns - now) / 1000000 + 1 : 0;
    wait_for_process(s, ms < LOOK_MS ? (int)ms : LOOK_MS);
}

/* see tp_pool_kind */
static void turn(void *state, uint64_t deadline_ns)
{
    supervisor *s = state;
    uint64_t now = uv_hrtime(), look_ns = now + LOOK_MS * 1000000ull;
    give_turn(s);
    if (s->n_open == 0)
        return;
    if (deadline_ns > now && !has_turned(s))
        tp_job_sleep(s->agent, NULL, NULL, 0, deadline_ns < look_ns ? deadline_ns : look_ns,
                     wait_for_news);
    attend(s, 0);
    for (uint32_t i = 0; i < s->n_places && s->is_away && !s->is_poked; i++) {
        const place *p = &s->places[i];
        /* it is to be told to end, or may have a permit now */
        if (p->slice && (p->slice->is_in_line || (p->over_ns && !p->told_ns)))
            poke(s);
    }
}

/* ---- requests of items one after the other ---- */

/* Notes how long the request's items ran: so that the way there and back does not count, which
 * takes longer than many small items. */
static void note_time(const supervisor *s, tp_slice *slice, uint64_t sent_ns)
{
    uint64_t ran_ns = atomic_load_explicit(&control_of(s)->ran_ns, memory_order_relaxed),
             most_ns = uv_hrtime() - sent_ns;
    slice->ran_ns += ran_ns < most_ns ? ran_ns : most_ns;
}

/* Has the process begin up to `count` items from w->at on: opens the request. What cannot be sent
 * fails at once. */
static void begin_request(supervisor *s, tp_slice *slice, uint32_t count)
{
    tp_work *w = &slice->work;
    tp_error why = { 0 };
    tp_wire_out *c = control_of(s);
    request *q = &s->request;
    uint32_t fitting = w->terms->batch ? count : tp_wire_fitting(w, count, REQUEST_BYTES_MAX);
    if (fitting < count)
        count = fitting > 0 ? fitting : 1;
    s->events = (tp_wire_events){ s->agent->worker.trace, s->agent->worker.id,
                                  (uint64_t)s->peer.pid, uv_hrtime() };
    tp_trace_note(s->events.to, TP_EVENT_PROCESS, s->events.worker, 0, s->events.pid, 0);
    tp_work_note(w, TP_EVENT_BEGIN, w->at, count);
    *q = (request){ .number = s->turn + 1, .before = w->at, .count = count };
    q->reader = (tp_wire_reader){ .count = count,
                                  .given = &s->given,
                                  .held = &s->held,
                                  .first = w->at };
    s->peer.tail_len = 0; /* it is what earlier items have written */
    tp_wire_take_returned(&s->given, c->returned);
    if (tp_wire_put_request(&s->in, &s->given, w, count, &s->agent->worker, 0,
                            &q->reader.in_place,
                            &why)) {
        if (why.code == TP_ELIMIT)
            end_process(s);
        else
            fail(s, w, tp_failure_kind_of(why.code, TP_KIND_CODEC), why.message);
        tp_work_note(w, TP_EVENT_END, q->before, w->at - q->before);
        return;
    }
    q->reader.from = give_room(s);
    atomic_store_explicit(&c->starved, 0, memory_order_relaxed);
    atomic_store_explicit(&c->refused, 0, memory_order_relaxed);
    atomic_store_explicit(&c->work.ctl[0], 0, memory_order_relaxed);
    atomic_store_explicit(&c->work.ctl[1], 0, memory_order_relaxed);
    s->items += count;
    open_watch(s, slice, &q->reader, &q->watch);
    q->sent_ns = q->watch.item_since;
    q->is_open = true;
    atomic_store_explicit(&in_of(s)->wish, TP_WIRE_REQUEST, memory_order_relaxed);
    s->culprit = 0;
    take_turn(s);
}

/* Waits until the open request is over, and gives its results to the sink. False with err set when
 * the worker cannot go on. */
static bool end_request(supervisor *s, tp_slice *slice, tp_error *err)
{
    tp_work *w = &slice->work;
    tp_error why = { 0 };
    tp_wire_out *c;
    request *q = &s->request;
    tp_wire_reader *r = &q->reader;
    uint32_t before = q->before, count = q->count;
    outcome o;
    bool is_right = true;
    q->is_open = false;
    for (;;) {
        if (s->items > count) /* the first results of a process must not wait for this */
            start_spare(s);
        o = await_outcome(s, &q->watch);
        if (o == ASKS)
            o = answer(s, &q->watch, &why);
        is_right = o != GARBAGE || why.code != TP_EMEMORY; /* that was our memory */
        if (o == FULL) {
            is_right = collect(s, w, r, false, &why);
            r->from = give_room(s);
            c = control_of(s);
            if (tp_work_is_asked_to_stop(w))
                atomic_store_explicit(&c->work.ctl[1], 1, memory_order_relaxed);
            /* some of the item's time went to waiting for the reader of its values */
            if (w->terms->streams)
                q->watch.item_since = uv_hrtime();
        }
        if ((o != FULL && o != ASKS) || !is_right)
            break;
        take_turn(s);
    }
    release_permit(s); /* if the process has not released it */
    if (is_right && o != GARBAGE && o != UNWANTED)
        is_right = collect(s, w, r, o != DONE, &why);
    c = control_of(s);
    if (o != DONE && (s->culprit || find_place(s, shown(s)))) {
        lose_places(s, o, why.message);
        return true;
    }
    if (o == UNWANTED) {
        note_death(s, UNNEEDED);
        end_process(s);
        return true;
    }
    if (!is_right && why.code == TP_EMEMORY) {
        w->sink->starve(w);
        end_process(s);
        return true;
    }
    bool has_items = w->at < before + count;
    if (o == DONE && is_right && has_items &&
        atomic_load_explicit(&c->starved, memory_order_relaxed)) {
        w->sink->starve(w);
        return true;
    }
    if (o == DONE && is_right && has_items && !tp_work_is_asked_to_stop(w) && w->at == before) {
        is_right = false;
        tp_error_set(&why, TP_EUSAGE, "it has run nothing of what it was to run");
    }
    if (o == DONE && is_right) {
        s->deaths = 0;
        note_time(s, slice, q->sent_ns);
        return true;
    }
    /* the process was dead already, or died before it began */
    if (o == DIED && atomic_load_explicit(&c->begun, memory_order_relaxed) != q->number) {
        end_process(s);
        return ++s->deaths < STARTS_MAX || die_out(s, err) == 0;
    }
    s->deaths = 0;
    const char *garbage = is_right && o != GARBAGE ? NULL
                          : why.code == TP_OK
                              ? "it has written nonsense where its turns are counted"
                              : why.message;
    uint32_t over = before;
    while (w->at < before + count && w->at >= over && !tp_work_tear(w, before + count)) {
        over = w->at + 1;
        if (o == TIMED_OUT) {
            note_death(s, OVERTIME);
            time_out(s, w);
        } else
            blame(s, w, w->at - before, garbage);
        /* one item has failed; of a batch all that were called together fail */
        if (!w->terms->batch)
            break;
    }
    end_process(s);
    return true;
}

/* Makes sure that there is a process, with the slice's permit and items left. -1 with err set when
 * there can be none. */
static int prepare(supervisor *s, tp_slice *slice, tp_error *err)
{
    uint64_t recycle = slice->work.terms->recycle;
    if (recycle && s->items >= recycle && s->n_open == 0)
        dismiss(s);
    if (s->peer.pid == 0) {
        if (start_process(s, err))
            return -1;
        s->wants_spare = true;
    }
    if (s->has_released) { /* released by a process that is gone */
        s->has_released = false;
        tp_slice_take_permit(slice, UINT64_MAX);
    }
    return 0;
}

static int run_slice(void *state, tp_slice *slice, tp_error *err)
{
    supervisor *s = state;
    tp_work *w = &slice->work;
    if (w->block->kind == TP_BLOCK_FAILURE) {
        tp_work_pass_failure(w);
        return 0;
    }
    if (w->terms->concurrent)
        return begin_at_place(s, slice, err);
    if (!get_turn(s))
        return 0;
    uint32_t end = tp_work_end(w);
    while (s->request.is_open || (w->at < end && !tp_work_is_asked_to_stop(w))) {
        if (!s->request.is_open) {
            if (prepare(s, slice, err))
                return tp_engine_is_stopped(s->host->engine) ? 0 : -1;
            uint64_t recycle = w->terms->recycle,
                     left = recycle > s->items ? recycle - s->items : UINT64_MAX;
            begin_request(s, slice, end - w->at < left ? end - w->at : (uint32_t)left);
        }
        uint32_t before = s->request.before;
        if (s->request.is_open) {
            bool can_go_on = end_request(s, slice, err);
            tp_work_note(w, TP_EVENT_END, before, w->at - before);
            if (!can_go_on)
                return -1;
        }
        /* let others have the rest, which is sooner */
        if (w->is_torn || (w->at < end && w->at > before && s->peer.pid == 0))
            break;
    }
    return 0;
}

/* ---- on the owner's thread ---- */

static bool begin_slice(void *state, tp_slice *slice)
{
    supervisor *s = state;
    const tp_work *w = &slice->work;
    if (w->block->kind == TP_BLOCK_FAILURE || s->peer.pid == 0 || s->has_released ||
        w->terms->recycle || w->terms->streams || w->terms->concurrent ||
        tp_block_size(w->block) > LENT_BYTES_MAX ||
        tp_wire_fitting(w, w->count, LENT_BYTES_MAX) < w->count)
        return false;
    begin_request(s, slice, w->count);
    return s->request.is_open;
}

static bool is_request_over(void *state)
{
    const supervisor *s = state;
    return has_turned(s) && atomic_load_explicit(&control_of(s)->state, memory_order_relaxed) ==
                                TP_WIRE_DONE;
}

static bool end_slice(void *state, tp_slice *slice)
{
    supervisor *s = state;
    const tp_work *w = &slice->work;
    tp_error err = { 0 }; /* is not set: the process lives */
    uint32_t before = s->request.before;
    if (atomic_load_explicit(&control_of(s)->used, memory_order_relaxed) > LENT_BYTES_MAX)
        return false;
    s->is_lent = true;
    end_request(s, slice, &err);
    s->is_lent = false;
    tp_work_note(w, TP_EVENT_END, before, w->at - before);
    return w->at == tp_work_end(w) || tp_work_is_asked_to_stop(w) || w->is_torn;
}

/* ---- the executor ---- */

static int open_supervisor(void **state, tp_agent *agent, tp_error *err)
{
    supervisor *s = calloc(1, sizeof *s);
    if (!s)
        return tp_error_oom(err, "worker process");
    s->agent = agent;
    s->host = agent->executor->host;
    agent->worker.tags_lines = s->host->config.tag_lines;
    if (start_process(s, err)) {
        free(s);
        return -1;
    }
    *state = s;
    return 0;
}

static void close_supervisor(void *state)
{
    supervisor *s = state;
    while (s->n_open > 0)
        turn(s, UINT64_MAX);
    dismiss(s);
    end_spare(s);
    free(s->places);
    free(s);
}

static const tp_pool_kind processes = {
    .what = "worker processes",
    .stack_bytes = STACK_BYTES,
    .open = open_supervisor,
    .run = run_slice,
    .turn = turn,
    .close = close_supervisor,
    .begin = begin_slice,
    .is_over = is_request_over,
    .end = end_slice,
};

static int open_executor(tp_executor **out, tp_host *host, tp_error *err)
{
    return tp_pool_open(out, host, &tp_exec_processes, &processes, err);
}

static void start_workers(tp_executor *ex, unsigned n)
{
    /* in a worker process the worker that waits for these jobs runs them */
    if (!ex->host->is_child)
        tp_pool_start(ex, n);
}

const tp_executor_type tp_exec_processes = {
    .name = "processes",
    .summary = "worker processes",
    .capabilities = TP_CAN_KILL | TP_ISOLATED | TP_RUNS_LUA | TP_BOUNDS_MEMORY | TP_STREAMS |
                    TP_INTERLEAVES,
    .slice_ns = SLICE_NS,
    .open = open_executor,
    .start = start_workers,
    .begin_assist = tp_pool_begin_assist,
    .assist = tp_pool_assist,
    .end_assist = tp_pool_end_assist,
    .stop = tp_pool_stop,
    .close = tp_pool_close,
};
