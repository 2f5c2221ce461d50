/* cluster_worker.c: `tidepool worker`: takes chunks of work from the engine of a cluster and runs
 * them in worker processes of this machine. cluster/protocol.h has the names on the server,
 * cluster/exec_cluster.c the other side.
 *
 * One thread does everything here but run items. Each session (a coordinator's process) has a host
 * of its own, so that nothing of one is left for another. A chunk is a job of that host: what
 * worker processes do for a script on this machine they do for it here.
 *
 * What comes in is looked at only after its signature and the digest of its payload were verified,
 * and only of a session whose coordinator has shown that it lives, by signing a number that this
 * process has made up for it: what was recorded earlier is not run again.
 *
 * The process that drives this machine's devices (cluster_devices.h) is such a worker, too. It gets
 * kernels, directly; its jobs are those of its devices' threads. */
#include "program/cluster_worker.h"

#include "base/blake2b.h"
#include "base/cpus.h"
#include "base/mapping.h"
#include "base/thread.h"
#include "cluster/blobs.h"
#include "cluster/exec_cluster.h"
#include "cluster/groups.h"
#include "cluster/nats.h"
#include "cluster/parcel.h"
#include "cluster/protocol.h"
#include "cluster/sign.h"
#include "host.h"
#include "opencl/slices.h"
#include "program/cluster_devices.h"
#include "program/engine.h"
#include "program/hosts.h"
#include "program/pocl_cache.h"
#include "program/process.h"
#include "runtime/runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    PULLS = 64,
    PULL_BEATS = 2,
    LOOK_MS = 200,       /* the longest wait for events, in ms: periodic work is checked so often */
    ALIVE_BEATS = 5,     /* how often a session is asked whether it lives, */
    /* how many questions (ALIVE_AGAIN_MS apart) may stay unanswered before a session is taken for
     * dead, */
    ALIVE_TRIES = 5,
    KEPT_TRIES = 20,     /* and how many when its results will be read even then (journals) */
    ALIVE_AGAIN_MS = 3000,
    PROGRESS_MS = TP_ACK_WAIT_S * 1000 / 4,
    AGAIN_MS = 2000, /* a result that the server has not acknowledged is sent again after this */
    PIECE_MS = 1000,     /* how long a coordinator may take to answer a piece of a result */
    /* while chunks take less than this, more are fetched than there are slots: at least one more
     * for each slot, */
    SHORT_NS = 50 * 1000 * 1000,
    AHEAD_NS = 4 * 1000 * 1000,  /* up to as many as take AHEAD_NS together, */
    AHEAD_MAX = 16,              /* and AHEAD_MAX for each slot */
    BUSY_MS = 500,       /* a session without work for so long gets no share of the offers */
    /* default of --grace: how long running chunks may take when the worker is asked to leave */
    GRACE_S = 30,
    IMAGES = 64,
    MODULES = 16, /* bundles of modules that are kept for the next session with the same ones */
    CANCELLED = 1024,    /* how many cancelled chunks are remembered, in case they arrive later */
    QUESTION_MS = 2000,  /* a question without an answer is asked again */
    /* how long the coordinator is asked to wait for a value or for room */
    QUESTION_NS = 200 * 1000 * 1000,
    KERNELS = 4, /* chunks that a device has at once, so that copies and kernels overlap */
    STUCK_MS = 10 * 1000, /* a device that runs for so long what nobody wants is given up */
    CLOSING_MS = 2000,    /* the same when its script is gone */
    DEVICES_AGAIN_MS = 250, DEVICES_AGAIN_MAX = 5, /* see look_at_devices */
    WAIT_MS = 100 /* a chunk that finds no free slot for so long goes to another worker */
};

typedef struct image {
    tp_image *of; /* NULL: the place is free */
    uint8_t digest[TP_DIGEST_BYTES];
    uint64_t used;
    unsigned users; /* chunks */
    tp_parcel_refs refs;
    tp_kernel *kernel; /* of a plan: what it has become here, once it was wanted */
} image;

/* A question about a Dict or Queue, on the stack of the thread that waits for its answer. */
typedef struct question {
    struct question *next;
    uint64_t number;
    tp_buf bytes, answer;
    uint64_t sent_ms; /* 0: it was not */
    bool has_answer;
} question;

/* Stand-ins for what the coordinator keeps. */
typedef struct far_stores {
    tp_store_keeper keeper;
    tp_far_permits permits;
    tp_store_names names;
    uv_mutex_t lock;
    uv_cond_t answered;
    /* ---- guarded by the lock ---- */
    uint64_t *ids; /* the coordinator's ids of stores, by our ids */
    uint32_t n, room;
    struct far_func {
        const tp_func *func;
        uint64_t id;
    } *funcs; /* functions with a limit, with the coordinator's ids of them */
    uint32_t n_funcs;
    question *questions;
    uint64_t asked; /* numbers the questions */
    bool is_over;
} far_stores;

typedef struct session {
    struct session *next;
    tp_waiter waiter; /* wakes the thread when a job of the host has news */
    struct node *node;
    uint8_t id[TP_ID_BYTES], nonce[TP_ID_BYTES];
    char hex[TP_ID_TEXT];
    bool is_alive; /* it has answered once */
    bool is_kept; /* it has a journal: its results will be read even when its coordinator is dead */
    uint64_t busy_ms; /* when it has last had work */
    unsigned tries; /* questions without an answer; 0: none is open */
    uint64_t ask_ms; /* when it is asked next */
    tp_host *host; /* NULL until its first chunk runs */
    tp_known known;
    far_stores stores;
    image images[IMAGES];
    uint64_t used;
    /* Its processes find modules in the file behind this descriptor, which is another one when
     * there are more of them. -1: there is no host yet */
    int modules;
    uint64_t modules_size;
    uint64_t stuck_ms; /* since when its devices run nothing that is wanted; 0: they do not */
} session;

/* A bundle of a script's modules (base/bundle.h) in a file without a name. */
typedef struct kept_modules {
    uint64_t size; /* 0: the place is free */
    uint8_t digest[TP_DIGEST_BYTES];
    uint64_t used;
    int fd;
} kept_modules;

typedef enum chunk_state {
    WAITING,  /* until its session has shown that it is alive */
    QUEUED,   /* until there is a slot */
    RUNNING,
    ANSWERED, /* until the server has the result */
    OVER      /* to be freed by the loop that goes through the chunks */
} chunk_state;

typedef struct chunk {
    struct chunk *next;
    session *session;
    chunk_state state;
    uint64_t number, begun_ns;
    uint32_t sending;
    bool is_alone; /* nothing else may run beside it */
    bool is_named; /* its coordinator knows that it is about to run */
    bool is_direct; /* it came directly, not through the stream */
    bool is_short;  /* it was run in less than SHORT_NS */
    tp_buf payload; /* QUEUED: the payload, if it came as a blob */
    char ack[TP_SUBJECT_MAX]; /* where it is acknowledged; "": nowhere */
    /* WAITING, QUEUED: the message that came, without its signature; ANSWERED: the answer */
    tp_buf message;
    tp_job *job;    /* RUNNING */
    image *image;
    tp_parcel_refs refs;
    tp_groups groups; /* RUNNING: results on their way to `records` */
    tp_buf records; /* ANSWERED: a large result that could not be stored yet (is_unsent) */
    bool is_unsent;
    tp_buf ticket; /* see parcel.h */
    /* of an item that gives values while it runs (tp_part): those that are on their way, or will
     * be, as records; the first one's number; how many may be given, as its coordinator has said */
    bool streams, is_on_way, has_told_full;
    tp_buf values;
    uint32_t n_values;
    uint64_t first_value, allowed, told_ms;
    uint32_t at, count;
    uint64_t queued_ms, progress_ms, again_ms;
} chunk;

typedef struct pull {
    unsigned left; /* how many messages the server may still send for it */
    uint64_t until_ms;
} pull;

typedef struct node {
    const tp_options *options;
    tp_nats nats;
    tp_signer signer;
    tp_build build;
    uint8_t id_bytes[TP_ID_BYTES];
    char id[TP_ID_TEXT], inbox[80], host_name[64];
    unsigned slots;
    kept_modules modules[MODULES];
    uint64_t modules_used;
    session *sessions;
    chunk *chunks;
    pull pulls[PULLS];
    uint64_t heartbeat_ms, pull_ms, held_ms;
    uint64_t beat_ms, beat_until_ms; /* how often it shows itself, and how long that holds */
    double chunk_ns; /* how long a chunk took lately */
    /* how many messages were dropped, since they were not valid work for this worker */
    uint64_t dropped;
    struct {
        session *session;
        uint64_t chunk;
    } cancelled[CANCELLED];
    unsigned n_cancelled;
    bool is_leaving, is_lost, is_refused;
    uint64_t leave_ms;
    uint64_t grace_ms, idle_ms; /* --grace, --idle-exit; idle_ms 0: it never leaves by itself */
    uint64_t busy_ms; /* when it last had something to do */
    long grace_s;
    char *token; /* for the process below */
    /* The process that drives this machine's devices: whether a coordinator wants it, how often in
     * a row it has died young, when it may be started (again) */
    tp_device_process device_process;
    bool wants_devices;
    unsigned deaths;
    uint64_t born_ms, reborn_ms;
    /* this is such a process: what it drives; NULL in others. `told_ms`: see tell_busy */
    tp_own_devices *devices;
    uint64_t told_ms;
    tp_nats_events later; /* events that came while a driver was waited for */
} node;

/* Set by a signal. */
static volatile sig_atomic_t asked_to_leave;

static uint64_t now_ms(void)
{
    return uv_hrtime() / 1000000;
}

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    char text[800];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "tidepool worker: %s\n", text);
}

/* ---- signs of life ---- */

static void acknowledge_at(node *n, const char *ack, const char *how)
{
    if (*ack)
        tp_nats_publish(&n->nats, ack, NULL, how, strlen(how));
}

static void acknowledge(node *n, const chunk *k, const char *how)
{
    acknowledge_at(n, k->ack, how);
}

