/* exec_cluster.c: the coordinator of a cluster: an executor whose items run on other machines.
 *
 * One thread, the carrier, takes slices for many agents, its flights: one for each chunk that may
 * be under way. A flight's chunk is published as signed work (parcel.h), and the flight waits for
 * its result: to tidepool's engine (engine/job.h) it is a worker that takes long. The names on the
 * server are in protocol.h.
 *
 * Work that is short and small does not go by way of the server's streams: a worker says in its
 * answers how many chunks it takes directly, and gets them, and answers directly. That is one
 * message there and one back. A chunk that is lost on the way is sent again, through the streams.
 *
 * Kernels run at workers with devices, which tell of them. Each different value of the option `gpu`
 * is a site of the engine's (tp_cluster_site): a flight takes work of one when a worker with such
 * devices has room, sends it there directly, whatever its size, and again if that dies.
 *
 * The carrier alone knows what is done; the server only transports. The carrier asks again and
 * again for a chunk without a result: if the result is stored, it is read, else the work is
 * published again. The server refuses what it has already, and a flight takes the first result of
 * its chunk, so that lost messages, a restarted server and one without its disk cost time and
 * nothing else. */
#include "cluster/exec_cluster.h"

#include "base/blake2b.h"
#include "base/sigmask.h"
#include "base/thread.h"
#include "cluster/blobs.h"
#include "cluster/lanes.h"
#include "cluster/nats.h"
#include "cluster/parcel.h"
#include "cluster/protocol.h"
#include "cluster/sign.h"
#include "engine/inside.h"
#include "opencl/match.h"
#include "runtime/runtime.h"

#include <ctype.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A worker's question that cannot be answered yet: about a Queue (it waits for a value or for room)
 * or a permit. */
typedef struct question {
    struct question *next;
    tp_permit_op permit; /* func not 0: the question is about a permit */
    tp_store_op op;
    tp_ref *store;
    char *key;
    char reply[TP_SUBJECT_MAX];
    uint64_t deadline_ns;
} question;

/* An answer that was sent, kept in case it is lost and the question comes again. */
typedef struct answered {
    uint8_t id[TP_ID_BYTES];
    tp_buf bytes;
} answered;

enum {
    /* chunks in flight at most; memory for them is touched only when it is needed */
    FLIGHTS = 32768,
    FLIGHTS_LEAST = 4,   /* before any worker has shown itself */
    WORKERS_MAX = 32768, /* workers known at most; a power of two */
    OFFERS_MAX = 4096,   /* of one worker */
    /* The number of chunks in flight is adapted until a chunk takes about this long from being sent
     * to its result: so workers never wait for the next one, and later work does not queue for
     * long. There are at least two for each slot of a worker. */
    IN_FLIGHT_NS = 10 * 1000 * 1000,
    /* how long a chunk should run: sending it should cost little in comparison */
    SLICE_NS = 10 * 1000 * 1000,
    /* how often cancelled chunks are looked for; it takes so much longer for each flight or
     * worker, since thousands of them do not fit into a cache */
    LOOK_NS = 20 * 1000 * 1000,
    LOOK_EACH_NS = 10 * 1000,
    CHECK_NS = 2000 * 1000 * 1000, /* a chunk without a result is asked for after this time, */
    CHECK_MAX_S = 16,              /* then after twice that, up to this */
    CHECKS_A_SECOND = 1000,        /* of all chunks that are under way: later when they are more */
    CHECK_BEATS = 2, /* and not while its worker has named it within so many beats */
    /* a message that the server has not acknowledged is sent again after this */
    RETRY_NS = 200 * 1000 * 1000,
    GONE_BEATS = 5, /* a worker that has missed so many beats is gone */
    BEATS_A_SECOND = 2000, /* of all workers together, which beat more slowly when they are more */
    BEAT_AGAIN_S = 10, /* how often workers are reminded of their beat */
    ALONE_S = 4, /* after so long without any worker, or with a full server, the user is told */
    /* How long results stay at the server after they were read, so that a journal surely has them;
     * large ones only until there are more than READ_MAX */
    KEEP_NS = 2000 * 1000 * 1000,
    READ_MAX = 256,
    ANSWERED_MAX = 1024, /* how many answers to questions are kept, */
    ANSWERED_BYTES = 64 << 20, /* and how many bytes of them */
    QUESTION_NS = 1000 * 1000 * 1000, /* what a question may wait at most: it is asked again */
    STUCK_NS = 2000 * 1000 * 1000, /* all has waited without an end for so long: it is told */
    /* after so many payloads that the server has not acknowledged none is expected to be */
    SILENT_MAX = 12,
    IMAGES = 64,
    ENSURE_TRIES = 20,
    ASK_MS = 3000,
    FLUSH_MS = 1000,
    STACK_BYTES = 1 << 20,
    /* After so many deaths of workers that had it a chunk is run alone and as small as possible;
     * after DEATHS_MAX it fails */
    DEATHS_ALONE = 2,
    DEATHS_MAX = 5,
    SENDINGS = 50, /* a chunk that was given back so often fails */
    SITES_MAX = 64, /* different values of the option `gpu` */
    SITE_MIN = 16384, /* items of a chunk for devices, at least */
    DEVICES_MAX = 64, DEVICE_FIELDS = 7, /* of a worker, and what it says of each */
    DEVICES_TEXT = 24 << 10
};

/* A function's image as bytes. */
typedef struct image {
    tp_image *of; /* held; NULL: the place is free */
    uint64_t used;
    uint8_t digest[TP_DIGEST_BYTES];
    uint64_t size;
    tp_buf bytes; /* of a small one */
    tp_blob blob; /* of one that is stored */
    bool is_stored;
    unsigned users; /* flights */
    tp_parcel_refs refs;
} image;

/* What a flight waits for since the server has no room. */
typedef enum shortage {
    NO_SHORTAGE,
    REFUSED, /* for its message, which is sent again and again */
    WAITING  /* for its payload, without which there is no chunk yet */
} shortage;

typedef struct flight {
    tp_agent agent;
    tp_slice *slice; /* NULL: it is idle */
    shortage shortage; /* set by set_shortage */
    bool is_narrow; /* its chunks are as small as can be, since workers have died with them */
    unsigned deaths; /* of workers that ran this chunk */
    uint32_t count; /* items of the chunk that is in flight; 0: none is */
    uint64_t chunk;
    uint32_t sending;
    tp_buf message; /* to publish again: signature, head, payload */
    bool is_taken;  /* the server has said that it has the message */
    tp_blob blob;   /* its payload there, if that is large, until a worker has fetched it */
    tp_buf direct;  /* of a result that comes in pieces */
    tp_parcel_refs permits; /* functions of which its item has a permit, since it calls them */
    image *image;
    tp_parcel_refs refs;
    bool may_reduce; /* its worker was told what is wanted of whole groups of results */
    /* of one that streams: who runs it, from the first that it has said of it, and where it is told
     * how many values it may give; so many it was told; its item waits for more */
    bool is_bound, is_full;
    uint8_t streamer[TP_ID_BYTES];
    char listener[TP_SUBJECT_MAX];
    uint64_t allowed;
    struct worker *taker; /* to whom it was sent directly; NULL: it went through the stream */
    bool has_begun; /* scratch of lose_worker */
    bool is_grounded; /* it waits for a worker with devices for it; nothing was sent */
    uint64_t sent_ns;
    uint64_t check_ns, patience_ns; /* when it is asked for next, and how long after that again */
    uint64_t held_ns; /* when a worker has last said that it has the chunk; 0: none has */
    char ack[TP_SUBJECT_MAX]; /* where that worker's delivery is acknowledged */
    tp_lane_box box;          /* of the chunk in the trace */
    tp_afar afar;             /* what it has said of the chunk's items; the engine's lock */
} flight;

/* What is known of a worker from its beats. */
typedef struct worker {
    char id[TP_ID_TEXT]; /* "": the place was never used */
    uint64_t seen_ns;
    unsigned slots;
    bool is_same; /* of our build */
    char host[64], build[100];
    char inbox[TP_SUBJECT_MAX / 2]; /* where it takes work directly */
    /* how many chunks it takes directly, including those that it has now (`out`) */
    unsigned offers;
    unsigned out;
    unsigned place; /* in the list of those with offers */
    tp_lanes lanes;
    /* Its devices, the best first, whose texts lie in `device_text`; how many chunks for them it
     * takes at once (0: it leaves); the sites at which it is, as bits */
    tp_seen_device *devices;
    uint64_t *memory; /* of each, in bytes */
    unsigned n_devices, kernels;
    char *device_text;
    uint64_t sites;
} worker;

typedef struct cluster {
    tp_executor base;
    tp_engine *engine;
    tp_nats nats;

    uv_mutex_t lock;
    uv_cond_t ended;
    /* ---- guarded by the lock ---- */
    bool is_running, is_stopping, has_ended;
    char *sites[SITES_MAX]; /* the words of each; read-only once they count */
    unsigned n_sites;

    uv_thread_t thread; /* the owner's; joined by stop */
    bool is_joined;

    /* ---- the carrier's own; the arrays are made with it (make_room) ---- */
    tp_signer signer;
    tp_build build;
    uint8_t session[TP_ID_BYTES];
    char session_hex[TP_ID_TEXT], inbox[80];
    bool is_connected, has_lost; /* has_lost: the server is away */
    uint64_t lost_ns, alone_ns;  /* since when; 0: not */
    bool has_said;               /* that nobody is there */
    uint64_t turns;              /* counts chunks */
    unsigned n_lanes;            /* of all workers that there were (lanes.h) */
    uint64_t purged;             /* groups of results that were removed; */
    uint64_t purge_until, purge_ns; /* those before this one are to be, at this time (0: none) */
    struct {
        tp_blob blob;
        uint64_t due_ns;
    } *read; /* large results that were read and are to be removed, in the order of that */
    unsigned n_read, first_read;
    question *questions;
    uint64_t moved_ns; /* when an item was last given what it may have waited for; */
    uint64_t stuck_ns; /* since when all wait; 0: they do not */
    unsigned n_questions; /* items that wait: more chunks are sent while they wait; */
    unsigned n_full;      /* and flights whose items wait for the reader of their values */
    unsigned n_streams;   /* flights that stream */
    unsigned n_kernels;   /* and those that have slices of sites */
    /* since when a site has work and no worker is at it, or 0; bits of those of which that was
     * said; when workers are asked again for their devices */
    uint64_t unmet_ns[SITES_MAX], said_sites, ask_ns;
    unsigned n_unmet;
    answered *answered;
    uint64_t n_answered, answered_bytes;
    tp_store_names stores;
    uint64_t used;               /* a tick for image.used */
    unsigned n_flights, in_flight; /* how many flights were opened; how many of them have a slice */
    unsigned n_short; /* flights with a shortage */
    /* the first of them was tried while nothing else of this session was at the server */
    bool is_emptied;
    bool has_said_full;
    uint64_t retry_ns, short_ns; /* when they are tried again; since when nothing was taken, or 0 */
    tp_nats_stored trouble; /* why the last payload was not stored, */
    unsigned silent;        /* how many times in a row because of TP_NATS_SILENT, */
    tp_error why;           /* and the message for the user */
    unsigned *idle, n_idle; /* those that were opened and have none */
    double window; /* how many flights may have a slice; at least two for each slot may */
    flight *flights;
    image *images;
    uint8_t modules_digest[TP_DIGEST_BYTES];
    uint64_t modules_size; /* of the host's bundle as it was stored last; 0: it was not */
    tp_blob modules;
    tp_parcel_refs funcs; /* held while the session lasts, since workers know them by address */
    worker *workers; /* by their ids (find_worker) */
    worker **known, **offering; /* those that there are; those of them with offers */
    unsigned n_known, n_offering;
    const worker *other; /* one of another build; NULL: there is none */
    unsigned slots;  /* how many items workers of our build run at once; */
    unsigned queued; /* the slots among them of workers that take nothing directly; */
    unsigned offers; /* chunks that the others take directly */
    uint64_t beat_ms, beat_ns; /* how often they beat; when they are reminded of that */
    uint64_t count_ns; /* when slots and queued are counted anew; offers are kept up to date */
    tp_nats_events later; /* events that came while a payload was transferred */
    bool is_behind; /* there are more events than one turn handles */
    uint64_t streams_ns; /* missing streams are not looked for before this time */
    uint64_t look_ns;
} cluster;

static cluster *of(tp_executor *ex)
{
    return (cluster *)(void *)ex;
}

static bool is_stopping(cluster *c)
{
    uv_mutex_lock(&c->lock);
    bool stops = c->is_stopping;
    uv_mutex_unlock(&c->lock);
    return stops;
}

static void say(cluster *c, const char *text)
{
    tp_host_print(c->base.host, 2, text, strlen(text));
}

/* ---- the server ---- */

/* The next event. NULL: none has come until then. */
static tp_nats_event *take(cluster *c, uint64_t deadline_ns)
{
    tp_nats_event *e = tp_nats_events_next(&c->later);
    return e ? e : tp_nats_take(&c->nats, deadline_ns);
}

