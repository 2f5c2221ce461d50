/* supervisor.h: a supervisor: the thread that takes slices for one worker process. Private to the
 * files below.
 *
 * exec_processes.c takes slices and sends their items, places.c those that wait beside each other.
 * apart.c does the same in a worker process, for a process of that one's own: there the worker's
 * thread is the supervisor.
 * Below it answers.c does what the process asks for, watch.c looks at what it runs, process.c
 * starts, replaces and ends it, results.c reads what it gives; link.c (waking, waiting, output) is
 * below all of them. */
#ifndef TP_SUPERVISOR_H
#define TP_SUPERVISOR_H

#include "runtime/runtime.h"
#include "wire/ask.h"
#include "wire/events.h"
#include "wire/frame.h"
#include "wire/peer.h"

/* why a process was ended, for traces */
#define OVERTIME "was ended, since its input ran for too long"
#define UNNEEDED "was ended, since its input is not wanted any more"

enum {
    /* how often a supervisor checks whether the slice is still wanted, and which item runs */
    LOOK_MS = 5,
    /* after a cancellation an item has this long to end by itself */
    PATIENCE_NS = 20 * 1000 * 1000,
    SUPERVISOR_FRAME_MAX = 1 << 20
};

/* A process that was started; it may not have answered yet. */
typedef struct started {
    tp_peer peer; /* pid 0: there is none */
    tp_region in, out, asks;
} started;