static void show_self(node *n, uint64_t now)
{
    char subject[TP_SUBJECT_MAX], text[400];
    tp_buf all = { 0 };
    if (now < n->heartbeat_ms)
        return;
    n->heartbeat_ms = now + n->beat_ms;
    snprintf(subject, sizeof subject, TP_SUBJECT_HB "%s", n->id);
    int len = snprintf(text, sizeof text, "%s %u %s %s %u %s", n->build.hex,
                       n->is_leaving ? 0u : n->slots, n->host_name, n->inbox,
                       (unsigned)n->beat_ms, n->build.text);
    if (tp_buf_add(&all, text, (size_t)len) == 0 &&
        (!n->devices || tp_own_devices_tell(n->devices, &all) == 0))
        tp_nats_publish(&n->nats, subject, NULL, all.data, all.len);
    tp_buf_free(&all);
}

/* Adds a line of TP_SUBJECT_R SESSION.held. */
static void add_name(const node *n, const chunk *k, tp_buf *text)
{
    char line[TP_SUBJECT_MAX + 400];
    tp_job_state now = { 0 };
    bool is_running = k->state == RUNNING && k->job;
    if (is_running)
        tp_job_get_state(k->job, &now);
    uint64_t item = is_running ? tp_job_terms(k->job)->base + now.oldest : 0,
             ms = now.since_ns ? 1 + (uv_hrtime() - now.since_ns) / 1000000 : 0;
    for (char *c = now.inside; *c; c++)
        *c = (unsigned char)*c < ' ' ? '?' : *c;
    int len = snprintf(line, sizeof line, "%llu %u %d %s %llu %llu %u %llu %llu %s\n%s%s%s",
                       (unsigned long long)k->number, k->sending,
                       is_running && tp_job_is_stuck(k->job), n->id, (unsigned long long)item,
                       (unsigned long long)ms, now.maps, (unsigned long long)now.inside_done,
                       (unsigned long long)now.inside_total, *k->ack ? k->ack : "-",
                       now.maps ? "in " : "", now.maps ? now.inside : "", now.maps ? "\n" : "");
    tp_buf_add(text, line, (size_t)len); /* without memory for the line it is named the next time */
}

static void send_names(node *n, const session *s, tp_buf *text)
{
    char subject[TP_SUBJECT_MAX];
    snprintf(subject, sizeof subject, TP_SUBJECT_R "%s.held", s->hex);
    if (text->len)
        tp_nats_publish(&n->nats, subject, NULL, text->data, text->len);
    tp_buf_free(text);
}

/* Tells the coordinators which of their chunks are here, so that they notice when this process is
 * dead. */
static void name_chunks(node *n, uint64_t now)
{
    if (now < n->held_ms)
        return;
    n->held_ms = now + n->beat_ms;
    for (session *s = n->sessions; s; s = s->next) {
        tp_buf text = { 0 };
        for (chunk *k = n->chunks; k; k = k->next)
            if (k->session == s && (k->state == RUNNING || k->state == ANSWERED))
                add_name(n, k, &text);
        send_names(n, s, &text);
    }
}

/* A tp_between: others see that this process is alive, and has what it has. */
static void stay(void *user)
{
    node *n = user;
    uint64_t now = now_ms();
    show_self(n, now);
    name_chunks(n, now);
    if (n->devices && n->chunks && now >= n->told_ms + LOOK_MS) {
        tp_device_process_tell_busy();
        n->told_ms = now;
    }
    for (chunk *k = n->chunks; k; k = k->next)
        if (now >= k->progress_ms && k->state != OVER) {
            acknowledge(n, k, "+WPI");
            k->progress_ms = now + PROGRESS_MS;
        }
}

/* A tp_between, for what takes long and is no transfer: others hear of this process meanwhile, and
 * what comes from them is kept for later. */
static void hear(void *user)
{
    node *n = user;
    stay(n);
    for (tp_nats_event *e; (e = tp_nats_take(&n->nats, 0));) {
        tp_nats_events_add(&n->later, e);
    }
}

/* The next event. NULL: none has come until then. */
static tp_nats_event *next_event(node *n, uint64_t deadline_ns)
{
    tp_nats_event *e = tp_nats_events_next(&n->later);
    return e ? e : tp_nats_take(&n->nats, deadline_ns);
}

/* ---- answers ---- */

static void name_result(const chunk *k, char *to)
{
    snprintf(to, TP_SUBJECT_MAX, TP_SUBJECT_R "%s.%llu.%llu.%u", k->session->hex,
             (unsigned long long)(k->number / TP_GROUP_CHUNKS), (unsigned long long)k->number,
             k->sending);
}

/* Sends the answer to what came directly, which nobody acknowledges. */
static void send_directly(node *n, chunk *k)
{
    char subject[TP_SUBJECT_MAX];
    snprintf(subject, sizeof subject, TP_SUBJECT_R "%s.direct", k->session->hex);
    tp_nats_publish(&n->nats, subject, NULL, k->message.data, k->message.len);
    k->state = OVER;
}

static void send_answer(node *n, chunk *k)
{
    char subject[TP_SUBJECT_MAX], reply[TP_SUBJECT_MAX];
    name_result(k, subject);
    snprintf(reply, sizeof reply, "%s.a.%s.%llu.%u", n->inbox, k->session->hex,
             (unsigned long long)k->number, k->sending);
    tp_nats_publish(&n->nats, subject, reply, k->message.data, k->message.len);
    k->again_ms = now_ms() + AGAIN_MS;
}

static void drop_image(chunk *k)
{
    if (k->image)
        k->image->users--;
    k->image = NULL;
}

/* How many chunks may be here, besides those that were answered. */
static unsigned most_chunks(const node *n)
{
    double ahead = n->chunk_ns > 0 ? AHEAD_NS / n->chunk_ns : 1;
    if (n->chunk_ns >= SHORT_NS)
        return n->slots;
    ahead = ahead < 1 ? 1 : ahead > AHEAD_MAX ? AHEAD_MAX : ahead;
    return n->slots + (unsigned)(n->slots * ahead);
}

/* How many chunks of a session may come directly: none while they take long, since what is lost on
 * the way, or with its worker, is run again. Those that have work share. */
static unsigned offers(const node *n)
{
    unsigned sessions = 0;
    const uint64_t now = now_ms();
    for (const session *s = n->sessions; s; s = s->next)
        sessions += now < s->busy_ms + BUSY_MS;
    unsigned most = most_chunks(n) / (sessions ? sessions : 1);
    return n->is_leaving || n->chunk_ns >= SHORT_NS ? 0 : most ? most : 1;
}

/* The chunk that begins when k is over, if it is of the same session; NULL: none does. */
static chunk *next_after(const node *n, const chunk *k)
{
    for (chunk *next = n->chunks; next; next = next->next)
        if (next != k && (next->state == QUEUED || (next->state == RUNNING && next->is_alone)))
            return next->session == k->session && !next->is_alone && next->state == QUEUED ? next
                                                                                          : NULL;
    return NULL;
}

/* Writes and sends the answer, with the name of the chunk that begins now (NULL: none does). */
static void write_answer(node *n, chunk *k, tp_answer a, const void *bytes, size_t len, chunk *next)
{
    tp_buf names = { 0 };
    a.chunk = k->number;
    a.sending = k->sending;
    a.offers = offers(n);
    a.ran_ns = k->begun_ns ? uv_hrtime() - k->begun_ns : 0;
    memcpy(a.worker, n->id_bytes, sizeof a.worker);
    if (next && !next->is_named) {
        add_name(n, next, &names);
        next->is_named = names.len > 0;
    }
    a.names = names.len;
    a.ticket = a.kind == TP_ANSWER_DONE ? k->ticket.len : 0;
    tp_buf_clear(&k->message);
    if (tp_buf_add(&k->message, &a, sizeof a) || (len && tp_buf_add(&k->message, bytes, len)) ||
        (a.ticket && tp_buf_add(&k->message, k->ticket.data, k->ticket.len)) ||
        (names.len && tp_buf_add(&k->message, names.data, names.len))) {
        /* no memory: the coordinator must send the chunk again */
        a.kind = TP_ANSWER_BACK;
        a.where = TP_ANSWER_HERE;
        a.size = a.ticket = a.names = 0;
        tp_buf_clear(&k->message);
        tp_buf_add(&k->message, &a, sizeof a);
    }
    tp_buf_free(&names);
    tp_buf_free(&k->records);
    tp_buf_free(&k->payload);
    k->is_unsent = false;
    if (k->is_direct && k->is_short && a.where == TP_ANSWER_HERE)
        send_directly(n, k);
    else
        send_answer(n, k);
}

/* Sends a large result, or values, to the coordinator itself, piece by piece. */
static bool send_pieces(node *n, const chunk *k, const tp_buf *bytes)
{
    char subject[TP_SUBJECT_MAX];
    snprintf(subject, sizeof subject, TP_SUBJECT_R "%s.piece", k->session->hex);
    for (size_t at = 0; at < bytes->len; at += TP_BLOB_PIECE) {
        size_t size = bytes->len - at < TP_BLOB_PIECE ? bytes->len - at : TP_BLOB_PIECE;
        tp_direct head = { .chunk = k->number, .at = at, .sending = k->sending };
        tp_buf piece = { 0 };
        bool is_taken = false;
        stay(n);
        if (tp_buf_add(&piece, &head, sizeof head) == 0 &&
            tp_buf_add(&piece, bytes->data + at, size) == 0) {
            tp_nats_event *e = tp_nats_ask(&n->nats, subject, piece.data, piece.len, PIECE_MS);
            is_taken = e && e->status == 0 && e->len == 1 && *e->data == '+';
            tp_nats_free(&n->nats, e);
        }
        tp_buf_free(&piece);
        if (!is_taken)
            return false;
    }
    return true;
}

/* What is too large for a message goes into the stream of blobs; or, where there is no room, to the
 * coordinator. False: that does not take it either. */