static void disconnect(cluster *c)
{
    while (c->later.first)
        tp_nats_free(&c->nats, take(c, 0));
    tp_nats_disconnect(&c->nats);
    c->is_connected = false;
}

static bool is_error(const tp_nats_event *e)
{
    static const char error[] = "\"error\"";
    return !e || e->status != 0 || memmem(e->data, e->len, error, sizeof error - 1) != NULL;
}

static bool has_code(const tp_nats_event *e, const char *code)
{
    return e && e->status == 0 && memmem(e->data, e->len, code, strlen(code)) != NULL;
}

/* Asks the server to make a stream or consumer, unless it is there. The error 10058 says that it is
 * there with another configuration, made by another version. */
static bool make(cluster *c, const char *subject, const char *body)
{
    tp_nats_event *e = tp_nats_ask(&c->nats, subject, body, strlen(body), ASK_MS);
    bool is_made = !is_error(e) || has_code(e, "10058");
    tp_nats_free(&c->nats, e);
    return is_made;
}

static bool make_stream(cluster *c, const char *name, const char *subjects, const char *retention)
{
    char subject[TP_SUBJECT_MAX], body[700];
    snprintf(subject, sizeof subject, "$JS.API.STREAM.CREATE.%s", name);
    snprintf(body, sizeof body,
             "{\"name\":\"%s\",\"subjects\":[\"%s\"],\"retention\":\"%s\",\"max_consumers\":-1,"
             "\"max_msgs\":-1,\"max_bytes\":-1,\"max_age\":%llu,\"max_msgs_per_subject\":1,"
             "\"max_msg_size\":-1,\"storage\":\"file\",\"discard\":\"new\","
             "\"discard_new_per_subject\":true,\"num_replicas\":1,\"allow_direct\":true}",
             name, subjects, retention, 72ull * 3600 * 1000000000);
    return make(c, subject, body);
}

/* Makes the streams and our build's consumer where they are missing. A server that is being
 * restarted meanwhile is only a delay. */
static int ensure(cluster *c, tp_error *err)
{
    char subject[TP_SUBJECT_MAX], body[700];
    snprintf(subject, sizeof subject, "$JS.API.CONSUMER.DURABLE.CREATE." TP_STREAM_W ".P_%s",
             c->build.hex);
    snprintf(body, sizeof body,
             "{\"stream_name\":\"" TP_STREAM_W "\",\"config\":{\"durable_name\":\"P_%s\","
             "\"deliver_policy\":\"all\",\"ack_policy\":\"explicit\",\"ack_wait\":%llu,"
             "\"max_deliver\":-1,\"filter_subject\":\"" TP_SUBJECT_W "%s.>\","
             "\"replay_policy\":\"instant\",\"max_waiting\":%d,\"max_ack_pending\":%d}}",
             c->build.hex, TP_ACK_WAIT_S * 1000000000ull, c->build.hex, 20000, 100000);
    for (int i = 0; i < ENSURE_TRIES && !is_stopping(c); i++) {
        if (make_stream(c, TP_STREAM_W, TP_SUBJECT_W ">", "workqueue") &&
            make_stream(c, TP_STREAM_R, TP_SUBJECT_R "*.*.*.*", "limits") &&
            make_stream(c, TP_STREAM_B, TP_SUBJECT_B ">", "limits") && make(c, subject, body))
            return 0;
        uv_sleep(250);
    }
    return tp_error_set(err, TP_ESYS,
                        "the engine at %.200s keeps no work: is it a NATS server with JetStream, "
                        "and may this token make streams? (`tidepool engine up` starts one that "
                        "can)",
                        c->base.host->config.engine);
}

static void forget_devices(worker *w)
{
    free(w->devices);
    free(w->memory);
    free(w->device_text);
    w->devices = NULL;
    w->memory = NULL;
    w->device_text = NULL;
    w->n_devices = w->kernels = 0;
    w->sites = 0;
}

static int open_session(cluster *c, tp_error *err)
{
    const tp_config *config = &c->base.host->config;
    char subject[TP_SUBJECT_MAX];
    if (!config->engine)
        return tp_error_set(err, TP_EUSAGE,
                            "the executor \"cluster\" needs an engine: `tidepool engine up` starts "
                            "one, and --engine URL or TIDEPOOL_ENGINE says where it is");
    if (!config->token)
        return tp_error_set(err, TP_EUSAGE,
                            "there is no token for the engine at %.200s: TIDEPOOL_TOKEN is to be "
                            "what `tidepool engine token --coordinator` shows where it runs",
                            config->engine);
    if (tp_signer_open(&c->signer, config->token, true, err))
        return -1;
    tp_build_get(&c->build);
    memcpy(c->session, c->base.host->session, sizeof c->session);
    tp_to_hex(c->session_hex, c->session, sizeof c->session);
    /* the session's random name, which others cannot guess */
    snprintf(c->inbox, sizeof c->inbox, TP_INBOX_COORDINATOR ".%s", c->session_hex);
    if (tp_nats_connect(&c->nats, config->engine, "tidepool", &c->signer, err))
        return -1;
    const struct {
        const char *begin, *middle, *end;
    } subjects[] = { { c->inbox, "", ".>" },
                     { TP_SUBJECT_R, c->session_hex, ".>" },
                     { TP_SUBJECT_HB, "", "*" },
                     { TP_SUBJECT_Q, c->session_hex, "" } };
    for (int i = 0; i < 4; i++) {
        snprintf(subject, sizeof subject, "%s%s%s", subjects[i].begin, subjects[i].middle,
                 subjects[i].end);
        if (tp_nats_subscribe(&c->nats, subject, err))
            goto failed;
    }
    if (ensure(c, err))
        goto failed;
    tp_nats_publish(&c->nats, TP_SUBJECT_CTL "all", NULL, "hello", 5);
    c->is_connected = true;
    c->has_lost = c->has_said = false;
    c->alone_ns = uv_hrtime();
    c->window = 0;
    for (unsigned i = 0; i < c->n_known; i++) {
        forget_devices(c->known[i]);
        *c->known[i] = (worker){ 0 };
    }
    c->n_known = c->n_offering = c->offers = 0;
    c->beat_ms = TP_BEAT_MS;
    c->count_ns = 0;
    c->n_short = c->silent = 0;
    c->is_emptied = c->has_said_full = false;
    c->short_ns = 0;
    return 0;
failed:
    tp_nats_disconnect(&c->nats);
    return -1;
}

/* The payload is not needed at the server any more. */
static void drop_blob(cluster *c, tp_blob *b)
{
    tp_blob_remove(&c->nats, b);
    tp_blob_free(b);
}

/* Removes large results that were read long enough before `now`. */
static void drop_read(cluster *c, uint64_t now)
{
    while (c->n_read > 0 && (now >= c->read[c->first_read].due_ns || c->n_read == READ_MAX)) {
        drop_blob(c, &c->read[c->first_read].blob);
        c->first_read = (c->first_read + 1) % READ_MAX;
        c->n_read--;
    }
}

/* Removes all that this session has at the server. */
static void remove_all(cluster *c)
{
    char filter[TP_SUBJECT_MAX];
    drop_read(c, UINT64_MAX);
    for (int i = 0; i < IMAGES; i++) {
        drop_blob(c, &c->images[i].blob);
        c->images[i].is_stored = false;
    }
    drop_blob(c, &c->modules);
    c->modules_size = 0;
    snprintf(filter, sizeof filter, TP_SUBJECT_R "%s.>", c->session_hex);
    tp_nats_purge(&c->nats, TP_STREAM_R, filter);
    snprintf(filter, sizeof filter, TP_SUBJECT_B "%s.>", c->session_hex);
    tp_nats_purge(&c->nats, TP_STREAM_B, filter);
}

static void close_session(cluster *c)
{
    char text[TP_SUBJECT_MAX];
    if (!c->is_connected)
        return;
    snprintf(text, sizeof text, TP_SUBJECT_CTL "%s", c->session_hex);
    tp_nats_publish(&c->nats, text, NULL, "over", 4);
    remove_all(c);
    tp_nats_flush(&c->nats, FLUSH_MS);
    disconnect(c);
}

/* ---- workers ---- */

/* How long n beats of a worker take, in nanoseconds. */
static uint64_t beats(const cluster *c, unsigned n)
{
    return n * c->beat_ms * 1000000ull;
}

static bool is_gone(const cluster *c, const worker *w, uint64_t now)
{
    return now > w->seen_ns + beats(c, GONE_BEATS);
}

/* Has it shown itself lately, so that it may be sent something directly? */
static bool is_heard(const cluster *c, const worker *w, uint64_t now)
{
    return now < w->seen_ns + beats(c, 3) / 2;
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
        worker *w = &c->workers[(at + i) % WORKERS_MAX];
        if (!*w->id)
            return room ? room : adds ? w : NULL;
        if (strcmp(w->id, id) == 0)
            return w;
        if (adds && !room && w->out == 0 && is_gone(c, w, now))
            room = w;
    }
    return room;
}