/* What is looked at while a request runs, or while a process ends. */
typedef struct watch {
    tp_slice *slice; /* NULL: none, a process ends when it was idle */
    tp_wire_reader *reader; /* of the request's records; NULL: there is no request */
    uint64_t leave_until;   /* when a process that ends must have done so (uv_hrtime); else 0 */
    uint64_t item_since, unwanted_since; /* uv_hrtime; unwanted_since 0: it is wanted */
    uint32_t item; /* the running item */
    uint64_t seen_since; /* when it was first seen to be that one */
    /* since when the process is asked to return after that item; 0: it is not asked, since this one
     * runs */
    uint64_t asked_since;
    bool is_shared; /* what stands before that item and behind it was seen to */
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

/* A process and its link. Belongs to the supervisor's thread, or to the owner's while that acts for
 * it (pool.h). The process writes into `out.data`. */
typedef struct supervisor {
    tp_agent *agent;
    tp_host *host;
    started spare;    /* a second process, which takes the place of the first when that dies */
    bool wants_spare; /* a process had to be replaced, so that may happen again */
    tp_peer peer;
    tp_region in, out, asks;
    tp_wire_given given;
    tp_wire_held held; /* of the process's results */
    const tp_wire_out *control; /* the beginning of `out`, for others to look at; NULL: nowhere */
    uint64_t records_from; /* where its last records were to begin */
    bool is_cramped;   /* the process has found no room even for one record */
    request request;
    bool is_lent;     /* the owner acts: no process may be started by its thread */
    uint32_t turn;    /* counts our turns */
    uint32_t seen;    /* the process's last turn that was noticed */
    uint32_t printed; /* its counter of writes when its socket was last read */
    uint64_t waited_ns; /* how long the supervisor waited for the last request */
    uint64_t items;   /* how many it has been given */
    uint64_t oom_kills; /* the system's counter when its first request was still to come */
    unsigned deaths;  /* how many processes in a row died without having begun anything */
    /* the deaths that nobody has caused, weighted: one during the start counts as several */
    unsigned strikes;
    uint64_t killed_since; /* when the first of those that somebody has killed died; 0: none */
    bool has_released; /* the slice's permit was released */
    /* ---- items that wait beside each other ---- */
    place *places; /* place i + 1 */
    unsigned n_places, n_open;
    uint32_t beginning; /* the place of the request that the process has not answered; 0: none */
    uint32_t culprit;   /* the place whose item is to blame when the process is ended; 0: none */
    bool is_away;       /* the process has the turn, and lets them go on */
    bool is_poked;      /* and was asked to give it back */
    tp_wire_reader away; /* reads the records of items at places */
    /* held: the function of which the process has a permit besides the slice's */
    tp_func *permit_of;
    uint64_t permit_part[2]; /* tp_terms.part of the item that has it */
    char frame[SUPERVISOR_FRAME_MAX + 8]; /* the part of an output frame that has arrived */
    size_t frame_len;
    tp_wire_events events; /* of the process */
    char line[2][4096]; /* unfinished lines that native code has written to descriptors 1 and 2 */
    size_t line_len[2];
} supervisor;

/* How a request ended. */
typedef enum outcome { DONE, FULL, ASKS, DIED, TIMED_OUT, UNWANTED, GARBAGE } outcome;

static inline tp_wire_out *tp_control_of(const supervisor *s)
{
    return (tp_wire_out *)(void *)s->out.data;
}

static inline tp_wire_in *tp_in_of(const supervisor *s)
{
    return (tp_wire_in *)(void *)s->in.data;
}

/* ---- link.c ---- */

static inline bool tp_link_has_turned(const supervisor *s)
{
    return atomic_load_explicit(&tp_control_of(s)->turn, memory_order_acquire) != s->seen;
}

/* The item that the process says it is running, counted from the request's first. */
static inline uint32_t tp_link_item(const supervisor *s)
{
    return (uint32_t)atomic_load_explicit(&tp_control_of(s)->work.ctl[0], memory_order_relaxed);
}

/* The place whose item the process says it is running. */
static inline uint32_t tp_link_place(const supervisor *s)
{
    return (uint32_t)atomic_load_explicit(&tp_control_of(s)->shown, memory_order_relaxed);
}

/* The place with that number, if there is an item at it. */
static inline place *tp_place_find(const supervisor *s, uint32_t number)
{
    place *p = number > 0 && number <= s->n_places ? &s->places[number - 1] : NULL;
    return p && p->slice ? p : NULL;
}

/* Has the item failed because it has run for too long? Not before it was told so, which cannot
 * happen while another item keeps the process busy. */
static inline bool tp_place_is_out(const place *p)
{
    return p->is_late && p->told_ns;
}

/* The worker's items run in its process from here on: what that tells of a trace belongs to
 * them. */
void tp_link_listen(supervisor *s);

/* Reads what the process has printed. */
void tp_link_read_socket(supervisor *s);

/* The same for what native code there has printed. */
void tp_link_read_output(supervisor *s);

/* Prints what is left of lines that do not end. */
void tp_link_end_lines(supervisor *s);

/* Sets where the process writes its next records. All earlier ones must have been read. Returns the
 * offset. */
uint64_t tp_link_give_room(supervisor *s);

/* Wakes the process, if it sleeps. */
void tp_link_wake(supervisor *s);

/* The supervisor has taken its turn: the process may go on. */
void tp_link_take_turn(supervisor *s);

/* Sleeps until the process does something, or for that time. False when it has ended. */
bool tp_link_wait(supervisor *s, int timeout_ms);

/* Waits for the process for a moment, without sleeping. */
void tp_link_spin(const supervisor *s);

/* Gives a permit of f back to the coordinator, where other machines run f, too. */
void tp_link_release_far(const supervisor *s, const uint64_t part[2], const tp_func *f);

/* Releases the permit that it has besides its slice's, if it has one. */
void tp_link_release_permit(supervisor *s);

/* Notes how the process has ended, or why it is being ended. */
void tp_link_note_death(const supervisor *s, const char *how);

/* The last line that the process has written to its standard error, or nothing. */
void tp_link_last_words(const supervisor *s, char words[TP_PEER_TAIL + 1]);

/* ---- results.c ---- */

/* Gives the sink everything published since the last call. */
bool tp_results_collect(supervisor *s, tp_work *w, tp_wire_reader *r, bool is_dead, tp_error *err);

/* The same while the item `running`, counted from the request's first, has run for TP_SETTLED_NS:
 * gives the sink all results of earlier ones. What is wrong in them shows when the request is
 * over. */
void tp_results_collect_early(supervisor *s, tp_work *w, tp_wire_reader *r, uint32_t running);

/* The next item has failed with its process, not by an error of its own. */
void tp_results_fail(supervisor *s, tp_work *w, tp_failure_kind kind, const char *message);

/* The process has died. The item that ran, which is the first without a result, gets the failure.
 * `item` is its number for the process: in its request, or its place. */
void tp_results_blame(supervisor *s, tp_work *w, uint32_t item, const char *garbage);

/* The next item has run for too long. */
void tp_results_time_out(supervisor *s, tp_work *w);

/* The item at the place is over, or goes back. */
void tp_results_finish(supervisor *s, place *p);

/* ---- process.c ---- */

/* Ends the process if it still runs, and frees all of it except how it ended. Items that it has at
 * places go back, but those that have run for too long. */
void tp_process_end(supervisor *s);

/* Ends the spare process, if there is one. */
void tp_process_end_spare(supervisor *s);

/* Starts a spare process while the first one runs its request, since starting takes some
 * milliseconds. If it cannot be started, that is tried again when it is needed. */
void tp_process_start_spare(supervisor *s);

/* Starts a process, or takes the spare one, and waits until it is ready; again when it dies
 * meanwhile. */
int tp_process_start(supervisor *s, tp_error *err);

/* The process has died, or is to be ended, before it has begun anything. When somebody kills
 * processes, others are started for up to KILLED_S. One that ended by itself, or for want of
 * memory, would probably do so again: it counts as that many strikes, of which STRIKES_MAX are
 * allowed. */
void tp_process_note_early_death(supervisor *s, unsigned strikes);

/* It has begun something, so that those that died before do not count any more. */
void tp_process_note_begin(supervisor *s);

/* May another process be started, after those that died early? */
bool tp_process_may_start(const supervisor *s);

/* Sets err: no process may be started any more. Returns -1. */
int tp_process_die_out(supervisor *s, tp_error *err);

/* ---- watch.c ---- */

/* Begins to watch what the process runs for the slice. */
void tp_watch_open(const supervisor *s, tp_slice *slice, tp_wire_reader *reader, watch *of);

/* Why the running item must be ended; DONE when it need not be. */
outcome tp_watch_look(supervisor *s, watch *of);

/* What the process wants or says with the turn that it has given back. */
outcome tp_watch_see_turn(supervisor *s);

/* Waits until the process takes a turn. */
outcome tp_watch_await(supervisor *s, watch *of);

/* Notes which items at places must end (timeout, cancellation). Returns something else than DONE,
 * with s->culprit set, when one of them does not end, so that the process must be ended. */
outcome tp_watch_places(supervisor *s, uint64_t now);

/* ---- answers.c ---- */

/* Does what the process asks for. ASKS: the process may go on; otherwise how the request ended.
 * While this waits for a permit, the process has none. */
outcome tp_answer(supervisor *s, watch *of, tp_error *err);

/* Ends an idle process, after it has done what it must. */
void tp_answers_dismiss(supervisor *s);

/* Takes the slice's permit again, which was released by a process that is gone. */
void tp_answers_take_permit(supervisor *s, tp_slice *slice);

/* ---- places.c ---- */

/* The process has died, or must be ended, because of an item at a place. The blame goes to the
 * culprit that tp_watch_places found, else to the item that is shown as running, the one that was
 * to begin, or the only one. When none of these is known, any of the items may be it: they run
 * again with fewer beside them. */
void tp_places_lose(supervisor *s, outcome o, const char *why);

/* Waits until the host has the turn, or there is no process. False when an item keeps the turn for
 * longer than TURN_PATIENCE_MS. */
bool tp_places_get_turn(supervisor *s);

/* Begins the slice's item in the process, which runs it up to its first wait. The result is for the
 * pool. */
int tp_places_begin(supervisor *s, tp_slice *slice, tp_error *err);

/* see tp_pool_kind */
void tp_places_turn(void *state, uint64_t deadline_ns);

/* ---- exec_processes.c ---- */

/* A supervisor with its first process; NULL with err set. */
supervisor *tp_process_open(tp_agent *agent, tp_error *err);

/* Has the slice's items run by the process, one after the other, for which it starts one if there
 * is none. The caller finishes the slice. -1 with err set when no process can be started. */
int tp_process_run(supervisor *s, tp_slice *slice, tp_error *err);

#endif