static bool send_large(node *n, const chunk *k, const tp_buf *bytes, uint8_t *digest,
                       uint32_t *where)
{
    tp_error err = { 0 };
    tp_blake2b_hash(digest, TP_DIGEST_BYTES, bytes->data, bytes->len);
    tp_blob b = tp_blob_of_result(digest, bytes->len, k->number, k->sending);
    *where = tp_blob_put(&n->nats, k->session->hex, &b, bytes->data, &(tp_between){ stay, n },
                         &err) == TP_NATS_STORED
                 ? TP_ANSWER_BLOB
                 : TP_ANSWER_DIRECT;
    tp_blob_free(&b);
    return *where == TP_ANSWER_BLOB || send_pieces(n, k, bytes);
}

/* Sends a large result; when it cannot be sent it is tried again later. */
static void deliver(node *n, chunk *k, chunk *next)
{
    tp_answer a = { .kind = TP_ANSWER_DONE, .size = k->records.len };
    k->is_unsent = true;
    k->again_ms = now_ms() + AGAIN_MS;
    if (send_large(n, k, &k->records, a.digest, &a.where))
        write_answer(n, k, a, "", 0, next);
}

/* The chunk is over, with this answer, which stays until the server has it. Large ones are
 * k->records. */
static void answer(node *n, chunk *k, tp_answer_kind kind, const void *bytes, size_t len)
{
    chunk *next = k->state == RUNNING && !n->is_leaving ? next_after(n, k) : NULL;
    k->is_short = k->state == RUNNING && uv_hrtime() - k->begun_ns < SHORT_NS;
    if (k->job)
        tp_job_close(k->job);
    k->job = NULL;
    drop_image(k);
    tp_groups_close(&k->groups);
    tp_parcel_refs_free(&k->refs);
    k->state = ANSWERED;
    const bool goes_directly = n->devices && k->is_direct && k->is_short;
    if (len > (goes_directly ? TP_KERNEL_INLINE : TP_RESULT_INLINE))
        deliver(n, k, next);
    else
        write_answer(n, k, (tp_answer){ .kind = kind, .size = len }, bytes, len, next);
}

static void free_chunk(chunk *k)
{
    if (k->job)
        tp_job_close(k->job);
    drop_image(k);
    tp_groups_close(&k->groups);
    tp_parcel_refs_free(&k->refs);
    tp_buf_free(&k->message);
    tp_buf_free(&k->payload);
    tp_buf_free(&k->records);
    tp_buf_free(&k->values);
    tp_buf_free(&k->ticket);
    free(k);
}

/* Takes the chunk off the list and frees it. */
static void forget(node *n, chunk *k)
{
    chunk **at = &n->chunks;
    while (*at != k)
        at = &(*at)->next;
    *at = k->next;
    free_chunk(k);
}

static chunk *find_chunk(const node *n, const session *s, uint64_t number)
{
    chunk *k = n->chunks;
    while (k && (k->session != s || k->number != number || k->state == OVER))
        k = k->next;
    return k;
}

/* ---- sessions ---- */

static session *find_session(const node *n, const char *hex)
{
    session *s = n->sessions;
    while (s && strcmp(s->hex, hex) != 0)
        s = s->next;
    return s;
}

static void ask_session(node *n, session *s)
{
    char subject[TP_SUBJECT_MAX], reply[TP_SUBJECT_MAX];
    if (s->tries == 0)
        tp_signer_random(&n->signer, s->nonce, sizeof s->nonce);
    s->tries++;
    s->ask_ms = now_ms() + ALIVE_AGAIN_MS;
    snprintf(subject, sizeof subject, TP_SUBJECT_Q "%s", s->hex);
    snprintf(reply, sizeof reply, "%s.s.%s", n->inbox, s->hex);
    tp_nats_publish(&n->nats, subject, reply, s->nonce, sizeof s->nonce);
}

static void wake(tp_waiter *w)
{
    session *s = (session *)(void *)((char *)w - offsetof(session, waiter));
    tp_nats_wake(&s->node->nats);
}

/* ---- Dicts and Queues ---- */

/* see tp_store_names. Any thread. */
static uint64_t id_of(void *user, tp_ref *r)
{
    session *s = user;
    bool is_store = r->type == &tp_dict_type || r->type == &tp_store_queue_type;
    tp_store *store = is_store ? (tp_store *)(void *)r : NULL;
    if (!store || tp_store_keeper_of(store) != &s->stores.keeper)
        return 0;
    uv_mutex_lock(&s->stores.lock);
    uint64_t id = s->stores.ids[tp_store_id(store)];
    uv_mutex_unlock(&s->stores.lock);
    return id;
}

/* The stand-in for the store with that id. Any thread. */
static tp_ref *store_of(void *user, uint64_t id, bool is_queue)
{
    session *s = user;
    far_stores *f = &s->stores;
    uint32_t i = 0;
    uv_mutex_lock(&f->lock);
    while (i < f->n && f->ids[i] != id)
        i++;
    if (i == f->n && f->n == f->room) {
        uint32_t room = f->room ? 2 * f->room : 16;
        uint64_t *ids = realloc(f->ids, room * sizeof *ids);
        f->ids = ids ? ids : f->ids;
        f->room = ids ? room : f->room;
    }
    bool has_room = i < f->room;
    if (has_room && i == f->n)
        f->ids[f->n++] = id;
    uv_mutex_unlock(&f->lock);
    return has_room ? (tp_ref *)(void *)tp_store_new_far(
                          is_queue ? &tp_store_queue_type : &tp_dict_type, &f->keeper, i)
                    : NULL;
}

/* Queues the question for the main thread, which sends it, and waits for the answer. Supervisors'
 * threads. False: the session is over. */
static bool await_answer(session *s, question *q)
{
    far_stores *f = &s->stores;
    uv_mutex_lock(&f->lock);
    q->number = ++f->asked;
    q->next = f->questions;
    f->questions = q;
    uv_mutex_unlock(&f->lock);
    tp_nats_wake(&s->node->nats);
    uv_mutex_lock(&f->lock);
    while (!q->has_answer && !f->is_over)
        uv_cond_wait(&f->answered, &f->lock);
    question **at = &f->questions;
    while (*at != q)
        at = &(*at)->next;
    *at = q->next;
    bool has = q->has_answer;
    uv_mutex_unlock(&f->lock);
    return has;
}

/* see tp_store_keeper. The thread of the supervisor whose process asks. */
static int perform(void *user, uint32_t id, tp_store_op *op, tp_error *err)
{
    session *s = user;
    question q = { 0 };
    uint64_t store = 0, wait_ns = op->wait_ns;
    if (op->verb != TP_STORE_NEW_DICT && op->verb != TP_STORE_NEW_QUEUE) {
        uv_mutex_lock(&s->stores.lock);
        store = s->stores.ids[id];
        uv_mutex_unlock(&s->stores.lock);
    }
    op->wait_ns = wait_ns < QUESTION_NS ? wait_ns : QUESTION_NS;
    int rc = tp_question_put(&q.bytes, store, op, &s->stores.names, err);
    if (rc == 0 && !await_answer(s, &q))
        rc = tp_error_set(err, TP_ESYS, "the script is gone that keeps it");
    else if (rc == 0)
        rc = tp_answer_get(q.answer.data, q.answer.len, op, &s->stores.names, err);
    op->wait_ns = wait_ns;
    tp_buf_free(&q.bytes);
    tp_buf_free(&q.answer);
    return rc;
}

/* see tp_store_names. The function is held by s->known. The main thread */
static void note_func(void *user, const tp_func *func, uint64_t id)
{
    far_stores *f = &((session *)user)->stores;
    uv_mutex_lock(&f->lock);
    struct far_func *funcs = realloc(f->funcs, (f->n_funcs + 1) * sizeof *funcs);
    if (funcs) { /* without memory the limit holds only among this machine's workers */
        f->funcs = funcs;
        funcs[f->n_funcs++] = (struct far_func){ func, id };
    }
    uv_mutex_unlock(&f->lock);
}

/* Asks for a permit, or gives it back. True: there is one; or the chunk is not wanted any more. */
static bool ask_permit(session *s, tp_permit_verb verb, const uint64_t part[2], const tp_func *func,
                       uint64_t wait_ns)
{
    far_stores *f = &s->stores;
    question q = { 0 };
    tp_permit_op op = {
        .verb = verb, .chunk = part[0], .sending = part[1], .wait_ns = wait_ns
    };
    uv_mutex_lock(&f->lock);
    for (uint32_t i = 0; i < f->n_funcs; i++)
        if (f->funcs[i].func == func)
            op.func = f->funcs[i].id;
    uv_mutex_unlock(&f->lock);
    if (op.func == 0 || tp_permit_put(&q.bytes, &op, NULL))
        return true;
    bool has = !await_answer(s, &q) || tp_permit_answer_get(q.answer.data, q.answer.len);
    tp_buf_free(&q.bytes);
    tp_buf_free(&q.answer);
    return has;
}

/* see tp_far_permits */
static bool take_permit(void *user, const uint64_t part[2], const tp_func *f, bool may_wait)
{
    return ask_permit(user, TP_PERMIT_TAKE, part, f, may_wait ? QUESTION_NS : 0);
}

static void release_permit(void *user, const uint64_t part[2], const tp_func *f)
{
    ask_permit(user, TP_PERMIT_RELEASE, part, f, 0);
}

/* see tp_store_keeper: the coordinator holds it until the session is over */
static void drop_store(void *user, uint32_t id)
{
    (void)user, (void)id;
}

/* see tp_store_keeper */
static bool is_stuck(void *user)
{
    (void)user;
    return false;
}

