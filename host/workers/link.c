/* link.c: the link with a process: whose turn it is, waiting for it, where it writes, and what it
 * prints. */
#include "workers/supervisor.h"

#include "runtime/own_loop.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SPIN_NS = 100 * 1000 };

/* ---- what it prints ---- */

/* Prints what native code has written, line by line: joins the pieces of a line. */
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

void tp_link_end_lines(supervisor *s)
{
    for (int i = 0; i < 2; i++)
        if (s->line_len[i] > 0) {
            tp_host_print(s->host, i + 1, s->line[i], s->line_len[i]);
            s->line_len[i] = 0;
        }
}

/* tp_wire_events.built: one of its items has had a program made. Of several that wait beside each
 * other nobody knows which. */
static void note_build(void *user, const tp_job_build *b)
{
    supervisor *s = user;
    tp_slice *slice = tp_slice_of(s->agent->worker.current);
    for (unsigned i = 0; i < s->n_places && !slice; i++)
        slice = s->places[i].slice;
    if (slice)
        tp_slice_note_build(slice, b);
}

void tp_link_listen(supervisor *s)
{
    const uint64_t now = uv_hrtime();
    s->events = (tp_wire_events){ .to = s->agent->worker.trace,
                                  .worker = s->agent->worker.id,
                                  .pid = (uint64_t)s->peer.pid,
                                  .last_ns = now,
                                  .since_ns = now,
                                  .built = note_build,
                                  .user = s };
    tp_trace_note(s->events.to, TP_EVENT_PROCESS, s->events.worker, 0, s->events.pid, 0);
}

/* Prints the complete frames that have arrived. False when the bytes are no frame. */
static bool take_frames(supervisor *s)
{
    size_t at = 0;
    while (s->frame_len - at >= 8) {
        uint32_t head[2];
        memcpy(head, s->frame + at, sizeof head);
        if (head[0] > TP_WIRE_SAMPLES || head[1] > SUPERVISOR_FRAME_MAX)
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

void tp_link_read_socket(supervisor *s)
{
    s->printed = (uint32_t)atomic_load_explicit(&tp_control_of(s)->printed, memory_order_relaxed);
    for (;;) {
        ssize_t n = read(s->peer.socket, s->frame + s->frame_len, sizeof s->frame - s->frame_len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        s->frame_len += (size_t)n;
        if (!take_frames(s))
            /* users' code has written to our socket, so no frame on it can be found any more: drop
             * all */
            s->frame_len = 0;
    }
}

void tp_link_read_output(supervisor *s)
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

/* ---- turns ---- */

uint64_t tp_link_give_room(supervisor *s)
{
    tp_wire_in *in = tp_in_of(s);
    tp_wire_out *c = tp_control_of(s);
    tp_wire_room room = tp_wire_find_room(&s->held, TP_WIRE_OUT_BEGIN, s->is_cramped);
    if (room.held == 0)
        room.from = tp_wire_next(TP_WIRE_OUT_BEGIN, s->records_from,
                                 atomic_load_explicit(&c->used, memory_order_relaxed));
    s->records_from = room.from;
    s->is_cramped = false;
    atomic_store_explicit(&in->records_from, room.from, memory_order_relaxed);
    atomic_store_explicit(&in->records_until, room.until, memory_order_relaxed);
    atomic_store_explicit(&in->held, room.held, memory_order_relaxed);
    atomic_store_explicit(&c->used, room.from, memory_order_relaxed);
    atomic_store_explicit(&c->open, 0, memory_order_relaxed);
    return room.from;
}

void tp_link_wake(supervisor *s)
{
    if (atomic_exchange(&tp_control_of(s)->worker_sleeps, 0)) {
        char byte = 0;
        while (send(s->peer.socket, &byte, 1, MSG_NOSIGNAL) < 0 && errno == EINTR)
            ;
    }
}

void tp_link_take_turn(supervisor *s)
{
    atomic_store(&tp_in_of(s)->turn, ++s->turn);
    tp_link_wake(s);
}

bool tp_link_wait(supervisor *s, int timeout_ms)
{
    tp_peer *p = &s->peer;
    /* a worker's loop has its items' timers and callbacks, which do not run now */
    tp_own_loop *own = s->host->is_child ? NULL : s->agent->own_loop;
    struct pollfd fds[] = {
        { .fd = p->socket, .events = POLLIN },
        { .fd = p->output[0], .events = POLLIN },
        { .fd = p->output[1], .events = POLLIN },
        { .fd = p->pidfd, .events = POLLIN },
        { .fd = own ? uv_backend_fd(&own->loop) : -1, .events = POLLIN },
    };
    atomic_store(&tp_control_of(s)->host_sleeps, 1);
    if (atomic_load(&tp_control_of(s)->turn) == s->seen)
        poll(fds, sizeof fds / sizeof *fds, timeout_ms);
    if (fds[4].revents) /* the agent was woken */
        tp_loop_run(&own->loop, &own->bell, &own->timer, UV_RUN_NOWAIT, 0);
    atomic_store_explicit(&tp_control_of(s)->host_sleeps, 0, memory_order_relaxed);
    if (fds[0].revents)
        tp_link_read_socket(s);
    if (fds[1].revents || fds[2].revents)
        tp_link_read_output(s);
    bool is_gone = fds[3].revents || (p->pidfd < 0 && fds[0].revents & POLLHUP);
    return !(is_gone && tp_peer_has_ended(p));
}

void tp_link_spin(const supervisor *s)
{
    if (s->waited_ns > 4 * SPIN_NS)
        return;
    uint64_t until = uv_hrtime() + SPIN_NS;
    while (uv_hrtime() < until) {
        for (int i = 0; i < 4; i++) {
            if (tp_link_has_turned(s))
                return;
            tp_relax();
        }
        sched_yield();
    }
}

/* ---- its end ---- */

void tp_link_release_far(const supervisor *s, const uint64_t part[2], const tp_func *f)
{
    const tp_far_permits *p = s->host->permits;
    if (p && f->limit > 0)
        p->release(p->user, part, f);
}

void tp_link_release_permit(supervisor *s)
{
    if (s->permit_of) {
        tp_func_release_permit(s->host->engine, s->permit_of);
        tp_link_release_far(s, s->permit_part, s->permit_of);
    }
    tp_ref_drop(s->permit_of);
    s->permit_of = NULL;
}

void tp_link_note_death(const supervisor *s, const char *how)
{
    tp_trace *trace = s->agent->worker.trace;
    if (tp_trace_is_on(trace))
        tp_trace_note(trace, TP_EVENT_DEATH, s->agent->worker.id, 0, (uint64_t)s->peer.pid,
                      tp_trace_name(trace, how, strlen(how)));
}

void tp_link_last_words(const supervisor *s, char words[TP_PEER_TAIL + 1])
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