/* The worker takes so many chunks directly. */
static void set_offers(cluster *c, worker *w, unsigned offers)
{
    offers = offers < OFFERS_MAX ? offers : OFFERS_MAX;
    if (w->offers == 0 && offers > 0) {
        w->place = c->n_offering;
        c->offering[c->n_offering++] = w;
        c->count_ns = 0;
    } else if (w->offers > 0 && offers == 0) {
        worker *last = c->offering[--c->n_offering];
        last->place = w->place;
        c->offering[w->place] = last;
        c->count_ns = 0;
    }
    c->offers += offers - w->offers;
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

/* A worker shows itself: "BUILD SLOTS HOST INBOX BEAT TEXT", and will again after BEAT ms. One that
 * runs kernels only says how many in SLOTS, and has a line for each of its devices behind that; of
 * one that has died its machine's other worker says "gone". */
static void see_worker(cluster *c, const char *id, const char *data, size_t len)
{
    char text[DEVICES_TEXT], build[TP_ID_TEXT + 1], host[64], inbox[TP_SUBJECT_MAX / 2];
    unsigned slots, beat_ms;
    int at = 0;
    snprintf(text, sizeof text, "%.*s", (int)(len < sizeof text ? len : sizeof text - 1), data);
    if (strcmp(text, "gone") == 0) {
        worker *dead = find_worker(c, id, false);
        if (dead)
            dead->seen_ns = 1; /* as if it had been silent for long */
        c->count_ns = c->ask_ns = 0;
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
    if (beat_ms > c->beat_ms) /* another coordinator has asked for that */
        c->beat_ms = beat_ms;
    if (strcmp(w->id, id) != 0) {
        if (!*w->id)
            c->known[c->n_known++] = w;
        set_offers(c, w, 0);
        tp_lanes_free(&w->lanes);
        forget_devices(w);
        *w = (worker){ .is_same = strcmp(build, c->build.hex) == 0 };
        snprintf(w->id, sizeof w->id, "%s", id);
        snprintf(w->host, sizeof w->host, "%s", host);
        snprintf(w->build, sizeof w->build, "%.90s", text + at);
        /* we will publish to this subject: accept only inboxes of workers, without wildcards */
        if (strncmp(inbox, TP_INBOX_WORKER ".", strlen(TP_INBOX_WORKER) + 1) == 0 &&
            inbox[strspn(inbox, "_.abcdefghijklmnopqrstuvwxyzTPW0123456789")] == '\0')
            snprintf(w->inbox, sizeof w->inbox, "%s", inbox);
        c->count_ns = c->ask_ns = 0;
    }
    if (devices) {
        if (!w->devices && *w->inbox)
            read_devices(w, devices);
        if (w->kernels != slots)
            c->count_ns = 0;
        w->kernels = w->n_devices ? slots : 0;
        slots = 0;
    }
    if (w->slots != slots)
        c->count_ns = 0;
    w->slots = slots;
    w->seen_ns = uv_hrtime();
    if (slots == 0) /* it leaves */
        set_offers(c, w, 0);
}

/* With so many workers, how often shall they show themselves? They never do it more often again:
 * some may not have heard of it. */
static void set_beat(cluster *c, unsigned alive, uint64_t now)
{
    char text[40];
    uint64_t ms = (uint64_t)alive * 1000 / BEATS_A_SECOND;
    ms = ms < TP_BEAT_MAX_MS ? ms : TP_BEAT_MAX_MS;
    bool is_more = ms > c->beat_ms + c->beat_ms / 4;
    if (!is_more && (c->beat_ms == TP_BEAT_MS || now < c->beat_ns))
        return;
    c->beat_ms = is_more ? ms : c->beat_ms;
    c->beat_ns = now + BEAT_AGAIN_S * 1000000000ull;
    int len = snprintf(text, sizeof text, "beat %llu", (unsigned long long)c->beat_ms);
    tp_nats_publish(&c->nats, TP_SUBJECT_CTL "all", NULL, text, (size_t)len);
}

static bool has_devices(cluster *c, const worker *w, uint64_t now)
{
    return w->is_same && w->kernels > 0 && !is_gone(c, w, now);
}

/* The workers with devices that the word selects are at the site: among them those with the best
 * kind of them. False: there are none. */
static bool place_word(cluster *c, const tp_device_word *word, uint64_t site, uint64_t now)
{
    bool is_whole = false;
    int best = INT_MAX;
    for (unsigned i = 0; i < c->n_known && !is_whole; i++)
        is_whole = has_devices(c, c->known[i], now) &&
                   tp_device_word_is_whole(word, c->known[i]->devices, c->known[i]->n_devices);
    for (int is_last = 0; is_last < 2; is_last++)
        for (unsigned i = 0; i < c->n_known; i++) {
            worker *w = c->known[i];
            unsigned found[DEVICES_MAX];
            if (!has_devices(c, w, now) ||
                tp_device_match(word, is_whole, w->devices, w->n_devices, found) < word->wanted)
                continue;
            int rank = tp_device_rank(w->devices[found[0]].type);
            best = rank < best ? rank : best;
            if (is_last && rank == best)
                w->sites |= site;
        }
    return best < INT_MAX;
}

static unsigned count_sites(cluster *c)
{
    uv_mutex_lock(&c->lock);
    unsigned n = c->n_sites;
    uv_mutex_unlock(&c->lock);
    return n;
}

/* Finds out which workers are at which sites. Of several words the first counts that there are
 * devices for. */
static void find_sites(cluster *c, uint64_t now)
{
    unsigned n = count_sites(c);
    for (unsigned i = 0; i < c->n_known && n > 0; i++)
        c->known[i]->sites = 0;
    for (unsigned k = 0; k < n; k++)
        for (const char *at = c->sites[k]; at && *at;) {
            unsigned len = (unsigned)strcspn(at, "\n");
            const tp_device_word word = tp_device_word_read(at, len);
            if (place_word(c, &word, (uint64_t)1 << k, now))
                break;
            at += len + (at[len] == '\n');
        }
}

/* Counts slots, now and then. */
static void count_slots(cluster *c, uint64_t now)
{
    if (now < c->count_ns)
        return;
    unsigned alive = 0;
    c->slots = c->queued = 0;
    c->other = NULL;
    for (unsigned i = 0; i < c->n_known; i++) {
        worker *w = c->known[i];
        if (is_gone(c, w, now)) {
            set_offers(c, w, 0);
            continue;
        }
        alive++;
        if (!w->is_same) {
            c->other = w;
            continue;
        }
        c->slots += w->slots;
        if (w->offers == 0)
            c->queued += w->slots;
    }
    set_beat(c, alive, now);
    find_sites(c, now);
    c->count_ns = now + LOOK_NS + c->n_known * LOOK_EACH_NS;
}

/* ---- what workers say beside their results ---- */

static flight *flight_of(cluster *c, unsigned long long chunk, unsigned sending)
{
    flight *l = &c->flights[chunk % FLIGHTS];
    return l->slice && l->count && l->chunk == chunk && l->sending == sending ? l : NULL;
}

/* The flight's item waits without an end, or not. */
static void set_blocked(cluster *c, flight *l, bool is_blocked)
{
    uv_mutex_lock(tp_engine_lock(c->engine));
    if (l->agent.is_blocked != is_blocked)
        l->agent.is_hopeless = false;
    l->agent.is_blocked = is_blocked;
    uv_mutex_unlock(tp_engine_lock(c->engine));
}

/* An item may go on that has waited. What workers have said of those that wait is not true any
 * more, and for a while they may say it again. */
static void note_move(cluster *c)
{
    c->moved_ns = uv_hrtime();
    for (unsigned i = 0; i < c->n_flights; i++)
        if (c->flights[i].agent.is_blocked) /* nobody else writes it */
            set_blocked(c, &c->flights[i], false);
}

/* The worker has run the flight's chunk since then. */
static void begin_box(cluster *c, flight *l, worker *w, uint64_t since_ns)
{
    tp_lanes_begin(&w->lanes, &l->box, c->engine, &l->slice->work, l->count, w->host, &c->n_lanes,
                   since_ns > l->sent_ns ? since_ns : l->sent_ns);
}

/* The worker with that id says what it runs of the flight's chunk. For people, so nothing of it has
 * to be true. */
static void note_afar(cluster *c, flight *l, const char *id, tp_afar *what, uint64_t ms)
{
    uint64_t now = uv_hrtime();
    worker *w = find_worker(c, id, false);
    what->started_ns = l->slice->started_ns;
    what->since_ns = ms == 0 ? 0 : ms < now / 1000000 ? now - (ms - 1) * 1000000 : 1;
    snprintf(what->host, sizeof what->host, "%s", w ? w->host : "?");
    if (w && what->since_ns)
        begin_box(c, l, w, what->since_ns);
    what->worker = l->box.id;
    tp_agent_tell_afar(&l->agent, &l->afar, what);
}

/* A worker says which chunks it has. */
static void take_held(cluster *c, const char *data, size_t len)
{
    uint64_t now = uv_hrtime();
    char *text = strndup(data, len), *rest = text;
    for (char *line; text && (line = strsep(&rest, "\n"));) {
        unsigned long long chunk, item, ms, done, total;
        unsigned sending, is_stuck, maps;
        char id[TP_ID_TEXT];
        int at = 0;
        _Static_assert(TP_ID_TEXT == 33, "the width of %32s");
        flight *l = sscanf(line, "%llu %u %u %32s %llu %llu %u %llu %llu %n", &chunk, &sending,
                           &is_stuck, id, &item, &ms, &maps, &done, &total, &at) == 9 &&
                            at > 0
                        ? flight_of(c, chunk, sending)
                        : NULL;
        /* nothing but an acknowledgement may be published for it, or nothing */
        if (!l || (line[at] != '-' &&
                   strncmp(line + at, "$JS.ACK." TP_STREAM_W ".", 9 + strlen(TP_STREAM_W)) != 0))
            continue;
        l->held_ns = now;
        set_blocked(c, l, is_stuck && now > c->moved_ns + beats(c, 2));
        drop_blob(c, &l->blob); /* its worker has fetched the payload */
        snprintf(l->ack, sizeof l->ack, "%s", line[at] == '-' ? "" : line + at);
        tp_afar what = { .item = item, .maps = maps, .done = done, .total = total };
        if (maps > 0 && rest && strncmp(rest, "in ", 3) == 0)
            snprintf(what.name, sizeof what.name, "%s", strsep(&rest, "\n") + 3);
        note_afar(c, l, id, &what, ms);
    }
    free(text);
}

/* A worker asks whether this session is alive: answers with a signature. */
static void answer_question(cluster *c, const tp_nats_event *e)
{
    struct {
        uint8_t signature[TP_SIGNATURE_BYTES];
        tp_alive alive;
    } a = { .alive = { .magic = TP_ALIVE_MAGIC } };
    if (e->len != TP_ID_BYTES || !*e->reply)
        return;
    memcpy(a.alive.build, c->build.id, TP_ID_BYTES);
    memcpy(a.alive.session, c->session, TP_ID_BYTES);
    memcpy(a.alive.nonce, e->data, TP_ID_BYTES);
    tp_signer_sign(&c->signer, a.signature, &a.alive, sizeof a.alive);
    tp_nats_publish(&c->nats, e->reply, NULL, &a, sizeof a);
}

/* Handles the event if it is one of the messages above; true then. */
static bool take_sign(cluster *c, const tp_nats_event *e)
{
    size_t r = strlen(TP_SUBJECT_R), s = strlen(c->session_hex);
    if (e->kind != TP_NATS_MESSAGE)
        return false;
    if (strncmp(e->subject, TP_SUBJECT_HB, strlen(TP_SUBJECT_HB)) == 0)
        see_worker(c, e->subject + strlen(TP_SUBJECT_HB), e->data, e->len);
    else if (strncmp(e->subject, TP_SUBJECT_Q, strlen(TP_SUBJECT_Q)) == 0)
        answer_question(c, e);
    else if (strncmp(e->subject, TP_SUBJECT_R, r) == 0 && strlen(e->subject) > r + s &&
             strcmp(e->subject + r + s, ".held") == 0)
        take_held(c, e->data, e->len);
    else
        return false;
    return true;
}

/* A tp_between: while a large payload is transferred, goes on answering workers that ask whether
 * this process is alive, and noting their beats. All other events are kept for later. */
static void hear(void *user)
{
    cluster *c = user;
    for (tp_nats_event *e; (e = tp_nats_take(&c->nats, 0));) {
        if (take_sign(c, e)) {
            tp_nats_free(&c->nats, e);
            continue;
        }
        tp_nats_events_add(&c->later, e);
    }
}

/* ---- chunks ---- */

/* A large result was read: it is removed from the server later (KEEP_NS). */
static void leave_blob(cluster *c, const flight *l, tp_blob *b)
{
    if (!tp_job_recorder(l->slice->job)) {
        drop_blob(c, b);
        return;
    }
    unsigned at = (c->first_read + c->n_read++) % READ_MAX;
    c->read[at].blob = *b;
    c->read[at].due_ns = uv_hrtime() + KEEP_NS;
    *b = (tp_blob){ 0 };
    drop_read(c, uv_hrtime());
}

/* Stores the payload of a message that is too large for one. On failure c->trouble says why. */
static int store(cluster *c, tp_blob *b, const void *bytes, tp_error *err)
{
    c->trouble = tp_blob_put(&c->nats, c->session_hex, b, bytes, &(tp_between){ hear, c }, err);
    c->silent = c->trouble == TP_NATS_SILENT ? c->silent + 1 : 0;
    if (c->trouble == TP_NATS_STORED)
        return 0;
    drop_blob(c, b); /* the pieces that were stored take room that others need */
    drop_read(c, UINT64_MAX);
    return -1;
}

static void set_shortage(cluster *c, flight *l, shortage what)
{
    c->n_short += (what != NO_SHORTAGE) - (l->shortage != NO_SHORTAGE);
    l->shortage = what;
}

static uint32_t least_count(const tp_work *w)
{
    return w->terms->batch ? w->terms->batch : 1;
}

static void name_result(const cluster *c, const flight *l, const char *before, char *to)
{
    snprintf(to, TP_SUBJECT_MAX, "%s" TP_SUBJECT_R "%s.%llu.%llu.%u", before, c->session_hex,
             (unsigned long long)(l->chunk / TP_GROUP_CHUNKS), (unsigned long long)l->chunk,
             l->sending);
}

/* The chunk is no longer at the worker to which it was sent directly. */
static void leave_taker(flight *l)
{
    if (!l->taker)
        return;
    l->taker->out--;
    l->taker = NULL;
    l->held_ns = 0;
}

static void set_full(cluster *c, flight *l, bool is_full)
{
    c->n_full += (unsigned)is_full - (unsigned)l->is_full;
    l->is_full = is_full;
}

static void forget_chunk(cluster *c, flight *l)
{
    leave_taker(l);
    set_full(c, l, false);
    set_blocked(c, l, false);
    l->is_bound = l->is_grounded = false;
    drop_blob(c, &l->blob);
    set_shortage(c, l, NO_SHORTAGE);
    tp_lanes_end(&l->box, c->engine, 0);
    l->count = 0;
    l->held_ns = 0;
    l->is_taken = false;
    tp_buf_free(&l->direct);
    for (uint32_t i = 0; i < l->permits.n; i++)
        tp_func_release_permit(c->engine, (tp_func *)(void *)l->permits.refs[i]);
    tp_parcel_refs_free(&l->permits);
    if (l->image)
        l->image->users--;
    l->image = NULL;
    tp_buf_clear(&l->message);
    tp_parcel_refs_free(&l->refs);
}

static void free_image(image *i)
{
    tp_ref_drop(i->of);
    tp_buf_free(&i->bytes);
    tp_blob_free(&i->blob);
    tp_parcel_refs_free(&i->refs);
    *i = (image){ 0 };
}

/* The image as bytes, stored at the server when it is large. */
static image *find_image(cluster *c, tp_image *of_function, tp_error *err)
{
    image *i = NULL, *oldest = NULL;
    for (int k = 0; k < IMAGES && !i; k++) {
        image *one = &c->images[k];
        if (one->of == of_function)
            i = one;
        else if (one->users == 0 && (!oldest || one->used < oldest->used))
            oldest = one;
    }
    if (!i && !oldest) {
        tp_error_set(err, TP_ELIMIT, "too many functions at once on the cluster");
        return NULL;
    }
    if (i && (i->bytes.len > 0 || i->is_stored)) {
        i->used = ++c->used;
        return i;
    }
    if (!i) {
        i = oldest;
        free_image(i);
    }
    tp_parcel_refs_free(&i->refs);
    if (tp_parcel_put_image(of_function, &i->bytes, &i->refs, err)) {
        free_image(i);
        return NULL;
    }
    i->of = i->of ? i->of : tp_ref_hold(of_function);
    i->size = i->bytes.len;
    i->used = ++c->used;
    tp_blake2b_hash(i->digest, sizeof i->digest, i->bytes.data, i->bytes.len);
    if (i->size <= TP_IMAGE_INLINE)
        return i;
    tp_blob_free(&i->blob);
    i->blob = tp_blob_of(i->digest, i->size);
    int rc = store(c, &i->blob, i->bytes.data, err);
    tp_buf_free(&i->bytes);
    i->is_stored = rc == 0;
    return rc ? NULL : i;
}

/* After what time a chunk that was sent now is asked for. */
static uint64_t patience(const cluster *c)
{
    const uint64_t shared_ns = c->in_flight * (1000000000ull / CHECKS_A_SECOND);
    return shared_ns > CHECK_NS ? shared_ns : CHECK_NS;
}

/* Publishes the chunk in the stream. */
static void publish(cluster *c, flight *l, uint64_t now)
{
    char subject[TP_SUBJECT_MAX], reply[TP_SUBJECT_MAX];
    leave_taker(l);
    snprintf(subject, sizeof subject, TP_SUBJECT_W "%s.%s.%llu.%u", c->build.hex, c->session_hex,
             (unsigned long long)l->chunk, l->sending);
    snprintf(reply, sizeof reply, "%s.w.%llu.%u", c->inbox, (unsigned long long)l->chunk,
             l->sending);
    tp_nats_publish(&c->nats, subject, reply, l->message.data, l->message.len);
    l->check_ns = now + l->patience_ns;
}

/* The worker with the least to do among those that take work directly; NULL: none has room. */
static worker *choose_worker(cluster *c, uint64_t now)
{
    worker *best = NULL;
    for (unsigned i = 0; i < c->n_offering; i++) {
        worker *w = c->offering[i];
        if (w->out < w->offers && is_heard(c, w, now) &&
            (!best || (uint64_t)w->out * best->offers < (uint64_t)best->out * w->offers))
            best = w;
    }
    return best;
}

/* Does the worker have the devices of the site, and was it heard of lately? */
static bool is_for(cluster *c, const worker *w, uint64_t site, uint64_t now)
{
    return w->sites & site && has_devices(c, w, now) && is_heard(c, w, now);
}

/* The worker at the flight's site with the least to do; NULL: there is none. */
static worker *choose_at_site(cluster *c, const flight *l, uint64_t now)
{
    worker *best = NULL;
    for (unsigned i = 0; i < c->n_known; i++) {
        worker *w = c->known[i];
        if (is_for(c, w, l->agent.site, now) &&
            (!best || (uint64_t)w->out * best->kernels < (uint64_t)best->out * w->kernels))
            best = w;
    }
    return best;
}

/* Sends a chunk for devices to a worker that has them, or again to the one that has it. */
static void dispatch_kernel(cluster *c, flight *l)
{
    char subject[TP_SUBJECT_MAX];
    uint64_t now = uv_hrtime();
    worker *w = l->taker ? l->taker : choose_at_site(c, l, now);
    l->is_grounded = !w;
    l->check_ns = w ? now + l->patience_ns : UINT64_MAX;
    if (!w)
        return;
    if (!l->taker) {
        l->taker = w;
        w->out++;
        l->sent_ns = now;
        l->ack[0] = '\0';
    }
    snprintf(subject, sizeof subject, "%s.d", w->inbox);
    tp_nats_publish(&c->nats, subject, NULL, l->message.data, l->message.len);
}

/* Sends a chunk: directly if it is small, not sent before, and somebody takes it. What a journal
 * records stays at the server until it is recorded, also when this process dies. */
static void dispatch(cluster *c, flight *l)
{
    char subject[TP_SUBJECT_MAX];
    uint64_t now = uv_hrtime();
    bool is_possible = l->sending == 1 && l->message.len <= TP_DIRECT_BYTES && l->blob.size == 0 &&
                       !tp_job_recorder(l->slice->job) && !l->slice->work.terms->streams;
    if (l->agent.site) {
        dispatch_kernel(c, l);
        return;
    }
    worker *w = is_possible && !c->has_lost ? choose_worker(c, now) : NULL;
    if (l->sending == 1)
        l->sent_ns = now;
    if (!w) {
        publish(c, l, now);
        return;
    }
    l->taker = w;
    w->out++;
    l->ack[0] = '\0';
    l->check_ns = now + l->patience_ns;
    snprintf(subject, sizeof subject, "%s.d", w->inbox);
    tp_nats_publish(&c->nats, subject, NULL, l->message.data, l->message.len);
}

/* Holds the function or store while the session lasts. */
static int keep_func(cluster *c, tp_ref *f, tp_error *err)
{
    for (uint32_t i = c->funcs.n; i > 0; i--)
        if (c->funcs.refs[i - 1] == f)
            return 0;
    if (c->funcs.n == c->funcs.room) {
        uint32_t room = c->funcs.room ? 2 * c->funcs.room : 16;
        tp_ref **refs = realloc(c->funcs.refs, room * sizeof(tp_ref *));
        if (!refs)
            return tp_error_oom(err, "functions");
        c->funcs.refs = refs;
        c->funcs.room = room;
    }
    c->funcs.refs[c->funcs.n++] = tp_ref_hold(f);
    return 0;
}

static bool is_store(const tp_ref *r)
{
    return r->type == &tp_dict_type || r->type == &tp_store_queue_type;
}

static int keep_funcs(cluster *c, const tp_parcel_refs *refs, tp_error *err)
{
    for (uint32_t i = 0; i < refs->n; i++)
        if ((refs->refs[i]->type == &tp_func_type || is_store(refs->refs[i])) &&
            keep_func(c, refs->refs[i], err))
            return -1;
    return 0;
}

/* see tp_store_names */
static uint64_t id_of(void *user, tp_ref *r)
{
    return is_store(r) && keep_func(user, r, NULL) == 0 ? (uint64_t)(uintptr_t)r : 0;
}

/* Nothing is believed of the id. */
static tp_ref *store_of(void *user, uint64_t id, bool is_queue)
{
    cluster *c = user;
    for (uint32_t i = 0; i < c->funcs.n; i++) {
        tp_ref *r = c->funcs.refs[i];
        if ((uint64_t)(uintptr_t)r == id && is_store(r) &&
            is_queue == (r->type == &tp_store_queue_type))
            return tp_ref_hold(r);
    }
    return NULL;
}

/* Stores the script's modules when there are more than were stored. */
static int store_modules(cluster *c, tp_error *err)
{
    tp_buf bytes = { 0 };
    int rc = tp_bundle_copy(&c->base.host->bundle, c->modules_size, &bytes);
    if (rc > 0) {
        tp_blake2b_hash(c->modules_digest, sizeof c->modules_digest, bytes.data, bytes.len);
        c->modules_size = bytes.len;
        tp_blob_free(&c->modules);
        c->modules = tp_blob_of(c->modules_digest, bytes.len);
        rc = store(c, &c->modules, bytes.data, err);
        if (rc)
            c->modules_size = 0;
    } else if (rc) {
        tp_error_oom(err, "modules");
    }
    tp_buf_free(&bytes);
    return rc;
}

/* Makes the message for the next items of the flight's slice. On failure c->trouble says whether it
 * was the server's. */
static int seal(cluster *c, flight *l, tp_error *err)
{
    tp_work *w = &l->slice->work;
    tp_buf payload = { 0 };
    tp_sealed head = { .magic = TP_SEALED_MAGIC };
    uint32_t count = tp_work_end(w) - w->at;
    /* one item: a permit is for one, and a worker runs the items of a chunk at once. On devices it
     * is for a slice */
    const bool is_kernel = l->agent.site != 0;
    if ((w->terms->is_limited && !is_kernel) || l->is_narrow)
        count = count < least_count(w) ? count : least_count(w);
    c->trouble = TP_NATS_STORED;
    image *i = find_image(c, w->terms->image, err);
    if (!i || (!is_kernel && store_modules(c, err)))
        return -1;
    tp_task task = { .count = count,
                     .image_size = i->size,
                     .modules_size = is_kernel ? 0 : c->modules_size,
                     .reduction = is_kernel ? TP_REDUCES_NOTHING
                                            : tp_job_reduction(l->slice->job),
                     .is_kernel = is_kernel,
                     .is_alone = l->deaths >= DEATHS_ALONE };
    l->may_reduce = task.reduction != TP_REDUCES_NOTHING;
    if (w->terms->streams)
        tp_slice_allow(l->slice, &task.allowed);
    l->allowed = task.allowed;
    memcpy(task.image, i->digest, sizeof task.image);
    memcpy(task.modules, c->modules_digest, sizeof task.modules);
    int rc = tp_parcel_put_task(&task, w, tp_job_func(l->slice->job),
                                tp_job_recorder(l->slice->job), i->bytes.len ? &i->bytes : NULL,
                                &payload, &l->refs, err);
    if (rc == 0 && payload.len > TP_PAYLOAD_MAX)
        rc = tp_error_set(err, TP_ELIMIT, "an input of more than 1 GiB");
    rc = rc ? rc : keep_funcs(c, &l->refs, err);
    rc = rc ? rc : keep_funcs(c, &i->refs, err);
    if (rc == 0) {
        memcpy(head.key, c->signer.public_key, sizeof head.key);
        memcpy(head.build, c->build.id, sizeof head.build);
        memcpy(head.session, c->session, sizeof head.session);
        head.chunk = l->chunk;
        head.sending = l->sending;
        head.size = payload.len;
        head.is_blob = payload.len > (is_kernel ? TP_KERNEL_INLINE : TP_INLINE_BYTES);
        tp_blake2b_hash(head.digest, sizeof head.digest, payload.data, payload.len);
        drop_blob(c, &l->blob);
        if (head.is_blob) {
            l->blob = tp_blob_of(head.digest, payload.len);
            rc = store(c, &l->blob, payload.data, err);
        }
    }
    uint8_t signature[TP_SIGNATURE_BYTES];
    tp_buf_clear(&l->message);
    if (rc == 0) {
        tp_signer_sign(&c->signer, signature, &head, sizeof head);
        if (tp_buf_add(&l->message, signature, sizeof signature) ||
            tp_buf_add(&l->message, &head, sizeof head) ||
            (!head.is_blob && tp_buf_add(&l->message, payload.data, payload.len)))
            rc = tp_error_oom(err, "work");
    }
    tp_buf_free(&payload);
    if (rc) {
        drop_blob(c, &l->blob);
        tp_parcel_refs_free(&l->refs);
        return -1;
    }
    l->count = task.count;
    l->image = i;
    i->users++;
    return 0;
}

static void end_slice(cluster *c, flight *l)
{
    tp_slice *s = l->slice;
    c->n_streams -= s->work.terms->streams;
    c->n_kernels -= l->agent.site != 0;
    forget_chunk(c, l);
    l->slice = NULL;
    l->is_narrow = false;
    c->in_flight--;
    c->idle[c->n_idle++] = (unsigned)(l - c->flights);
    tp_job_finish(s);
}

/* The next item of the flight's slice gets this failure. */
static void fail(flight *l, tp_failure_kind kind, const char *message)
{
    tp_work *w = &l->slice->work;
    tp_block *b =
        tp_block_new_failure(kind, message, w->attempt, l->agent.worker.index);
    if (b)
        b->may_retry = tp_failure_kind_may_retry(kind);
    tp_work_fail(w, b);
}

/* Publishes the flight's chunk, or has it wait until the server has room, or is back. -1 with err
 * set: the chunk cannot be sent. */
static int launch(cluster *c, flight *l, tp_error *err)
{
    set_shortage(c, l, NO_SHORTAGE);
    /* no permit is left after a worker has died whose item had released its permit while it
     * waited */
    if (l->slice->work.terms->is_limited && !tp_slice_take_permit(l->slice, 0)) {
        c->why = (tp_error){ 0 };
        set_shortage(c, l, WAITING);
        return 0;
    }
    if (seal(c, l, err) == 0) {
        dispatch(c, l);
        return 0;
    }
    if (c->trouble == TP_NATS_STORED || c->trouble == TP_NATS_REFUSED ||
        c->silent > SILENT_MAX || (c->trouble == TP_NATS_NOWHERE && ensure(c, err)))
        return -1;
    c->why = *err;
    set_shortage(c, l, WAITING);
    return 0;
}

/* Sends the next items of the flight's slice, or ends it. */
static void advance(cluster *c, flight *l)
{
    tp_work *w = &l->slice->work;
    forget_chunk(c, l);
    if (w->block->kind == TP_BLOCK_FAILURE && w->at < tp_work_end(w))
        tp_work_pass_failure(w);
    while (w->at < tp_work_end(w) && !tp_work_is_asked_to_stop(w) && !w->sink->is_cancelled(w)) {
        tp_error err = { 0 };
        l->chunk = c->turns++ * FLIGHTS + (uint64_t)(l - c->flights);
        l->sending = 1;
        l->deaths = 0;
        l->patience_ns = patience(c);
        if (launch(c, l, &err) == 0)
            return;
        fail(l, tp_failure_kind_of(err.code, TP_KIND_CODEC), err.message);
    }
    end_slice(c, l);
}

/* The item cannot be run anew. */
static void fail_given(cluster *c, flight *l)
{
    char id[TP_ID_TEXT], message[200];
    tp_to_hex(id, l->streamer, sizeof l->streamer);
    const worker *w = find_worker(c, id, false);
    snprintf(message, sizeof message,
             "the worker of the cluster that ran it, on %s, is gone, and some of its values were "
             "read",
             w ? w->host : "another machine");
    fail(l, TP_KIND_CRASH, message);
    advance(c, l);
}

/* The chunk must be run anew, by another worker. */
static void send_again(cluster *c, flight *l)
{
    tp_error err = { 0 };
    uint32_t sending = l->sending + 1;
    if (!tp_slice_take_back(l->slice)) {
        fail_given(c, l);
        return;
    }
    if (sending > SENDINGS) {
        fail(l, TP_KIND_RESOURCE, "the cluster could not carry it: its workers gave it back again "
                                  "and again");
        advance(c, l);
        return;
    }
    if (l->image)
        l->image->is_stored = false; /* the server may have lost it, too */
    c->modules_size = 0;
    forget_chunk(c, l);
    l->sending = sending;
    if (launch(c, l, &err)) {
        fail(l, tp_failure_kind_of(err.code, TP_KIND_CODEC), err.message);
        advance(c, l);
    }
}

/* The worker that had the chunk is dead, or cut off. */
static void lose(cluster *c, flight *l)
{
    tp_work *w = &l->slice->work;
    if (*l->ack)
        tp_nats_publish(&c->nats, l->ack, NULL, "+TERM", 5);
    l->deaths += !l->is_full; /* one that waits has no part in it */
    /* of several items nobody knows which has killed the workers */
    if (l->deaths >= DEATHS_ALONE && l->count > least_count(w)) {
        l->is_narrow = true;
        advance(c, l);
    } else if (l->deaths < DEATHS_MAX) {
        send_again(c, l);
    } else {
        for (uint32_t end = w->at + l->count; w->at < end;) {
            char message[120];
            snprintf(message, sizeof message, "input %.0f: %d workers of the cluster died with it",
                     (double)(w->terms->base + w->block->first + w->at + 1), DEATHS_MAX);
            fail(l, TP_KIND_CRASH, message);
        }
        advance(c, l);
    }
}

/* The worker is dead that gave values of this flight. What was not read is taken back of all that
 * it ran, before the first failure lets the reader go on to them. */
static void lose_streamer(cluster *c, const flight *of)
{
    uint8_t dead[TP_ID_BYTES];
    memcpy(dead, of->streamer, sizeof dead);
    for (int is_last = 0; is_last < 2; is_last++)
        for (unsigned i = 0; i < c->n_flights; i++) {
            flight *l = &c->flights[i];
            if (!l->is_bound || memcmp(l->streamer, dead, sizeof dead) != 0)
                continue;
            if (is_last)
                lose(c, l);
            else
                tp_slice_take_back(l->slice);
        }
}

/* A worker that took work directly is dead. It runs chunks in the order in which they came, as many
 * at once as it has slots: only those can be the cause of its death. */
static void lose_worker(cluster *c, const worker *dead)
{
    for (unsigned i = 0; i < c->n_flights; i++) {
        flight *l = &c->flights[i];
        unsigned before = 0;
        for (unsigned k = 0; k < c->n_flights && l->taker == dead; k++)
            before += c->flights[k].taker == dead && c->flights[k].chunk < l->chunk;
        l->has_begun = l->taker == dead && (l->agent.site || before < dead->slots);
    }
    for (unsigned i = 0; i < c->n_flights; i++)
        if (c->flights[i].taker != dead)
            continue;
        else if (c->flights[i].has_begun)
            lose(c, &c->flights[i]);
        else
            send_again(c, &c->flights[i]);
}

/* ---- results ---- */

/* Gives records to the slice's work, whose next items they are of. They come from elsewhere:
 * nothing is believed. False with err set: they are wrong, or there is no memory (TP_EMEMORY). */
static bool read_into(flight *l, const void *bytes, size_t len, tp_error *err)
{
    tp_work *w = &l->slice->work;
    /* an aligned copy, with all that the records may refer to */
    char *copy = malloc(len + 8);
    uint32_t n = l->refs.n + l->image->refs.n;
    tp_ref **refs = malloc((n + 1) * sizeof(tp_ref *));
    if (!copy || !refs) {
        free(copy);
        free(refs);
        tp_error_oom(err, "results");
        return false;
    }
    memcpy(copy, bytes, len);
    if (l->refs.n)
        memcpy(refs, l->refs.refs, l->refs.n * sizeof(tp_ref *));
    if (l->image->refs.n)
        memcpy(refs + l->refs.n, l->image->refs.refs, l->image->refs.n * sizeof(tp_ref *));
    tp_wire_given given = { .refs = refs, .n = n };
    tp_wire_reader r = {
        .base = copy, .size = len, .first = w->at, .count = l->count,
        .may_reduce = l->may_reduce, .given = &given
    };
    bool is_right = tp_wire_read(&r, w, 0, len, err);
    free(copy);
    free(refs);
    return is_right;
}

/* The results of a chunk have come. */
static void read_records(cluster *c, flight *l, const void *bytes, size_t len)
{
    tp_work *w = &l->slice->work;
    uint32_t count = l->count, before = w->at;
    tp_error why = { 0 };
    bool is_right = read_into(l, bytes, len, &why);
    tp_lanes_end(&l->box, c->engine, w->at - before);
    if (!is_right && why.code == TP_EMEMORY) {
        w->sink->starve(w);
        end_slice(c, l);
        return;
    }
    if (is_right && w->at < before + count) {
        is_right = false;
        tp_error_set(&why, TP_EUSAGE, "it has sent fewer results than it had inputs");
    }
    if (!is_right && w->at < before + count) {
        char message[700];
        snprintf(message, sizeof message, "a worker of the cluster cannot be used: %s",
                 why.message);
        fail(l, TP_KIND_CRASH, message);
    }
    advance(c, l);
}

/* A result of the flight has come: adapts the number of flights to how long it took. */
static void adapt_window(cluster *c, const flight *l)
{
    uint64_t took = uv_hrtime() - l->sent_ns;
    if (l->taker)
        return;
    if (took > IN_FLIGHT_NS)
        c->window -= c->window > 1 ? 0.5 : 0;
    else if (took < IN_FLIGHT_NS / 2 && c->in_flight + 1 >= c->window && c->window < FLIGHTS)
        c->window += 0.5;
}

/* The length of the names of chunks that follow an answer, and that of its ticket (see
 * tp_answer). */
static size_t names_in(const char *data, size_t len, size_t *ticket)
{
    tp_answer a;
    *ticket = 0;
    if (len < sizeof a)
        return 0;
    memcpy(&a, data, sizeof a);
    len -= sizeof a;
    if (a.names > len)
        return 0;
    *ticket = a.ticket <= len - a.names ? a.ticket : 0;
    return a.names;
}

/* An answer says what else its worker takes directly. */
static void take_offers(cluster *c, flight *l, const tp_answer *a)
{
    char id[TP_ID_TEXT];
    uint64_t now = uv_hrtime();
    worker *w = l->taker;
    leave_taker(l);
    if (!w) {
        tp_to_hex(id, a->worker, sizeof a->worker);
        w = find_worker(c, id, false);
    }
    if (w && a->kind == TP_ANSWER_DONE)
        begin_box(c, l, w, a->ran_ns < now ? now - a->ran_ns : 0);
    if (w && w->is_same && *w->inbox && !w->n_devices)
        set_offers(c, w, a->offers);
}

/* What the worker of a chunk of kernels says how long it ran is what its items took, without the
 * way there and back: so chunks grow as devices are fast. More than was waited for is not
 * believed. */
static void note_time(flight *l, uint64_t ran_ns)
{
    const uint64_t most_ns = uv_hrtime() - l->sent_ns;
    l->slice->ran_ns += ran_ns < most_ns ? ran_ns : most_ns;
}

/* Gets a result, or values, that are not in their message. -1 with err set: they are not there. */
static int fetch(cluster *c, flight *l, tp_blob *b, uint32_t where, tp_buf *bytes, tp_error *err)
{
    tp_error ignored = { 0 };
    tp_buf direct = l->direct;
    l->direct = (tp_buf){ 0 };
    /* of what came in pieces directly the first ones may be in the stream: so they are found, to be
     * removed */
    int rc = tp_blob_get(&c->nats, c->session_hex, b, bytes, &(tp_between){ hear, c },
                         where == TP_ANSWER_BLOB ? err : &ignored);
    if (where != TP_ANSWER_BLOB) {
        tp_buf_free(bytes);
        *bytes = direct;
        direct = (tp_buf){ 0 };
        rc = tp_blob_check(b, bytes, err);
    }
    tp_buf_free(&direct);
    return rc;
}

static void take_answer(cluster *c, flight *l, const char *data, size_t len)
{
    tp_answer a = { 0 };
    tp_error err = { 0 };
    if (len >= sizeof a)
        memcpy(&a, data, sizeof a);
    const char *bytes = data + sizeof a;
    size_t ticket, names = names_in(data, len, &ticket);
    len -= names + ticket;
    if (l->is_bound && memcmp(a.worker, l->streamer, sizeof a.worker) != 0)
        return; /* another one was sent it, too, and its values were not taken */
    adapt_window(c, l);
    take_offers(c, l, &a);
    if (l->agent.site)
        note_time(l, a.ran_ns);
    if (len < sizeof a || a.size > TP_PAYLOAD_MAX ||
        (a.where == TP_ANSWER_HERE && a.size != len - sizeof a))
        a.kind = 0;
    if (a.kind == TP_ANSWER_DONE && a.where != TP_ANSWER_HERE) {
        tp_buf blob = { 0 };
        tp_blob b = tp_blob_of_result(a.digest, a.size, l->chunk, l->sending);
        int rc = fetch(c, l, &b, a.where, &blob, &err);
        leave_blob(c, l, &b);
        if (rc == 0)
            read_records(c, l, blob.data, blob.len);
        else
            send_again(c, l);
        tp_buf_free(&blob);
    } else if (a.kind == TP_ANSWER_DONE) {
        read_records(c, l, bytes, a.size);
    } else if (a.kind == TP_ANSWER_BACK) {
        send_again(c, l);
    } else if (a.kind == TP_ANSWER_REFUSED) {
        tp_error_set(&err, TP_EUSAGE, "a worker of the cluster refuses the work: %.*s",
                     (int)(a.size < 300 ? a.size : 300), bytes);
        tp_job_give_up(l->slice->job, &err);
        end_slice(c, l);
    } else {
        fail(l, TP_KIND_CRASH, "a worker of the cluster cannot be used: it has sent no result");
        advance(c, l);
    }
}

/* A piece of a result, or of values, for which the server has no room: "+" asks for the next. */
static void take_piece(cluster *c, const tp_nats_event *e)
{
    tp_direct head;
    if (e->len < sizeof head || strncmp(e->reply, TP_INBOX_WORKER ".", sizeof TP_INBOX_WORKER) != 0)
        return;
    memcpy(&head, e->data, sizeof head);
    flight *l = flight_of(c, head.chunk, head.sending);
    size_t len = e->len - sizeof head;
    if (!l || head.at > l->direct.len || head.at + len > TP_PAYLOAD_MAX)
        return;
    if (head.at == 0)
        tp_buf_clear(&l->direct); /* drops pieces of another worker, too */
    bool is_new = head.at == l->direct.len;
    if (!is_new || tp_buf_add(&l->direct, e->data + sizeof head, len) == 0)
        tp_nats_publish(&c->nats, e->reply, NULL, "+", 1);
}

/* ---- values that come while an item runs ---- */

/* Nobody wants the slice any more. */
static void end_unwanted(cluster *c, flight *l)
{
    char subject[TP_SUBJECT_MAX], text[40];
    snprintf(subject, sizeof subject, TP_SUBJECT_CTL "%s", c->session_hex);
    snprintf(text, sizeof text, "cancel %llu", (unsigned long long)l->chunk);
    tp_nats_publish(&c->nats, subject, NULL, text, strlen(text));
    end_slice(c, l);
}

/* Says how many values the item may give; with `answers` in any case, else when they are more.
 * An item that waits has given up its permit, and goes on when it has one again. */
static void allow(cluster *c, flight *l, bool answers)
{
    char text[64];
    uint64_t values;
    tp_slice *s = l->slice;
    if (!tp_slice_allow(s, &values)) {
        if (!s->work.sink->is_cancelled(&s->work)) /* an earlier item has failed */
            fail(l, TP_KIND_CANCELLED, "nobody reads these values any more");
        end_unwanted(c, l);
        return;
    }
    if (values > l->allowed && (!l->is_full || tp_slice_take_permit(s, 0))) {
        l->allowed = values;
        answers = true;
        if (l->agent.is_blocked)
            note_move(c);
        set_full(c, l, false);
    }
    if (!answers || !l->is_bound)
        return;
    int len = snprintf(text, sizeof text, "%llu %llu", (unsigned long long)s->emitted,
                       (unsigned long long)l->allowed);
    tp_nats_publish(&c->nats, l->listener, NULL, text, (size_t)len);
}

/* Lets items go on whose values were read. */
static void allow_all(cluster *c)
{
    for (unsigned i = 0; i < c->n_flights && c->n_streams > 0; i++) {
        flight *l = &c->flights[i];
        if (l->slice && l->count && l->slice->work.terms->streams)
            allow(c, l, false);
    }
}

/* Reads the values of a message. False with err set: they are not there, or wrong. */
static bool read_values(cluster *c, flight *l, const tp_part *head, const char *bytes, size_t len,
                        tp_error *err)
{
    if (head->where == TP_ANSWER_HERE)
        return read_into(l, bytes, len, err);
    tp_buf blob = { 0 };
    tp_blob b = tp_blob_of_result(head->digest, head->size, l->chunk, l->sending);
    bool is_right = head->size <= TP_PAYLOAD_MAX &&
                    fetch(c, l, &b, head->where, &blob, err) == 0 &&
                    read_into(l, blob.data, blob.len, err);
    drop_blob(c, &b);
    tp_buf_free(&blob);
    return is_right;
}

static void take_part(cluster *c, const tp_nats_event *e)
{
    tp_part head;
    tp_error why = { 0 };
    if (e->len < sizeof head || strlen(e->reply) >= TP_SUBJECT_MAX ||
        strncmp(e->reply, TP_INBOX_WORKER ".", sizeof TP_INBOX_WORKER) != 0)
        return;
    memcpy(&head, e->data, sizeof head);
    flight *l = flight_of(c, head.chunk, head.sending);
    if (!l || !l->slice->work.terms->streams ||
        (l->is_bound && memcmp(l->streamer, head.worker, sizeof head.worker) != 0)) {
        tp_nats_publish(&c->nats, e->reply, NULL, "over", 4);
        return;
    }
    tp_work *w = &l->slice->work;
    l->is_bound = true;
    memcpy(l->streamer, head.worker, sizeof head.worker);
    snprintf(l->listener, sizeof l->listener, "%s", e->reply);
    l->held_ns = uv_hrtime();
    uint64_t given = l->slice->emitted;
    if (head.from == given && head.count > 0) {
        uint32_t at = w->at;
        bool is_right = head.count <= l->allowed - given &&
                        read_values(c, l, &head, e->data + sizeof head, e->len - sizeof head,
                                    &why);
        given = l->slice->emitted;
        bool is_wanted = !tp_work_is_asked_to_stop(w);
        /* what is not there any more is sent, and said, again */
        if (!is_right && head.where != TP_ANSWER_HERE && given == head.from &&
            why.code == TP_ESYS)
            return;
        if (is_wanted && (!is_right || w->at != at || given != head.from + head.count)) {
            if (why.code == TP_EMEMORY)
                w->sink->starve(w);
            else if (w->at == at)
                fail(l, TP_KIND_CRASH, "a worker of the cluster cannot be used: what it has sent "
                                       "are no values");
            end_unwanted(c, l);
            return;
        }
    }
    if (head.is_full && !l->is_full && head.from + head.count == l->slice->emitted &&
        l->slice->emitted == l->allowed) {
        set_full(c, l, true);
        w->sink->release_permit(w);
    }
    allow(c, l, true);
}

/* ---- Dicts and Queues ---- */

static void free_question(question *q)
{
    tp_store_op_clear(&q->op);
    tp_ref_drop(q->store);
    free(q->key);
    free(q);
}

static void drop_answered(cluster *c, answered *a)
{
    c->answered_bytes -= a->bytes.len;
    tp_buf_free(&a->bytes);
}

/* Gives the answer, and keeps it: `bytes` is empty then. */
static void give_answer(cluster *c, const char *reply, tp_buf *bytes)
{
    answered *a = &c->answered[c->n_answered++ % ANSWERED_MAX];
    drop_answered(c, a);
    a->bytes = *bytes;
    *bytes = (tp_buf){ 0 };
    tp_blake2b_hash(a->id, sizeof a->id, reply, strlen(reply));
    c->answered_bytes += a->bytes.len;
    tp_nats_publish(&c->nats, reply, NULL, a->bytes.data, a->bytes.len);
    for (uint64_t i = c->n_answered; c->answered_bytes > ANSWERED_BYTES &&
                                     i < c->n_answered + ANSWERED_MAX - 1; i++)
        drop_answered(c, &c->answered[i % ANSWERED_MAX]);
}

static void answer_store(cluster *c, const char *reply, const tp_store_op *op, const tp_error *why)
{
    tp_buf bytes = { 0 };
    tp_error err = { 0 }, ignored = { 0 };
    if (tp_answer_put(&bytes, op, why, &c->stores, &err)) {
        tp_buf_clear(&bytes);
        tp_answer_put(&bytes, op, &err, &c->stores, &ignored);
    }
    give_answer(c, reply, &bytes);
}

static tp_func *func_of(const cluster *c, uint64_t id)
{
    for (uint32_t i = 0; i < c->funcs.n; i++)
        if ((uint64_t)(uintptr_t)c->funcs.refs[i] == id &&
            c->funcs.refs[i]->type == &tp_func_type)
            return (tp_func *)(void *)c->funcs.refs[i];
    return NULL;
}

/* Takes a permit for the flight's item: that of its own function, which it has given up while it
 * waits, or one more. */
static bool take_permit(flight *l, tp_func *f)
{
    tp_parcel_refs *p = &l->permits;
    if (f == tp_job_func(l->slice->job) && !l->slice->has_permit)
        return tp_slice_take_permit(l->slice, 0);
    if (p->n == p->room) {
        uint32_t room = p->room ? 2 * p->room : 4;
        tp_ref **refs = realloc(p->refs, room * sizeof(tp_ref *));
        if (!refs)
            return false;
        p->refs = refs;
        p->room = room;
    }
    if (!tp_slice_take_permit_of(l->slice, f, 0))
        return false;
    p->refs[p->n++] = tp_ref_hold(&f->ref);
    return true;
}

static void release_permit(cluster *c, flight *l, tp_func *f)
{
    tp_parcel_refs *p = &l->permits;
    uint32_t i = 0;
    while (i < p->n && p->refs[i] != &f->ref)
        i++;
    if (i < p->n) {
        tp_func_release_permit(c->engine, f);
        tp_ref_drop(&f->ref);
        p->refs[i] = p->refs[--p->n];
    } else if (f == tp_job_func(l->slice->job)) {
        l->slice->work.sink->release_permit(&l->slice->work);
    }
}

/* The same for permits. A question for a chunk that is over is answered with yes: nobody needs a
 * permit for it any more. */
static bool try_permit(cluster *c, const question *q)
{
    tp_func *f = func_of(c, q->permit.func);
    flight *l = flight_of(c, q->permit.chunk, (unsigned)q->permit.sending);
    bool takes = q->permit.verb == TP_PERMIT_TAKE, has = true;
    if (f && l && takes)
        has = take_permit(l, f);
    else if (f && l)
        release_permit(c, l, f);
    if (!has && uv_hrtime() < q->deadline_ns)
        return false;
    tp_buf bytes = { 0 };
    if (tp_permit_answer_put(&bytes, has, NULL) == 0)
        give_answer(c, q->reply, &bytes);
    return true;
}

/* Does what the question asks for, if that need not wait. */
static bool try_question(cluster *c, question *q)
{
    if (q->permit.func)
        return try_permit(c, q);
    tp_error why = { 0 };
    int rc = tp_store_perform((tp_store *)(void *)q->store, NULL, &q->op, &why);
    if (rc == 0 && q->op.moved == TP_NOT_YET && uv_hrtime() < q->deadline_ns)
        return false;
    if (q->op.verb == TP_STORE_PUSH || q->op.verb == TP_STORE_TAKE)
        if (rc || q->op.moved != TP_NOT_YET)
            note_move(c);
    answer_store(c, q->reply, &q->op, &why);
    return true;
}

static void take_question(cluster *c, const tp_nats_event *e)
{
    uint8_t id[TP_ID_BYTES];
    tp_error err = { 0 };
    if (strncmp(e->reply, TP_INBOX_WORKER ".", sizeof TP_INBOX_WORKER) != 0 ||
        strlen(e->reply) >= TP_SUBJECT_MAX)
        return;
    tp_blake2b_hash(id, sizeof id, e->reply, strlen(e->reply));
    for (int i = 0; i < ANSWERED_MAX; i++) {
        const answered *a = &c->answered[i];
        if (a->bytes.len && memcmp(a->id, id, sizeof id) == 0) {
            tp_nats_publish(&c->nats, e->reply, NULL, a->bytes.data, a->bytes.len);
            return;
        }
    }
    for (const question *q = c->questions; q; q = q->next)
        if (strcmp(q->reply, e->reply) == 0)
            return;
    question *q = calloc(1, sizeof *q);
    if (!q)
        return; /* it is asked again */
    snprintf(q->reply, sizeof q->reply, "%s", e->reply);
    uint64_t wait_ns;
    if (tp_permit_get(e->data, e->len, &q->permit) && q->permit.func) {
        wait_ns = q->permit.wait_ns;
    } else if (tp_question_get(e->data, e->len, &q->op, &q->store, &q->key, &c->stores, &err)) {
        answer_store(c, q->reply, &q->op, &err);
        free_question(q);
        return;
    } else {
        wait_ns = q->op.wait_ns;
    }
    q->deadline_ns = uv_hrtime() + (wait_ns < QUESTION_NS ? wait_ns : QUESTION_NS);
    if (try_question(c, q)) {
        free_question(q);
        return;
    }
    question **end = &c->questions; /* in the order in which they were asked */
    while (*end)
        end = &(*end)->next;
    *end = q;
    c->n_questions++;
}

static void try_questions(cluster *c)
{
    for (question **at = &c->questions; *at;) {
        question *q = *at;
        if (try_question(c, q)) {
            *at = q->next;
            c->n_questions--;
            free_question(q);
        } else {
            at = &q->next;
        }
    }
}

/* What items have printed on a worker: the descriptor, the host's name with a NUL, whole lines. */
static void take_output(cluster *c, const char *data, size_t len)
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

/* The server has taken work, or has it already, or not. */
static void take_acknowledgement(cluster *c, flight *l, const tp_nats_event *e)
{
    char why[120];
    tp_nats_stored stored = tp_nats_is_stored(e, why, sizeof why);
    if (stored == TP_NATS_STORED) {
        l->is_taken = true;
        set_shortage(c, l, NO_SHORTAGE);
        c->is_emptied = c->has_said_full = false;
        c->short_ns = 0;
        return;
    }
    if (stored == TP_NATS_FULL && !l->is_taken) {
        c->why = (tp_error){ 0 };
        tp_error_set(&c->why, TP_ELIMIT,
                     "the engine has no room for %zu bytes of work: its server says \"%s\" "
                     "(max_file_store in its configuration)",
                     l->message.len, why);
        set_shortage(c, l, REFUSED);
    }
    l->patience_ns = CHECK_NS;
    l->check_ns = uv_hrtime() + RETRY_NS;
}

/* Asks for the result of a chunk, in case it was missed. */
static void check(cluster *c, flight *l, uint64_t now)
{
    char subject[TP_SUBJECT_MAX], reply[TP_SUBJECT_MAX];
    name_result(c, l, "$JS.API.DIRECT.GET." TP_STREAM_R ".", subject);
    snprintf(reply, sizeof reply, "%s.g.%llu.%u", c->inbox, (unsigned long long)l->chunk,
             l->sending);
    tp_nats_publish(&c->nats, subject, reply, "", 0);
    if (l->patience_ns < CHECK_MAX_S * 1000000000ull)
        l->patience_ns *= 2;
    l->check_ns = now + l->patience_ns;
}

/* The answer to `check`. */
static void take_check(cluster *c, flight *l, const tp_nats_event *e)
{
    if (e->status == 0) {
        take_answer(c, l, e->data, e->len);
        return;
    }
    /* the work is at the server, or its worker seems dead: then it is given up later, not now */
    uint64_t now = uv_hrtime();
    if (l->taker && (now < l->held_ns + beats(c, TP_HELD_BEATS) ||
                      l->taker->seen_ns < l->sent_ns))
        return;
    if (l->agent.site)
        dispatch_kernel(c, l); /* a worker that has it takes no notice */
    else
        publish(c, l, now);
}

/* The answer to what was sent directly. */
static void take_direct(cluster *c, const tp_nats_event *e)
{
    tp_answer a;
    if (e->len < sizeof a)
        return;
    memcpy(&a, e->data, sizeof a);
    flight *l = flight_of(c, a.chunk, a.sending);
    if (l)
        take_answer(c, l, e->data, e->len);
}

/* There is no stream for something that was published: makes what is missing, and looks what has
 * become of all work. */
static void find_streams(cluster *c)
{
    tp_error err = { 0 };
    uint64_t now = uv_hrtime();
    if (now < c->streams_ns)
        return;
    ensure(c, &err);
    c->streams_ns = uv_hrtime() + RETRY_NS;
    for (unsigned i = 0; i < c->n_flights; i++) {
        flight *l = &c->flights[i];
        if (l->count && !l->taker && l->check_ns > c->streams_ns) {
            l->patience_ns = CHECK_NS;
            l->check_ns = c->streams_ns;
        }
    }
}

static void take_event(cluster *c, const tp_nats_event *e)
{
    unsigned long long group, chunk;
    unsigned sending;
    char what;
    size_t inbox = strlen(c->inbox), r = strlen(TP_SUBJECT_R), s = strlen(c->session_hex);
    if (take_sign(c, e))
        return;
    if (e->kind == TP_NATS_LOST) {
        c->has_lost = true;
        c->lost_ns = uv_hrtime();
    } else if (e->kind == TP_NATS_BACK) {
        tp_error err = { 0 };
        c->has_lost = false;
        note_move(c); /* what was lost is said again */
        ensure(c, &err); /* the restarted server may have another disk, without our streams */
        uint64_t now = uv_hrtime();
        /* they were cut off as well: they count as seen now */
        for (unsigned i = 0; i < c->n_known; i++)
            if (!is_gone(c, c->known[i], c->lost_ns))
                c->known[i]->seen_ns = now;
        for (unsigned i = 0; i < c->n_flights; i++) {
            flight *l = &c->flights[i];
            if (!l->count)
                continue;
            if (!l->agent.site)
                leave_taker(l); /* direct answers may have been lost */
            l->held_ns = l->held_ns ? now : 0;
            l->patience_ns = CHECK_NS / 2;
            check(c, l, now);
        }
    }
    if (e->kind != TP_NATS_MESSAGE)
        return;
    if (!*e->subject) {
        find_streams(c);
    } else if (strncmp(e->subject, c->inbox, inbox) == 0) {
        flight *l = sscanf(e->subject + inbox, ".%c.%llu.%u", &what, &chunk, &sending) == 3
                      ? flight_of(c, chunk, sending)
                      : NULL;
        if (l && what == 'w')
            take_acknowledgement(c, l, e);
        else if (l && what == 'g')
            take_check(c, l, e);
    } else if (strncmp(e->subject, TP_SUBJECT_R, r) == 0) {
        const char *rest = strlen(e->subject) > r + s ? e->subject + r + s : "";
        if (strcmp(rest, ".out") == 0) {
            take_output(c, e->data, e->len);
        } else if (strcmp(rest, ".part") == 0) {
            take_part(c, e);
        } else if (strcmp(rest, ".piece") == 0) {
            take_piece(c, e);
        } else if (strcmp(rest, ".ask") == 0) {
            take_question(c, e);
        } else if (strcmp(rest, ".direct") == 0) {
            take_direct(c, e);
        } else if (sscanf(rest, ".%llu.%llu.%u", &group, &chunk, &sending) == 3) {
            size_t ticket, names = names_in(e->data, e->len, &ticket);
            take_held(c, e->data + e->len - names, names);
            flight *l = flight_of(c, chunk, sending);
            if (l)
                take_answer(c, l, e->data, e->len);
            else if (strncmp(e->reply, TP_INBOX_WORKER ".", sizeof TP_INBOX_WORKER) == 0)
                /* nobody needs this result any more: any answer ends its worker's wait for one */
                tp_nats_publish(&c->nats, e->reply, NULL, "{}", 2);
        }
    }
}

/* ---- the carrier ---- */

/* Ends the slices that nobody wants any more. */
static void end_all_unwanted(cluster *c)
{
    /* flights have agents of their own, and any of them can be asked */
    if (c->n_flights == 0 || !tp_agent_sees_cancels(&c->flights[0].agent))
        return;
    for (unsigned i = 0; i < c->n_flights; i++) {
        flight *l = &c->flights[i];
        if (l->slice && l->slice->work.sink->is_cancelled(&l->slice->work))
            end_unwanted(c, l);
    }
}

static void check_all(cluster *c, uint64_t now)
{
    for (unsigned i = 0; i < c->n_flights && !c->has_lost; i++) {
        flight *l = &c->flights[i];
        if (l->count && now >= l->check_ns) {
            /* its worker names it until the server has its result */
            uint64_t named_ns = l->held_ns ? l->held_ns + beats(c, CHECK_BEATS) : 0;
            if (now < named_ns)
                l->check_ns = named_ns;
            else
                check(c, l, now);
        }
        if (l->is_grounded)
            dispatch_kernel(c, l);
        if (!l->count || c->is_behind)
            continue;
        uint64_t sign_ns = l->taker ? l->taker->seen_ns : l->held_ns;
        if (!sign_ns || now < sign_ns + beats(c, TP_HELD_BEATS))
            continue;
        if (l->taker)
            lose_worker(c, l->taker);
        else if (l->is_bound)
            lose_streamer(c, l);
        else
            lose(c, l);
    }
}

/* How many messages there are in that stream. -1: the server does not say. */
static long long count_messages(cluster *c, const char *stream)
{
    static const char begin[] = "\"messages\":";
    char subject[TP_SUBJECT_MAX];
    snprintf(subject, sizeof subject, "$JS.API.STREAM.INFO.%s", stream);
    tp_nats_event *e = tp_nats_ask(&c->nats, subject, "", 0, ASK_MS);
    const char *at = e ? memmem(e->data, e->len, begin, sizeof begin - 1) : NULL;
    long long n = -1;
    char digits[24];
    if (at) {
        at += sizeof begin - 1;
        size_t len = (size_t)(e->data + e->len - at);
        snprintf(digits, sizeof digits, "%.*s", (int)(len < 20 ? len : 20), at);
        n = strtoll(digits, NULL, 10);
    }
    tp_nats_free(&c->nats, e);
    return n;
}

/* No chunk is under way: makes all the room that this session can make. */
static void empty(cluster *c)
{
    for (unsigned i = 0; i < c->n_flights; i++)
        if (c->flights[i].shortage == REFUSED) {
            forget_chunk(c, &c->flights[i]);
            set_shortage(c, &c->flights[i], WAITING);
        }
    remove_all(c);
    if (!c->is_emptied)
        c->short_ns = uv_hrtime(); /* removing takes its time, as storing did before */
    c->is_emptied = true;
}

/* The chunk was refused although nothing else of this session is at the server: it fails, unless
 * messages of other sessions may be what takes the room. */
static void despair(cluster *c, flight *l, uint64_t now)
{
    char text[500];
    empty(c);
    if (c->why.code == TP_ELIMIT &&
        count_messages(c, TP_STREAM_W) + count_messages(c, TP_STREAM_R) +
                count_messages(c, TP_STREAM_B) == 0) {
        forget_chunk(c, l);
        fail(l, TP_KIND_RESOURCE, c->why.message);
        c->is_emptied = false;
        advance(c, l);
    } else if (c->why.code == TP_ELIMIT && now > c->short_ns + ALONE_S * 1000000000ull &&
               !c->has_said_full) {
        c->has_said_full = true;
        snprintf(text, sizeof text,
                 "tidepool: the engine at %.200s is full, and not of this script's: the work goes "
                 "on when there is room (`tidepool engine gc` removes what killed scripts left)\n",
                 c->base.host->config.engine);
        say(c, text);
    }
}

/* Sends what the server had no room for, the first chunk first. */
static void retry_short(cluster *c, uint64_t now)
{
    if (c->n_short == 0 || c->has_lost || now < c->retry_ns)
        return;
    c->short_ns = c->short_ns ? c->short_ns : now;
    flight *first = NULL;
    bool has_chunks = false;
    for (unsigned i = 0; i < c->n_flights; i++) {
        flight *l = &c->flights[i];
        has_chunks |= l->slice && l->shortage == NO_SHORTAGE;
        if (l->shortage != NO_SHORTAGE && (!first || l->chunk < first->chunk))
            first = l;
    }
    if (!has_chunks && c->is_emptied)
        despair(c, first, now);
    else if (!has_chunks)
        empty(c);
    for (bool is_sent = true; is_sent && c->n_short > 0;) {
        tp_error err = { 0 };
        first = NULL;
        for (unsigned i = 0; i < c->n_flights; i++)
            if (c->flights[i].shortage == WAITING &&
                (!first || c->flights[i].chunk < first->chunk))
                first = &c->flights[i];
        is_sent = first && !c->is_emptied; /* tried alone */
        if (first && launch(c, first, &err)) {
            fail(first, tp_failure_kind_of(err.code, TP_KIND_CODEC), err.message);
            advance(c, first);
        }
        is_sent &= first && first->shortage == NO_SHORTAGE;
    }
    c->retry_ns = uv_hrtime() + RETRY_NS;
}

/* Purges groups of results (TP_GROUP_CHUNKS) in which no result is awaited any more. */
static void purge_done(cluster *c, uint64_t now)
{
    uint64_t first = c->turns * FLIGHTS;
    char filter[TP_SUBJECT_MAX];
    for (unsigned i = 0; i < c->n_flights; i++)
        if (c->flights[i].count && c->flights[i].chunk < first)
            first = c->flights[i].chunk;
    if (c->purge_ns == 0 && c->purged < first / TP_GROUP_CHUNKS) {
        c->purge_until = first / TP_GROUP_CHUNKS;
        c->purge_ns = now + KEEP_NS;
    }
    if (now < c->purge_ns || c->has_lost)
        return;
    c->purge_ns = 0;
    for (; c->purged < c->purge_until; c->purged++) {
        snprintf(filter, sizeof filter, TP_SUBJECT_R "%s.%llu.>", c->session_hex,
                 (unsigned long long)c->purged);
        tp_nats_purge(&c->nats, TP_STREAM_R, filter);
    }
}

/* Does everything wait for what nobody can do any more? Then all that waits must give up. */
static void look_whether_stuck(cluster *c, uint64_t now)
{
    char subject[TP_SUBJECT_MAX];
    tp_agent *waits = NULL;
    bool is_hopeless = false;
    for (unsigned i = 0; i < c->n_flights && c->in_flight > 0; i++)
        if (c->flights[i].agent.is_blocked) {
            waits = &c->flights[i].agent;
            is_hopeless |= tp_job_is_hopeless(waits);
        }
    if (!is_hopeless && (!waits || !tp_engine_is_stuck(c->engine, waits))) {
        c->stuck_ns = 0;
        return;
    }
    c->stuck_ns = c->stuck_ns ? c->stuck_ns : now;
    if (!is_hopeless && now < c->stuck_ns + STUCK_NS)
        return;
    tp_engine_give_up(c->engine);
    snprintf(subject, sizeof subject, TP_SUBJECT_CTL "%s", c->session_hex);
    tp_nats_publish(&c->nats, subject, NULL, "stuck", 5);
    c->stuck_ns = 0;
    note_move(c);
}

/* What is done every LOOK_NS. */
static void look(cluster *c, uint64_t now)
{
    if (now < c->look_ns)
        return;
    c->look_ns = now + LOOK_NS + c->n_flights * LOOK_EACH_NS;
    end_all_unwanted(c);
    check_all(c, now);
    look_whether_stuck(c, now);
    purge_done(c, now);
}

/* A flight without a slice, the last of the idle ones. NULL: there may be no more. */
static flight *idle_flight(cluster *c, unsigned most)
{
    tp_error err = { 0 };
    if (c->in_flight >= most)
        return NULL;
    if (c->n_idle > 0)
        return &c->flights[c->idle[c->n_idle - 1]];
    unsigned i = c->n_flights;
    flight *l = &c->flights[i];
    if (i == FLIGHTS || tp_agent_open(&l->agent, c->engine, (int)i + 1, &c->base, &err))
        return NULL;
    l->agent.worker.tags_lines = c->base.host->config.tag_lines;
    c->n_flights++;
    c->idle[c->n_idle++] = i;
    return l;
}

/* Are there slices of this executor's that nobody has taken yet? */
static bool has_work(cluster *c)
{
    uv_mutex_lock(tp_engine_lock(c->engine));
    bool has = tp_job_can_take_locked(c->engine, &c->base);
    uv_mutex_unlock(tp_engine_lock(c->engine));
    return has;
}

static bool has_work_at(cluster *c, uint64_t sites)
{
    uv_mutex_lock(tp_engine_lock(c->engine));
    bool has = tp_job_can_take_at_locked(c->engine, &c->base, sites);
    uv_mutex_unlock(tp_engine_lock(c->engine));
    return has;
}

/* The flight, which is the last of the idle ones, begins a slice of that site (0: of none). False:
 * there is none. */
static bool take_slice(cluster *c, flight *l, uint64_t site)
{
    uv_mutex_lock(tp_engine_lock(c->engine));
    l->agent.site = site;
    l->slice = tp_job_take_locked(c->engine, &c->base, &l->agent);
    uv_mutex_unlock(tp_engine_lock(c->engine));
    if (!l->slice)
        return false;
    c->n_idle--;
    c->in_flight++;
    c->n_streams += l->slice->work.terms->streams;
    c->n_kernels += site != 0;
    advance(c, l);
    return true;
}

/* How many more chunks the workers at that site have room for. */
static unsigned room_at(cluster *c, uint64_t site, uint64_t now)
{
    unsigned room = 0;
    for (unsigned i = 0; i < c->n_known; i++) {
        const worker *w = c->known[i];
        if (is_for(c, w, site, now) && w->out < w->kernels)
            room += w->kernels - w->out;
    }
    return room;
}

/* Asks workers for their devices, which nobody looks for before that; new ones, too. */
static void ask_for_devices(cluster *c, uint64_t now)
{
    if (now < c->ask_ns)
        return;
    c->ask_ns = now + BEAT_AGAIN_S * 1000000000ull;
    tp_nats_publish(&c->nats, TP_SUBJECT_CTL "all", NULL, "devices", 7);
}

/* Is there a worker at that site? */
static bool is_met(cluster *c, uint64_t site, uint64_t now)
{
    for (unsigned i = 0; i < c->n_known; i++)
        if (c->known[i]->sites & site && has_devices(c, c->known[i], now))
            return true;
    return false;
}

static bool has_grounded(const cluster *c, uint64_t site)
{
    for (unsigned i = 0; i < c->n_flights && c->n_kernels > 0; i++)
        if (c->flights[i].is_grounded && c->flights[i].agent.site == site)
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
    for (unsigned i = 0; i < c->n_known; i++) {
        const worker *w = c->known[i];
        for (unsigned k = 0, n; has_devices(c, w, now) && k < w->n_devices; k += n) {
            const tp_seen_device *d = &w->devices[k];
            for (n = 1; k + n < w->n_devices && strcmp(w->devices[k + n].name, d->name) == 0;)
                n++;
            add_text(text, sizeof text - 200, "%s\n  %s (%s, %s, %.1f GiB), %u on %s",
                     has_any ? "" : "; there are:", d->name, d->type, d->platform,
                     (double)w->memory[k] / (1 << 30), n, w->host);
            has_any = true;
        }
    }
    add_text(text, sizeof text, has_any ? "\n" : ", or of any\n");
    say(c, text);
}

/* A site has work, or not: when it has some and no worker is there for ALONE_S, it is told. */
static void note_unmet(cluster *c, unsigned k, bool has_work, uint64_t now)
{
    const uint64_t site = (uint64_t)1 << k;
    const bool is_unmet = !is_met(c, site, now) && (has_work || has_grounded(c, site));
    c->n_unmet += is_unmet;
    if (!is_unmet) {
        c->unmet_ns[k] = 0;
        c->said_sites &= ~site;
        return;
    }
    c->unmet_ns[k] = c->unmet_ns[k] ? c->unmet_ns[k] : now;
    /* without any worker that is told, and that alone */
    if (c->said_sites & site || c->has_lost || c->slots == 0 ||
        now < c->unmet_ns[k] + ALONE_S * 1000000000ull)
        return;
    c->said_sites |= site;
    say_unmet(c, c->sites[k], now);
}

/* Gives idle flights work for devices, where there is room. */
static void fill_sites(cluster *c, uint64_t now)
{
    unsigned n = count_sites(c);
    if (n > 0)
        ask_for_devices(c, now);
    c->n_unmet = 0;
    for (unsigned k = 0; k < n; k++) {
        const uint64_t site = (uint64_t)1 << k;
        bool has = has_work_at(c, site);
        unsigned room = has ? room_at(c, site, now) : 0;
        for (flight *l; room > 0 && c->n_short == 0 && (l = idle_flight(c, FLIGHTS)); room--)
            if (!take_slice(c, l, site))
                break;
        note_unmet(c, k, has, now);
    }
}

/* Gives idle flights work, as many as the workers have use for. */
static void fill(cluster *c, uint64_t now)
{
    count_slots(c, now);
    if (c->window < 2 * c->slots)
        c->window = 2 * c->slots;
    unsigned most = c->window < FLIGHTS_LEAST ? FLIGHTS_LEAST : (unsigned)c->window;
    if (c->offers > 0)
        most = c->offers + 2 * c->queued;
    if (most < 2 * c->slots)
        most = 2 * c->slots;
    most += c->n_questions + c->n_full + c->n_kernels;
    for (flight *l; c->n_short == 0 && (l = idle_flight(c, most));) {
        if (!take_slice(c, l, 0))
            break;
    }
    fill_sites(c, now);
}

/* While chunks wait: is nobody there to run them? */
static void look_for_workers(cluster *c, uint64_t now)
{
    char text[500];
    tp_error err = { 0 };
    if (c->has_lost && now - c->lost_ns > ALONE_S * 1000000000ull && !c->has_said) {
        c->has_said = true;
        snprintf(text, sizeof text,
                 "tidepool: the engine at %.200s is away; the work goes on when it is back\n",
                 c->base.host->config.engine);
        say(c, text);
    }
    if ((c->in_flight == 0 && c->n_unmet == 0) || c->has_lost || c->slots > 0) {
        c->alone_ns = now;
        c->has_said &= c->has_lost;
        return;
    }
    if (now - c->alone_ns < ALONE_S * 1000000000ull)
        return;
    if (c->other) {
        tp_error_set(&err, TP_EUSAGE,
                     "no worker of the cluster is of this build (%s): that on %s is %s",
                     c->build.text, c->other->host, c->other->build);
        tp_job_lose_all(c->engine, &c->base, &err);
        c->alone_ns = now;
    } else if (!c->has_said) {
        c->has_said = true;
        snprintf(text, sizeof text,
                 "tidepool: no worker is at %.200s yet: `tidepool worker --engine %.200s` starts "
                 "one\n",
                 c->base.host->config.engine, c->base.host->config.engine);
        say(c, text);
    }
}

static uint64_t until(cluster *c, uint64_t now)
{
    uv_mutex_lock(tp_engine_lock(c->engine));
    uint64_t due = tp_job_idle_until(c->engine, &c->base);
    uv_mutex_unlock(tp_engine_lock(c->engine));
    uint64_t when = c->in_flight ? now + LOOK_NS : now + 1000000000ull;
    /* a due time that has passed is seen to at the next look */
    return due > now && due < when ? due : when;
}

/* The server has refused our token and will go on refusing it (it is another engine's): all jobs
 * fail. */
static void give_up(cluster *c)
{
    tp_error err = { 0 };
    tp_error_set(&err, TP_ESYS, "the engine at %.200s does not let us in any more",
                 c->base.host->config.engine);
    disconnect(c);
    tp_job_lose_all(c->engine, &c->base, &err);
    for (unsigned i = 0; i < c->n_flights; i++)
        if (c->flights[i].slice)
            end_slice(c, &c->flights[i]);
}

static void serve(cluster *c)
{
    while (!is_stopping(c)) {
        if (!c->is_connected && has_work(c)) {
            tp_error err = { 0 };
            if (open_session(c, &err) && !is_stopping(c))
                tp_job_lose_all(c->engine, &c->base, &err);
        }
        uint64_t now = uv_hrtime();
        if (c->is_connected) {
            allow_all(c); /* they have begun: their permits come first */
            fill(c, now);
            look(c, now);
            retry_short(c, now);
            try_questions(c);
            drop_read(c, now);
            look_for_workers(c, now);
        }
        tp_nats_event *e = take(c, c->is_connected ? until(c, now) : UINT64_MAX);
        c->is_behind = e != NULL;
        for (int i = 0; e && i < 64; i++) {
            bool is_closed = e->kind == TP_NATS_CLOSED;
            take_event(c, e);
            tp_nats_free(&c->nats, e);
            if (is_closed && c->is_connected)
                give_up(c);
            e = i < 63 ? take(c, 0) : NULL;
            c->is_behind = e != NULL || i == 63;
        }
    }
}

static void carry(void *user)
{
    cluster *c = user;
    /* threads of the client library inherit it: a server that goes away is an error there */
    tp_sigmask_block_pipe();
    serve(c);
    for (unsigned i = 0; i < c->n_flights; i++)
        if (c->flights[i].slice)
            end_slice(c, &c->flights[i]);
    close_session(c);
    uv_mutex_lock(&c->lock);
    c->has_ended = true;
    uv_cond_broadcast(&c->ended);
    uv_mutex_unlock(&c->lock);
}

/* ---- the executor ---- */

static int open_executor(tp_executor **out, tp_host *host, tp_error *err)
{
    cluster *c = calloc(1, sizeof *c);
    if (!c)
        return tp_error_oom(err, "cluster");
    c->base.type = &tp_exec_cluster;
    c->base.host = host;
    c->engine = host->engine;
    c->stores = (tp_store_names){ id_of, store_of, NULL, c };
    if (tp_nats_open(&c->nats, err))
        goto no_nats;
    if (uv_mutex_init(&c->lock))
        goto no_lock;
    if (uv_cond_init(&c->ended))
        goto no_cond;
    *out = &c->base;
    return 0;
no_cond:
    uv_mutex_destroy(&c->lock);
no_lock:
    tp_error_oom(err, "cluster");
    tp_nats_close(&c->nats);
no_nats:
    free(c);
    return -1;
}

/* Most hosts never have a cluster: what is large is made when there is work for it. */
static bool make_room(cluster *c)
{
#define MAKE(array, n) ((array) || ((array) = calloc(n, sizeof *(array))))
    return MAKE(c->flights, FLIGHTS) && MAKE(c->idle, FLIGHTS) && MAKE(c->workers, WORKERS_MAX) &&
           MAKE(c->known, WORKERS_MAX) && MAKE(c->offering, WORKERS_MAX) &&
           MAKE(c->images, IMAGES) && MAKE(c->answered, ANSWERED_MAX) && MAKE(c->read, READ_MAX);
#undef MAKE
}

static void start(tp_executor *ex, unsigned n)
{
    cluster *c = of(ex);
    tp_error err = { 0 };
    (void)n;
    uv_mutex_lock(&c->lock);
    bool is_new = !c->is_running && !c->is_stopping;
    if (is_new && !make_room(c))
        tp_error_oom(&err, "cluster");
    else if (is_new && tp_thread_create(&c->thread, STACK_BYTES, carry, c))
        tp_error_set(&err, TP_ESYS, "cannot start a thread for the cluster");
    else
        c->is_running |= is_new;
    uv_mutex_unlock(&c->lock);
    if (err.code)
        tp_job_lose_all(c->engine, ex, &err);
    else
        tp_nats_wake(&c->nats);
}

uint64_t tp_cluster_site(tp_executor *ex, const char *words, tp_error *err)
{
    cluster *c = of(ex);
    unsigned k = 0;
    uv_mutex_lock(&c->lock);
    while (k < c->n_sites && strcmp(c->sites[k], words) != 0)
        k++;
    const bool is_new = k == c->n_sites;
    if (k == SITES_MAX)
        tp_error_set(err, TP_ELIMIT, "more than %d different values of option 'gpu' on a cluster",
                     SITES_MAX);
    else if (is_new && !(c->sites[k] = strdup(words)))
        tp_error_oom(err, "devices");
    else
        c->n_sites += is_new;
    const uint64_t site = k < c->n_sites ? (uint64_t)1 << k : 0;
    uv_mutex_unlock(&c->lock);
    return site;
}

static int stop(tp_executor *ex, uint64_t deadline_ns)
{
    cluster *c = of(ex);
    uv_mutex_lock(&c->lock);
    c->is_stopping = true;
    uv_mutex_unlock(&c->lock);
    tp_nats_wake(&c->nats);
    uv_mutex_lock(&c->lock);
    while (c->is_running && !c->has_ended) {
        uint64_t now = uv_hrtime();
        if (now >= deadline_ns ||
            uv_cond_timedwait(&c->ended, &c->lock,
                              deadline_ns == UINT64_MAX ? 1000000000ull : deadline_ns - now))
            if (deadline_ns != UINT64_MAX)
                break;
    }
    bool is_over = !c->is_running || c->has_ended;
    uv_mutex_unlock(&c->lock);
    if (is_over && c->is_running && !c->is_joined) {
        uv_thread_join(&c->thread);
        c->is_joined = true;
    }
    return is_over ? 0 : -1;
}

static void close_executor(tp_executor *ex)
{
    cluster *c = of(ex);
    for (unsigned i = 0; i < c->n_flights; i++) {
        tp_agent_close(&c->flights[i].agent);
        tp_buf_free(&c->flights[i].message);
        tp_blob_free(&c->flights[i].blob);
    }
    for (int i = 0; c->images && i < IMAGES; i++)
        free_image(&c->images[i]);
    tp_blob_free(&c->modules);
    for (question *q = c->questions, *next; q; q = next) {
        next = q->next;
        free_question(q);
    }
    for (int i = 0; c->answered && i < ANSWERED_MAX; i++)
        tp_buf_free(&c->answered[i].bytes);
    for (int i = 0; c->read && i < READ_MAX; i++)
        tp_blob_free(&c->read[i].blob);
    tp_parcel_refs_free(&c->funcs);
    for (unsigned i = 0; i < c->n_known; i++)
        forget_devices(c->known[i]);
    for (unsigned i = 0; i < c->n_sites; i++)
        free(c->sites[i]);
    free(c->flights);
    free(c->idle);
    for (unsigned i = 0; i < c->n_known; i++)
        tp_lanes_free(&c->known[i]->lanes);
    free(c->workers);
    free(c->known);
    free(c->offering);
    free(c->images);
    free(c->answered);
    free(c->read);
    uv_cond_destroy(&c->ended);
    uv_mutex_destroy(&c->lock);
    tp_nats_close(&c->nats);
    free(c);
}

const tp_executor_type tp_exec_cluster = {
    .name = "cluster",
    .summary = "workers on other machines",
    .capabilities = TP_CAN_KILL | TP_ISOLATED | TP_RUNS_LUA | TP_BOUNDS_MEMORY | TP_STREAMS |
                    TP_FAR,
    .slice_ns = SLICE_NS,
    .site_min = SITE_MIN,
    .open = open_executor,
    .start = start,
    .stop = stop,
    .close = close_executor,
};