/* Publishes the questions that are new, or have no answer yet. */
static void send_questions(node *n, session *s, uint64_t now)
{
    char subject[TP_SUBJECT_MAX], reply[TP_SUBJECT_MAX];
    snprintf(subject, sizeof subject, TP_SUBJECT_R "%s.ask", s->hex);
    uv_mutex_lock(&s->stores.lock);
    for (question *q = s->stores.questions; q; q = q->next) {
        if (q->has_answer || (q->sent_ms && now < q->sent_ms + QUESTION_MS))
            continue;
        q->sent_ms = now;
        snprintf(reply, sizeof reply, "%s.q.%s.%llu", n->inbox, s->hex,
                 (unsigned long long)q->number);
        tp_nats_publish(&n->nats, subject, reply, q->bytes.data, q->bytes.len);
    }
    uv_mutex_unlock(&s->stores.lock);
}

static void take_store_answer(node *n, const char *rest, const tp_nats_event *e)
{
    char hex[TP_ID_TEXT];
    unsigned long long number;
    if (e->status != 0 || sscanf(rest, "%32[0-9a-f].%llu", hex, &number) != 2)
        return;
    session *s = find_session(n, hex);
    if (!s)
        return;
    uv_mutex_lock(&s->stores.lock);
    question *q = s->stores.questions;
    while (q && q->number != number)
        q = q->next;
    if (q && !q->has_answer && tp_buf_add(&q->answer, e->data, e->len) == 0) {
        q->has_answer = true;
        uv_cond_broadcast(&s->stores.answered);
    }
    uv_mutex_unlock(&s->stores.lock);
}

/* Ends all waits for answers. */
static void end_questions(session *s)
{
    uv_mutex_lock(&s->stores.lock);
    s->stores.is_over = true;
    uv_cond_broadcast(&s->stores.answered);
    uv_mutex_unlock(&s->stores.lock);
}

static int open_stores(session *s)
{
    far_stores *f = &s->stores;
    if (uv_mutex_init(&f->lock))
        return -1;
    if (uv_cond_init(&f->answered)) {
        uv_mutex_destroy(&f->lock);
        return -1;
    }
    f->keeper = (tp_store_keeper){ perform, drop_store, is_stuck, s, 0 };
    f->names = (tp_store_names){ id_of, store_of, note_func, s };
    f->permits = (tp_far_permits){ take_permit, release_permit, s };
    s->known.stores = &f->names;
    return 0;
}

static session *open_session(node *n, const uint8_t *id, const char *hex)
{
    session *s = calloc(1, sizeof *s);
    if (!s || open_stores(s)) {
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
    ask_session(n, s);
    return s;
}

static void free_image(image *i)
{
    tp_ref_drop(i->of);
    tp_ref_drop(i->kernel);
    tp_parcel_refs_free(&i->refs);
    *i = (image){ 0 };
}

/* A device runs on and on what nobody wants, which nothing but the end of this process stops: it
 * ends, and another one is started. What it had of others is run there. */
static void give_devices_up(node *n)
{
    say("a device runs what nobody wants any more, and does not end: its process is replaced");
    for (chunk *k = n->chunks; k; k = k->next)
        if (k->state < ANSWERED)
            answer(n, k, TP_ANSWER_BACK, "", 0);
    tp_nats_flush(&n->nats, 1000);
    _exit(EXIT_FAILURE);
}

/* Waits until the devices of a session that is over have come to rest. */
static void rest(node *n, session *s)
{
    const uint64_t until = now_ms() + CLOSING_MS;
    while (s->host && tp_own_devices_are_stuck(n->devices, s->host)) {
        if (now_ms() >= until)
            give_devices_up(n);
        hear(n);
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
        hear(n);
        uv_sleep(5);
    }
    uv_thread_join(&thread);
}

/* The session's coordinator is gone: frees all that there is of it. */
static void close_session(node *n, session *s)
{
    end_questions(s);
    for (chunk *k = n->chunks, *next; k; k = next) {
        next = k->next;
        if (k->session == s) {
            acknowledge(n, k, "+TERM");
            forget(n, k);
        }
    }
    for (unsigned i = 0; i < CANCELLED; i++)
        if (n->cancelled[i].session == s)
            n->cancelled[i].session = NULL;
    session **at = &n->sessions;
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    for (int i = 0; i < IMAGES; i++)
        free_image(&s->images[i]);
    tp_known_free(&s->known);
    if (n->devices)
        close_driver(n, s);
    else
        tp_host_close(s->host);
    if (s->modules >= 0)
        close(s->modules);
    uv_cond_destroy(&s->stores.answered);
    uv_mutex_destroy(&s->stores.lock);
    free(s->stores.ids);
    free(s->stores.funcs);
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

static int open_host(node *n, session *s, bool tags_lines, tp_error *err)
{
    tp_config config = {
        .size = sizeof config,
        .workers = (int)n->slots,
        .write = print,
        .user = s,
        .tag_lines = tags_lines,
        .worker = tp_is_set("TIDEPOOL_WORKER") ? getenv("TIDEPOOL_WORKER") : "/proc/self/exe",
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
    snprintf(s->host->modules, sizeof s->host->modules, "/proc/%ld/fd/%d", (long)getpid(),
             s->modules);
    snprintf(s->host->place, sizeof s->host->place, "on %s", n->host_name);
    s->host->stores = &s->stores.keeper;
    s->host->permits = &s->stores.permits;
    return 0;
}

/* ---- modules ---- */

/* Reads the modules of the task, in place of those that were used longest ago. NULL with err set:
 * they cannot be had. */
static kept_modules *fetch_modules(node *n, session *s, const tp_task *task, tp_error *err)
{
    kept_modules *m = &n->modules[0];
    tp_buf bytes = { 0 };
    for (int i = 1; i < MODULES; i++)
        if (n->modules[i].used < m->used)
            m = &n->modules[i];
    if (task->modules_size > TP_PAYLOAD_MAX) {
        tp_error_set(err, TP_ELIMIT, "too many modules");
        return NULL;
    }
    tp_blob b = tp_blob_of(task->modules, task->modules_size);
    int rc = tp_blob_get(&n->nats, s->hex, &b, &bytes, &(tp_between){ stay, n }, err);
    tp_blob_free(&b);
    if (rc) {
        tp_buf_free(&bytes);
        return NULL;
    }
    int fd = tp_memory_file_open("tidepool modules");
    for (size_t at = 0; fd >= 0 && at < bytes.len;) {
        ssize_t done = write(fd, bytes.data + at, bytes.len - at);
        if (done < 0 && errno != EINTR) {
            close(fd);
            fd = -1;
        }
        at += done > 0 ? (size_t)done : 0;
    }
    tp_buf_free(&bytes);
    if (fd < 0) {
        tp_error_oom(err, "modules");
        return NULL;
    }
    if (m->size)
        close(m->fd);
    *m = (kept_modules){ .size = task->modules_size, .fd = fd };
    memcpy(m->digest, task->modules, sizeof m->digest);
    return m;
}

/* Makes the session's processes find the modules of the task. A session's bundle only grows, so the
 * larger of two has the modules of both. */
static int take_modules(node *n, session *s, const tp_task *task, tp_error *err)
{
    kept_modules *m = NULL;
    if (task->modules_size <= s->modules_size)
        return 0;
    for (int i = 0; i < MODULES && !m; i++)
        if (n->modules[i].size == task->modules_size &&
            memcmp(n->modules[i].digest, task->modules, TP_DIGEST_BYTES) == 0)
            m = &n->modules[i];
    m = m ? m : fetch_modules(n, s, task, err);
    if (!m)
        return -1;
    m->used = ++n->modules_used;
    if (dup3(m->fd, s->modules, O_CLOEXEC) < 0)
        return tp_error_set(err, TP_ESYS, "cannot take modules: %s", strerror(errno));
    s->modules_size = m->size;
    return 0;
}

/* ---- chunks ---- */

/* The image with that digest, whose bytes are at `bytes`, or else in the stream of blobs. */
static image *find_image(node *n, session *s, const tp_task *task, const uint8_t *bytes,
                         tp_error *err)
{
    image *oldest = NULL;
    for (int k = 0; k < IMAGES; k++) {
        image *one = &s->images[k];
        if (one->of && memcmp(one->digest, task->image, TP_DIGEST_BYTES) == 0) {
            one->used = ++s->used;
            return one;
        }
        if (one->users == 0 && (!oldest || one->used < oldest->used))
            oldest = one;
    }
    uint8_t found[TP_DIGEST_BYTES];
    tp_buf blob = { 0 };
    size_t len = task->image_size;
    if (!oldest || len > TP_PAYLOAD_MAX) {
        tp_error_set(err, TP_ELIMIT, "too many functions at once");
        return NULL;
    }
    tp_blob b = tp_blob_of(task->image, len);
    int rc = bytes ? 0 : tp_blob_get(&n->nats, s->hex, &b, &blob, &(tp_between){ stay, n }, err);
    tp_blob_free(&b);
    if (rc) {
        tp_buf_free(&blob);
        return NULL;
    }
    bytes = bytes ? bytes : blob.data;
    tp_blake2b_hash(found, sizeof found, bytes, len);
    free_image(oldest);
    if (memcmp(found, task->image, sizeof found) != 0)
        tp_error_set(err, TP_ECODEC, "damaged work");
    else if (tp_parcel_get_image(&oldest->of, &oldest->refs, &s->known, bytes, len, err) == 0) {
        memcpy(oldest->digest, task->image, sizeof oldest->digest);
        oldest->used = ++s->used;
    }
    tp_buf_free(&blob);
    if (!oldest->of) {
        free_image(oldest);
        return NULL;
    }
    return oldest;
}

/* Makes the chunk's job run on devices, with the kernel of its image. */
static int use_kernel(node *n, chunk *k, tp_job_config *config, tp_error *err)
{
    image *i = k->image;
    if (!n->devices)
        return tp_error_set(err, TP_EUSAGE, "this worker drives no devices");
    if (!i->kernel)
        i->kernel = tp_own_devices_make(n->devices, k->session->host, i->of,
                                        &(tp_between){ hear, n }, err);
    if (!i->kernel)
        return -1;
    config->executor_data = (tp_ref *)tp_kernels_new(i->kernel);
    if (!config->executor_data)
        return tp_error_oom(err, "work");
    config->executor = tp_host_executor_that(k->session->host, TP_RUNS_KERNELS);
    config->sites = i->kernel->devices;
    config->image = NULL;
    return 0;
}

static int start_job(node *n, chunk *k, const tp_task *task, tp_block *items, tp_error *err)
{
    session *s = k->session;
    tp_job_config config = {
        .func = (tp_func *)(void *)k->refs.refs[task->func],
        .image = k->image->of,
        .executor = tp_host_executor_that(s->host, TP_RUNS_LUA | TP_ISOLATED),
        .waiter = &s->waiter,
        .ordered = true,
        .keep_going = true,
        .discard = task->discards,
        .total = task->count,
        .timeout_ns = task->timeout_ns,
        .recycle = task->recycle,
        .memory = task->memory,
        .batch = task->batch,
        .splits = task->splits,
        .streams = task->streams != 0,
        .is_metered = task->streams != 0,
        .returns = { .columns = task->returns },
        .draws = task->draws,
        .base = task->base,
        .part = { k->number, k->sending },
        .executor_name = tp_exec_cluster.name,
        .attempt = task->attempt,
    };
    memcpy(config.returns.type, task->returned, sizeof task->returned);
    int rc = task->is_kernel ? use_kernel(n, k, &config, err)
             : n->devices    ? tp_error_set(err, TP_EUSAGE, "this worker runs kernels only")
                             : 0;
    rc = rc ? rc : tp_job_open(&k->job, s->host->engine, &config, err);
    tp_ref_drop(config.executor_data);
    if (rc) {
        tp_block_free(items);
        return -1;
    }
    k->count = task->count;
    tp_groups_open(&k->groups, (tp_reduction)task->reduction, task->base, task->count);
    k->streams = task->streams != 0;
    k->allowed = task->allowed;
    if (k->streams)
        tp_job_allow(k->job, k->allowed);
    if (tp_job_push(k->job, items))
        return tp_error_oom(err, "work");
    tp_job_end(k->job);
    return 0;
}

static tp_sealed head_of(const chunk *k)
{
    tp_sealed head;
    memcpy(&head, k->message.data, sizeof head);
    return head;
}

/* Where the chunk's payload is; it is `head_of(k).size` long. */
static const uint8_t *payload_of(const chunk *k)
{
    return head_of(k).is_blob ? k->payload.data : k->message.data + sizeof(tp_sealed);
}

/* A chunk whose message was verified, and whose session is alive, waits for a slot. */
static void enqueue(node *n, chunk *k)
{
    tp_sealed head = head_of(k);
    tp_error err = { 0 };
    tp_task task;
    tp_blob b = tp_blob_of(head.digest, head.size);
    k->state = QUEUED;
    k->queued_ms = now_ms();
    int rc = head.is_blob ? tp_blob_get(&n->nats, k->session->hex, &b, &k->payload,
                                        &(tp_between){ stay, n }, &err)
                          : 0;
    tp_blob_free(&b);
    if (rc) {
        answer(n, k, TP_ANSWER_BACK, "", 0); /* the coordinator will store the payload again */
    } else if (head.size >= sizeof task) {
        memcpy(&task, payload_of(k), sizeof task);
        k->is_alone = task.is_alone != 0;
    }
}

/* Says what values there are, or that there are none yet; the coordinator answers to INBOX.v. */
static void send_values(node *n, chunk *k)
{
    char subject[TP_SUBJECT_MAX], reply[TP_SUBJECT_MAX];
    tp_part head = { .chunk = k->number,
                     .sending = k->sending,
                     .from = k->first_value,
                     .count = k->n_values,
                     .size = k->values.len,
                     .is_full = tp_job_is_full(k->job) };
    tp_buf message = { 0 };
    k->is_on_way = k->n_values > 0;
    k->told_ms = now_ms();
    memcpy(head.worker, n->id_bytes, sizeof head.worker);
    if (k->values.len > TP_INLINE_BYTES &&
        !send_large(n, k, &k->values, head.digest, &head.where))
        return; /* tried again later */
    snprintf(subject, sizeof subject, TP_SUBJECT_R "%s.part", k->session->hex);
    snprintf(reply, sizeof reply, "%s.v.%s.%llu.%u", n->inbox, k->session->hex,
             (unsigned long long)k->number, k->sending);
    if (tp_buf_add(&message, &head, sizeof head) == 0 &&
        (head.where != TP_ANSWER_HERE || k->values.len == 0 ||
         tp_buf_add(&message, k->values.data, k->values.len) == 0)) {
        tp_nats_publish(&n->nats, subject, reply, message.data, message.len);
        k->has_told_full = head.is_full != 0;
    }
    tp_buf_free(&message);
}

/* Begins a queued chunk. */
static void begin(node *n, chunk *k)
{
    session *s = k->session;
    tp_task task;
    tp_error err = { 0 };
    tp_block *items = NULL;
    const char *name;
    const uint8_t *image_bytes = NULL;
    k->state = RUNNING;
    k->begun_ns = uv_hrtime();
    s->busy_ms = now_ms();
    /* before it begins, since its items may kill this process */
    if (!k->is_named) {
        tp_buf text = { 0 };
        add_name(n, k, &text);
        send_names(n, s, &text);
    }
    if (!k->is_direct)
        tp_nats_push(&n->nats);
    int rc = tp_parcel_get_task(&task, &name, &items, &image_bytes, &k->ticket, &k->refs,
                                &s->known, payload_of(k), head_of(k).size, &err);
    s->is_kept |= k->ticket.len > 0;
    if (rc == 0 && !s->host)
        rc = open_host(n, s, task.tags_lines != 0, &err);
    rc = rc ? rc : take_modules(n, s, &task, &err);
    bool is_gone = rc && err.code == TP_ESYS; /* a blob that the task needs is gone */
    if (rc == 0) {
        k->image = find_image(n, s, &task, image_bytes, &err);
        rc = k->image ? 0 : -1;
    }
    if (k->image)
        k->image->users++;
    if (rc)
        tp_block_free(items);
    else
        rc = start_job(n, k, &task, items, &err);
    if (n->devices)
        k->begun_ns = uv_hrtime(); /* without what compiling took */
    tp_buf_free(&k->payload);
    if (rc == 0 && k->streams) /* so that it is this worker's */
        send_values(n, k);
    if (is_gone || (rc && err.code == TP_ESYS && !image_bytes && !k->image)) {
        answer(n, k, TP_ANSWER_BACK, "", 0);
    } else if (rc) {
        char why[600];
        snprintf(why, sizeof why, "%s: %s", n->host_name, err.message);
        answer(n, k, TP_ANSWER_REFUSED, why, strlen(why));
    }
}

/* The rest of its items fail, with this text. */
static void fail_rest(chunk *k, tp_failure_kind kind, const char *text)
{
    for (; k->at < k->count; k->at++) {
        tp_block *b = tp_block_new_failure(kind, text, 1, 1);
        if (!b ||
            tp_parcel_put_result(&k->records, b, 0, 1, k->at, &k->refs, &k->image->refs, NULL)) {
            tp_block_free(b);
            return;
        }
        tp_block_free(b);
    }
}

/* Writes the records of results that the job has given. `is_over`: it gives no more. */
static void put_results(chunk *k, bool is_over)
{
    const tp_block *b;
    uint32_t from, n;
    while (tp_groups_next(&k->groups, is_over, &b, &from, &n)) {
        tp_error err = { 0 };
        if (k->at != k->groups.at - n)
            continue; /* there was no memory for what comes before: it fails, with all of these */
        if (tp_parcel_put_result(&k->records, b, from, n, k->at, &k->refs, &k->image->refs,
                                 &err) == 0) {
            k->at += n;
        } else {
            uint32_t count = k->count;
            k->count = k->at + n;
            fail_rest(k, tp_failure_kind_of(err.code, TP_KIND_CODEC), err.message);
            k->count = count;
        }
    }
}

/* A block that the chunk's job has given: values, or the item's result. */
static void take_block(chunk *k, tp_block *b)
{
    tp_error err = { 0 };
    if (k->at == k->count) { /* it has failed, see below */
        tp_block_free(b);
        return;
    }
    if (b->kind != TP_BLOCK_PART) {
        tp_groups_add(&k->groups, b);
        put_results(k, false);
        return;
    }
    if (tp_parcel_put_result(&k->values, b, 0, b->n, 0, &k->refs, &k->image->refs, &err) == 0) {
        k->n_values += b->n;
    } else { /* it ends before these */
        fail_rest(k, tp_failure_kind_of(err.code, TP_KIND_CODEC), err.message);
        tp_job_cancel(k->job);
    }
    tp_block_free(b);
}

/* Has the chunk's job more to give now? What its item has given is sent in one message at a time,
 * and its result only after that. */
static bool gives(const chunk *k)
{
    return !k->is_on_way && k->values.len < TP_INLINE_BYTES;
}

/* Takes what the chunk's job has given. */
static void collect(node *n, chunk *k)
{
    bool has_more;
    do {
        tp_job_unawait(k->job);
        uint32_t seen = tp_job_eventcount(k->job);
        for (tp_block *b; gives(k) && (b = tp_job_next(k->job));)
            take_block(k, b);
        bool is_full = k->streams && tp_job_is_full(k->job);
        k->has_told_full &= is_full;
        if (!k->is_on_way && (k->n_values > 0 || (is_full && !k->has_told_full)))
            send_values(n, k);
        if (!k->is_on_way && (tp_job_is_over(k->job) || (k->streams && k->at == k->count))) {
            const tp_error *why = tp_job_lost(k->job);
            put_results(k, true);
            if (k->at < k->count)
                fail_rest(k, TP_KIND_RESOURCE,
                          why ? why->message : "not enough memory on a worker of the cluster");
            double took = (double)(uv_hrtime() - k->begun_ns);
            if (!k->streams) /* its reader may be slow */
                n->chunk_ns = n->chunk_ns > 0 ? 0.8 * n->chunk_ns + 0.2 * took : took;
            answer(n, k, TP_ANSWER_DONE, k->records.data, k->records.len);
            return;
        }
        has_more = !tp_job_await(k->job, seen) && gives(k);
    } while (has_more);
}

/* What the coordinator has said of an item's values. */
static void take_allowance(node *n, const char *rest, const tp_nats_event *e)
{
    char hex[TP_ID_TEXT], text[64];
    unsigned long long number, taken, allowed;
    unsigned sending;
    if (e->status != 0 || sscanf(rest, "%32[0-9a-f].%llu.%u", hex, &number, &sending) != 3)
        return;
    session *s = find_session(n, hex);
    chunk *k = s ? find_chunk(n, s, number) : NULL;
    if (!k || k->state != RUNNING || !k->streams || k->sending != sending)
        return;
    snprintf(text, sizeof text, "%.*s", (int)(e->len < 63 ? e->len : 63), e->data);
    if (strcmp(text, "over") == 0) {
        acknowledge(n, k, "+TERM");
        forget(n, k);
        return;
    }
    if (sscanf(text, "%llu %llu", &taken, &allowed) != 2)
        return;
    if (k->is_on_way && taken == k->first_value + k->n_values) {
        k->first_value = taken;
        k->n_values = 0;
        k->is_on_way = false;
        tp_buf_clear(&k->values);
    }
    if (allowed > k->allowed) {
        k->allowed = allowed;
        k->has_told_full = false;
        tp_job_allow(k->job, allowed);
    }
    collect(n, k);
}

/* How many running items wait for others (for Queues and permits): as many more chunks may run. */
static unsigned count_blocked(const node *n)
{
    unsigned blocked = 0;
    for (const session *s = n->sessions; s; s = s->next) {
        if (!s->host)
            continue;
        uv_mutex_lock(tp_engine_lock(s->host->engine));
        blocked += tp_host_executor_that(s->host, TP_RUNS_LUA | TP_ISOLATED)->blocked;
        uv_mutex_unlock(tp_engine_lock(s->host->engine));
    }
    return blocked;
}

/* How many chunks run and are none of those that wait for others (count_blocked). */
static unsigned count_active(const node *n, unsigned blocked)
{
    unsigned running = 0;
    for (const chunk *k = n->chunks; k; k = k->next)
        running += k->state == RUNNING;
    return running > blocked ? running - blocked : 0;
}

/* Begins queued chunks as far as there are slots, in their order. Those that find none go back, so
 * that they run where there are some. */
static void begin_queued(node *n, uint64_t now)
{
    unsigned running = 0, blocked = count_blocked(n), active = count_active(n, blocked);
    const unsigned slots = n->slots + blocked;
    bool has_alone = false;
    for (const chunk *k = n->chunks; k; k = k->next) {
        running += k->state == RUNNING;
        /* if it waits, too, it may be for what has yet to begin */
        has_alone |= k->state == RUNNING && k->is_alone && active > 0;
    }
    for (chunk *k = n->chunks; k; k = k->next) {
        if (k->state != QUEUED)
            continue;
        if (running < slots && !has_alone && !(k->is_alone && active > 0)) {
            begin(n, k);
            if (k->state == RUNNING)
                collect(n, k); /* also asks to be woken at its next news */
            running += k->state == RUNNING;
            active += k->state == RUNNING;
            has_alone = k->is_alone;
        } else if (k->is_alone) {
            has_alone = true; /* it begins when all that runs is over */
        } else if (now >= k->queued_ms + WAIT_MS && !n->devices) {
            n->chunk_ns = 2 * SHORT_NS; /* chunks take longer than was thought: fetch none ahead */
            answer(n, k, TP_ANSWER_BACK, "", 0);
        }
    }
}

/* Asks for as many chunks as there is room for, with the acknowledgement of one (`ack`), or else by
 * itself. False: there is no room, or it is not the time. */
static bool pull_work(node *n, uint64_t now, const char *ack)
{
    char subject[TP_SUBJECT_MAX], reply[TP_SUBJECT_MAX], body[80];
    unsigned has = 0;
    int free_one = -1;
    if (n->is_leaving || n->is_lost || n->devices || now < n->pull_ms)
        return false;
    const unsigned blocked = count_blocked(n), most = most_chunks(n) + blocked;
    const bool is_active = count_active(n, blocked) > 0;
    for (const chunk *k = n->chunks; k; k = k->next) {
        const bool takes_all = k->is_alone && (is_active || k->state != RUNNING);
        if (k->state < ANSWERED)
            has += takes_all ? most : 1;
    }
    for (int i = 0; i < PULLS; i++) {
        if (n->pulls[i].left && now >= n->pulls[i].until_ms)
            n->pulls[i].left = 0;
        has += n->pulls[i].left;
        if (!n->pulls[i].left)
            free_one = i;
    }
    if (has >= most || free_one < 0)
        return false;
    const uint64_t pull_ms = PULL_BEATS * n->beat_ms;
    n->pulls[free_one] = (pull){ most - has, now + pull_ms + LOOK_MS };
    snprintf(subject, sizeof subject, "$JS.API.CONSUMER.MSG.NEXT." TP_STREAM_W ".P_%s",
             n->build.hex);
    snprintf(reply, sizeof reply, "%s.p.%d", n->inbox, free_one);
    snprintf(body, sizeof body, "%s{\"batch\":%u,\"expires\":%llu000000}", ack ? "+NXT " : "",
             most - has, (unsigned long long)pull_ms);
    tp_nats_publish(&n->nats, ack ? ack : subject, reply, body, strlen(body));
    return true;
}

/* ---- what comes in ---- */

static void drop(node *n, const tp_nats_event *e, const char *why)
{
    n->dropped++;
    say("dropped a message: %s (%llu so far)", why, (unsigned long long)n->dropped);
    if (strncmp(e->reply, "$JS.ACK.", 8) == 0)
        tp_nats_publish(&n->nats, e->reply, NULL, "+TERM", 5);
}

/* What is wrong with a message of work; NULL: it is what its coordinator has sent. */
static const char *trouble_with(const node *n, const tp_nats_event *e, bool is_direct,
                                tp_sealed *head)
{
    uint8_t digest[TP_DIGEST_BYTES];
    char subject[TP_SUBJECT_MAX], hex[TP_ID_TEXT];
    size_t begin = TP_SIGNATURE_BYTES + sizeof *head;
    if (e->len < begin)
        return "it is too short";
    memcpy(head, e->data + TP_SIGNATURE_BYTES, sizeof *head);
    if (memcmp(head->magic, TP_SEALED_MAGIC, sizeof head->magic) != 0)
        return "it is no work";
    if (memcmp(head->key, n->signer.public_key, sizeof head->key) != 0)
        return "it is signed with another key than this worker's token names";
    if (!tp_signer_verify(&n->signer, (const uint8_t *)e->data, head, sizeof *head))
        return "its signature is wrong";
    if (memcmp(head->build, n->build.id, sizeof head->build) != 0)
        return "it is of another build";
    tp_to_hex(hex, head->session, sizeof head->session);
    snprintf(subject, sizeof subject, TP_SUBJECT_W "%s.%s.%llu.%u", n->build.hex, hex,
             (unsigned long long)head->chunk, head->sending);
    if (!is_direct && strcmp(subject, e->subject) != 0)
        return "it is not where it was sent to";
    if (head->size > TP_PAYLOAD_MAX || e->len - begin != (head->is_blob ? 0 : head->size))
        return "it is longer or shorter than it says";
    tp_blake2b_hash(digest, sizeof digest, e->data + begin, e->len - begin);
    if (!head->is_blob && memcmp(digest, head->digest, sizeof digest) != 0)
        return "its payload is not what was signed";
    return NULL;
}

static bool is_cancelled(const node *n, const session *s, uint64_t number)
{
    for (unsigned i = 0; i < CANCELLED; i++)
        if (n->cancelled[i].session == s && n->cancelled[i].chunk == number)
            return true;
    return false;
}

static void take_work(node *n, const tp_nats_event *e, bool is_direct)
{
    tp_sealed head;
    char hex[TP_ID_TEXT];
    const char *trouble = trouble_with(n, e, is_direct, &head);
    if (trouble) {
        drop(n, e, trouble);
        return;
    }
    tp_to_hex(hex, head.session, sizeof head.session);
    session *s = find_session(n, hex);
    chunk *k = s ? find_chunk(n, s, head.chunk) : NULL;
    /* not wanted any more, or sent anew since */
    if (s && (is_cancelled(n, s, head.chunk) || (k && k->sending > head.sending))) {
        acknowledge_at(n, e->reply, "+TERM");
        return;
    }
    if (k && k->sending == head.sending) { /* the same sending again: it was taken for lost */
        if (!is_direct)
            snprintf(k->ack, sizeof k->ack, "%s", e->reply);
        k->is_direct &= is_direct;
        return;
    }
    if (k) /* sent anew: nobody waits for the earlier sending any more */
        forget(n, k);
    s = s ? s : open_session(n, head.session, hex);
    k = s ? calloc(1, sizeof *k) : NULL;
    if (!k || tp_buf_add(&k->message, e->data + TP_SIGNATURE_BYTES,
                         e->len - TP_SIGNATURE_BYTES)) {
        free(k);
        acknowledge_at(n, e->reply, "-NAK");
        return;
    }
    k->session = s;
    k->number = head.chunk;
    k->sending = head.sending;
    k->is_direct = k->is_named = is_direct;
    if (!is_direct)
        snprintf(k->ack, sizeof k->ack, "%s", e->reply);
    k->progress_ms = now_ms() + PROGRESS_MS;
    chunk **end = &n->chunks;
    while (*end)
        end = &(*end)->next;
    *end = k;
    if (n->is_leaving)
        answer(n, k, TP_ANSWER_BACK, "", 0);
    else if (s->is_alive)
        enqueue(n, k);
}

static void take_alive(node *n, session *s, const tp_nats_event *e)
{
    struct {
        uint8_t signature[TP_SIGNATURE_BYTES];
        tp_alive alive;
    } a;
    if (e->len != sizeof a)
        return; /* nobody answers (503), or the answer is malformed */
    memcpy(&a, e->data, sizeof a);
    if (!tp_signer_verify(&n->signer, a.signature, &a.alive, sizeof a.alive) ||
        memcmp(a.alive.magic, TP_ALIVE_MAGIC, sizeof a.alive.magic) != 0 ||
        memcmp(a.alive.session, s->id, TP_ID_BYTES) != 0 ||
        memcmp(a.alive.build, n->build.id, TP_ID_BYTES) != 0 || s->tries == 0 ||
        memcmp(a.alive.nonce, s->nonce, TP_ID_BYTES) != 0) {
        drop(n, e, "it is no answer of that coordinator's");
        return;
    }
    s->tries = 0;
    s->ask_ms = now_ms() + ALIVE_BEATS * n->beat_ms;
    bool is_new = !s->is_alive;
    s->is_alive = true;
    for (chunk *k = n->chunks; k && is_new; k = k->next)
        if (k->session == s && k->state == WAITING)
            enqueue(n, k);
}

static void take_control(node *n, const char *whose, const char *data, size_t len)
{
    char text[40];
    unsigned long long number;
    snprintf(text, sizeof text, "%.*s", (int)(len < 39 ? len : 39), data);
    if (strcmp(whose, "all") == 0 && sscanf(text, "beat %llu", &number) == 1) {
        n->beat_ms = number < TP_BEAT_MS ? TP_BEAT_MS : number;
        n->beat_ms = n->beat_ms < TP_BEAT_MAX_MS ? n->beat_ms : TP_BEAT_MAX_MS;
        n->beat_until_ms = now_ms() + TP_BEAT_KEPT_MS;
        return;
    }
    if (strcmp(whose, "all") == 0 && strcmp(text, "devices") == 0) {
        n->wants_devices = true;
        return;
    }
    if (strcmp(whose, "all") == 0) {
        n->heartbeat_ms = n->pull_ms = 0;
        for (int i = 0; i < PULLS; i++)
            n->pulls[i].left = 0; /* pulls may have been lost while there was no consumer */
        return;
    }
    session *s = find_session(n, whose);
    if (s && s->host && strcmp(text, "stuck") == 0) {
        tp_engine_give_up(s->host->engine);
    } else if (s && strcmp(text, "over") == 0) {
        close_session(n, s);
    } else if (s && sscanf(text, "cancel %llu", &number) == 1) {
        unsigned at = n->n_cancelled++ % CANCELLED;
        n->cancelled[at].session = s;
        n->cancelled[at].chunk = number;
        chunk *k = find_chunk(n, s, number);
        if (k) {
            acknowledge(n, k, "+TERM");
            forget(n, k);
        }
    }
}

/* The server has a result, or had one already; or its coordinator has it. */
static void take_acknowledgement(node *n, const char *rest, const tp_nats_event *e)
{
    char hex[TP_ID_TEXT], why[120];
    unsigned long long number;
    unsigned sending;
    if (sscanf(rest, "%32[0-9a-f].%llu.%u", hex, &number, &sending) != 3)
        return;
    session *s = find_session(n, hex);
    chunk *k = s ? find_chunk(n, s, number) : NULL;
    if (!k || k->state != ANSWERED || k->is_unsent || k->sending != sending)
        return;
    tp_nats_stored stored = tp_nats_is_stored(e, why, sizeof why);
    /* the stream is full, but the coordinator listens too: it has the result, or will answer when
     * it is sent again */
    if (stored == TP_NATS_FULL)
        k->again_ms = now_ms() + LOOK_MS;
    if (stored != TP_NATS_STORED)
        return;
    if (!*k->ack || !pull_work(n, now_ms(), k->ack))
        acknowledge(n, k, "+ACK");
    forget(n, k);
}

/* The server says that a pull request is over. */
static void take_status(node *n, int i)
{
    if (i >= 0 && i < PULLS)
        n->pulls[i].left = 0;
}

/* There is no stream yet for something that was published; or a coordinator is dead that was asked
 * whether it lives. */
static void wait_for_streams(node *n)
{
    for (const session *s = n->sessions; s; s = s->next)
        if (s->tries)
            return;
    n->pull_ms = now_ms() + LOOK_MS;
    for (int i = 0; i < PULLS; i++)
        n->pulls[i].left = 0;
}

/* Work comes with its own subject. The server serves the oldest pull first. */
static void take_pulled(node *n, const tp_nats_event *e)
{
    pull *oldest = NULL;
    for (int i = 0; i < PULLS; i++)
        if (n->pulls[i].left && (!oldest || n->pulls[i].until_ms < oldest->until_ms))
            oldest = &n->pulls[i];
    if (oldest)
        oldest->left--;
    if (strncmp(e->reply, "$JS.ACK.", 8) == 0)
        take_work(n, e, false);
}

static void take_event(node *n, const tp_nats_event *e)
{
    size_t inbox = strlen(n->inbox), ctl = strlen(TP_SUBJECT_CTL);
    if (e->kind == TP_NATS_LOST)
        n->is_lost = true;
    if (e->kind == TP_NATS_CLOSED)
        n->is_refused = true;
    if (e->kind == TP_NATS_BACK) {
        n->is_lost = false;
        n->heartbeat_ms = n->pull_ms = 0;
        for (int i = 0; i < PULLS; i++)
            n->pulls[i].left = 0;
        for (chunk *k = n->chunks; k; k = k->next)
            if (k->state == ANSWERED && !k->is_unsent)
                send_answer(n, k);
    }
    if (e->kind != TP_NATS_MESSAGE)
        return;
    if (!*e->subject) {
        wait_for_streams(n);
    } else if (strncmp(e->subject, TP_SUBJECT_CTL, ctl) == 0) {
        take_control(n, e->subject + ctl, e->data, e->len);
    } else if (strncmp(e->subject, n->inbox, inbox) == 0) {
        const char *rest = e->subject + inbox;
        if (strncmp(rest, ".p.", 3) == 0) {
            take_status(n, atoi(rest + 3));
        } else if (strcmp(rest, ".d") == 0) {
            take_work(n, e, true);
        } else if (strncmp(rest, ".a.", 3) == 0) {
            take_acknowledgement(n, rest + 3, e);
        } else if (strncmp(rest, ".v.", 3) == 0) {
            take_allowance(n, rest + 3, e);
        } else if (strncmp(rest, ".q.", 3) == 0) {
            take_store_answer(n, rest + 3, e);
        } else if (strncmp(rest, ".s.", 3) == 0) {
            session *s = find_session(n, rest + 3);
            if (s)
                take_alive(n, s, e);
        }
    } else {
        take_pulled(n, e);
    }
}

/* ---- what is done from time to time ---- */

static void look_at_chunks(node *n, uint64_t now)
{
    for (chunk *k = n->chunks, *next; k; k = next) {
        next = k->next;
        if (k->state == RUNNING)
            collect(n, k);
        /* what was said may be lost, and so may the answer */
        if (k->state == RUNNING && k->streams && now >= k->told_ms + AGAIN_MS && !n->is_lost)
            send_values(n, k);
        if (k->state == ANSWERED && now >= k->again_ms && !n->is_lost) {
            if (k->is_unsent)
                deliver(n, k, NULL);
            else
                send_answer(n, k);
        }
        if (k->state == OVER)
            forget(n, k);
    }
}

static void look_at_sessions(node *n, uint64_t now)
{
    for (session *s = n->sessions, *next; s && !n->is_lost; s = next) {
        next = s->next;
        if (now < s->ask_ms)
            continue;
        if (s->tries >= (s->is_kept ? KEPT_TRIES : ALIVE_TRIES))
            close_session(n, s);
        else
            ask_session(n, s);
    }
}

/* Tells coordinators that the process which drove the devices is dead, before they miss it. */
static void mourn(node *n)
{
    char subject[TP_SUBJECT_MAX];
    snprintf(subject, sizeof subject, TP_SUBJECT_HB "%s", n->device_process.id);
    tp_nats_publish(&n->nats, subject, NULL, "gone", 4);
}

/* Starts the process that drives the devices when it is wanted, and anew when it has died: soon,
 * but later and later when it dies young again and again. */
static void look_at_devices(node *n, uint64_t now)
{
    tp_device_process *p = &n->device_process;
    tp_error err = { 0 };
    uint8_t id[TP_ID_BYTES];
    char hex[TP_ID_TEXT];
    switch (tp_device_process_look(p)) {
    case TP_DEVICES_QUIET:
        break;
    case TP_DEVICES_BUSY:
        n->busy_ms = now;
        break;
    case TP_DEVICES_NONE:
        n->reborn_ms = UINT64_MAX;
        break;
    case TP_DEVICES_DEAD:
        mourn(n); /* who needs devices asks again */
        n->wants_devices = false;
        n->deaths = now >= n->born_ms + STUCK_MS      ? 0
                    : n->deaths < DEVICES_AGAIN_MAX ? n->deaths + 1
                                                    : n->deaths;
        n->reborn_ms = now + ((uint64_t)DEVICES_AGAIN_MS << n->deaths);
        if (WIFSIGNALED(p->status) && !n->is_leaving)
            say("the process that drives its devices died (%s); another one takes its place",
                strsignal(WTERMSIG(p->status)));
    }
    if (!n->wants_devices || n->devices || p->pid || n->is_leaving || now < n->reborn_ms)
        return;
    tp_signer_random(&n->signer, id, sizeof id);
    tp_to_hex(hex, id, sizeof id);
    n->born_ms = now;
    if (tp_device_process_start(p, n->options, n->token, hex, n->grace_s, &err)) {
        n->reborn_ms = UINT64_MAX;
        say("%s", err.message);
    }
}

/* Gives up devices that run for long what nobody wants. */
static void look_whether_stuck(node *n, uint64_t now)
{
    for (session *s = n->sessions; s && n->devices; s = s->next) {
        if (!s->host || !tp_own_devices_are_stuck(n->devices, s->host))
            s->stuck_ms = 0;
        else if (s->stuck_ms == 0)
            s->stuck_ms = now;
        else if (now > s->stuck_ms + STUCK_MS)
            give_devices_up(n);
    }
}

/* Is there nothing left to wait for? After the grace time what runs goes back. */
static bool has_left(node *n, uint64_t now)
{
    if (!n->is_leaving) {
        n->is_leaving = true;
        n->leave_ms = now + n->grace_ms;
        n->heartbeat_ms = 0;
        tp_device_process_kill(&n->device_process, SIGTERM);
        if (!n->devices)
            say("leaves when what runs is over (at most %d s)", (int)(n->grace_ms / 1000));
        for (chunk *k = n->chunks; k; k = k->next)
            if (k->state < RUNNING)
                answer(n, k, TP_ANSWER_BACK, "", 0);
    }
    bool is_late = now >= n->leave_ms || asked_to_leave > 1;
    for (chunk *k = n->chunks; k && is_late; k = k->next)
        if (k->state < ANSWERED)
            answer(n, k, TP_ANSWER_BACK, "", 0);
    return (!n->chunks && !n->device_process.pid) ||
           (is_late && (n->is_lost || now >= n->leave_ms + AGAIN_MS));
}

static void serve(node *n)
{
    while (!n->is_refused) {
        uint64_t now = now_ms();
        if (asked_to_leave && has_left(n, now))
            return;
        if (n->chunks || n->is_lost)
            n->busy_ms = now;
        if (n->idle_ms && now >= n->busy_ms + n->idle_ms && !asked_to_leave) {
            say("had nothing to do for %d s", (int)(n->idle_ms / 1000));
            asked_to_leave = 1;
        }
        if (now > n->beat_until_ms)
            n->beat_ms = TP_BEAT_MS;
        stay(n);
        look_at_devices(n, now);
        look_whether_stuck(n, now);
        look_at_chunks(n, now);
        begin_queued(n, now);
        look_at_sessions(n, now);
        for (session *s = n->sessions; s && !n->is_lost; s = s->next)
            send_questions(n, s, now);
        pull_work(n, now, NULL);
        tp_nats_event *e = next_event(n, uv_hrtime() + LOOK_MS * 1000000ull);
        for (int i = 0; e && i < 64; i++) {
            take_event(n, e);
            tp_nats_free(&n->nats, e);
            e = i < 63 ? next_event(n, 0) : NULL;
        }
    }
}

/* ---- the process ---- */

static void on_signal(int sig)
{
    (void)sig;
    asked_to_leave = asked_to_leave < 2 ? asked_to_leave + 1 : 2;
}

/* Checks that the options name an engine, which a worker needs on any machine. */
static int check_engine(const tp_options *o, tp_error *err)
{
    if (!o->engine)
        return tp_error_set(err, TP_EUSAGE,
                            "says for which engine: --engine nats://HOST:4222, or TIDEPOOL_ENGINE");
    if (!o->token)
        return tp_error_set(err, TP_EUSAGE,
                            "there is no token: TIDEPOOL_TOKEN is to be what `tidepool engine "
                            "token` shows on the engine's machine");
    return 0;
}

/* `id`: its name; "": one by chance */
static int open_node(node *n, const tp_options *o, const char *id, tp_error *err)
{
    if (tp_signer_open(&n->signer, o->token, false, err))
        return -1;
    tp_build_get(&n->build);
    if (*id)
        tp_from_hex(n->id_bytes, id, sizeof n->id_bytes);
    else
        tp_signer_random(&n->signer, n->id_bytes, sizeof n->id_bytes);
    tp_to_hex(n->id, n->id_bytes, sizeof n->id_bytes);
    snprintf(n->inbox, sizeof n->inbox, "%s.%s", n->signer.inbox, n->id);
    if (gethostname(n->host_name, sizeof n->host_name - 1) || !*n->host_name)
        snprintf(n->host_name, sizeof n->host_name, "worker");
    n->slots = n->devices   ? KERNELS * n->devices->n
               : o->workers ? (unsigned)o->workers
                            : tp_cpus();
    n->token = strdup(o->token);
    if (!n->token)
        return tp_error_oom(err, "token");
    char subject[TP_SUBJECT_MAX];
    snprintf(subject, sizeof subject, "%s.>", n->inbox);
    return tp_nats_open(&n->nats, err) ||
                   tp_nats_connect(&n->nats, o->engine, n->host_name, &n->signer, err) ||
                   tp_nats_subscribe(&n->nats, subject, err) ||
                   tp_nats_subscribe(&n->nats, TP_SUBJECT_CTL "*", err)
               ? -1
               : 0;
}

/* What the words of `tidepool worker` say that are not options of the host. */
typedef struct words {
    const char *hosts;
    long grace_s, idle_s; /* idle_s 0: it never leaves by itself */
    /* not for users: this is the process of a worker, `parent`, that drives devices, and is called
     * `id`; "": it is not */
    char id[TP_ID_TEXT];
    long parent;
} words;

static int usage(const char *format, const char *what)
{
    fprintf(stderr, "tidepool worker: ");
    fprintf(stderr, format, what);
    fputs("\nusage: tidepool worker --engine URL [-w N] [--hosts A,B,...] [--idle-exit SECONDS] "
          "[--grace SECONDS]   (see tidepool help worker)\n",
          stderr);
    return TP_EXIT_USAGE;
}

/* Is `word` the option `name`, with its value in the same word or in the next? */
static const char *value_of(const char *name, const char *word, const char *next, int *taken)
{
    size_t len = strlen(name);
    if (strncmp(word, name, len) != 0 || (word[len] && word[len] != '='))
        return NULL;
    *taken = word[len] ? 1 : 2;
    return word[len] ? word + len + 1 : next ? next : "nothing";
}

/* 0, or the exit code after saying what is wrong; -1: help was asked for, and given. */
static int read_words(const tp_options *o, words *w)
{
    enum { SECONDS_MAX = 1000000 };
    for (int i = o->script, taken = 1; i < o->argc; i += taken) {
        const char *word = o->argv[i], *next = o->argv[i + 1], *value;
        long *seconds = &w->grace_s;
        if (strcmp(word, "--help") == 0) {
            puts("usage: tidepool worker --engine URL [-w N] [--hosts A,B,...] "
                 "[--idle-exit SECONDS] [--grace SECONDS]   (see tidepool help worker)");
            return -1;
        }
        if ((value = value_of("--hosts", word, next, &taken))) {
            w->hosts = value;
            continue;
        }
        if ((value = value_of("--devices", word, next, &taken))) {
            if (sscanf(value, "%32[0-9a-f].%ld", w->id, &w->parent) != 2 ||
                strlen(w->id) != TP_ID_TEXT - 1)
                return usage("it does not know %.100s", word);
            continue;
        }
        if ((value = value_of("--idle-exit", word, next, &taken)))
            seconds = &w->idle_s;
        else if (!(value = value_of("--grace", word, next, &taken)))
            return usage("it does not know %.100s", word);
        char *end;
        *seconds = *value >= '0' && *value <= '9' ? strtol(value, &end, 10) : -1;
        if (*seconds < 0 || *end || *seconds > SECONDS_MAX)
            return usage(seconds == &w->idle_s ? "--idle-exit is a number of seconds, not %.100s"
                                               : "--grace is a number of seconds, not %.100s",
                         value);
    }
    return 0;
}

int tp_cluster_worker_main(const tp_options *o)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
    struct sigaction action = { .sa_handler = on_signal };
    words w = { .grace_s = GRACE_S };
    tp_error err = { 0 };
    int rc = read_words(o, &w);
    if (rc)
        return rc < 0 ? EXIT_SUCCESS : rc;
    signal(SIGPIPE, SIG_IGN);
    rc = check_engine(o, &err);
    if (rc == 0 && w.hosts)
        return tp_hosts_main(o, w.hosts, w.grace_s == GRACE_S ? -1 : w.grace_s, w.idle_s);
    tp_own_devices devices = { 0 };
    if (rc == 0 && *w.id) {
        tp_caches_prepare();
        if (tp_device_process_is_orphan(w.parent) || tp_own_devices_open(&devices, &err))
            return TP_DEVICES_EXIT_NONE;
    }
    node *n = rc ? NULL : calloc(1, sizeof *n);
    if (n && *w.id)
        n->devices = &devices;
    if (!n || open_node(n, o, w.id, &err)) {
        fprintf(stderr, "tidepool worker: %s\n",
                err.code ? err.message : "not enough memory");
        free(n);
        return err.code == TP_EUSAGE ? TP_EXIT_USAGE : EXIT_FAILURE;
    }
    n->options = o;
    n->device_process.says = -1;
    n->grace_s = w.grace_s;
    n->grace_ms = (uint64_t)w.grace_s * 1000;
    n->idle_ms = (uint64_t)w.idle_s * 1000;
    n->busy_ms = now_ms();
    n->beat_ms = TP_BEAT_MS;
    tp_engine_hide_token(); /* items and their commands must not see it */
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaction(signals[i], &action, NULL);
    if (n->devices)
        say("%u device%s for kernels, the first is %s", devices.n, devices.n == 1 ? "" : "s",
            devices.seen[0].name);
    else
        say("ready for work of %s (%u at once)", o->engine, n->slots);
    serve(n);
    tp_device_process_kill(&n->device_process, SIGKILL);
    while (n->sessions)
        close_session(n, n->sessions);
    tp_nats_flush(&n->nats, 1000);
    while (n->later.first)
        tp_nats_free(&n->nats, next_event(n, 0));
    tp_nats_close(&n->nats);
    if (n->is_refused)
        say("the engine at %s does not let this worker in any more", o->engine);
    const int code = n->is_refused ? EXIT_FAILURE : EXIT_SUCCESS;
    free(n->token);
    free(n);
    tp_cl_close(devices.cl);
    return code;
}
