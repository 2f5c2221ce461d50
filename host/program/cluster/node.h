/* node.h: what the files of a cluster's worker share. Private to this folder and cluster_worker.c,
 * which has the overview.
 *
 * From the bottom: node.c (signs of life, events, the list of chunks), far_stores.c (Dicts, Queues
 * and permits that the coordinator keeps), code.c (functions and modules), telling.c (what happens
 * in chunks, for coordinators that want to see it), replies.c (answers to the coordinator),
 * sessions.c (coordinators and the hosts that run their work), chunks.c (work that waits, begins
 * and gives results), intake.c (what comes in). Each calls only what stands before it.
 *
 * One thread, the main one, makes all calls and touches all fields, but where something says
 * otherwise. */
#ifndef TP_NODE_H
#define TP_NODE_H

#include "cluster/blobs.h"
#include "cluster/groups.h"
#include "cluster/happened.h"
#include "cluster/nats.h"
#include "cluster/parcel.h"
#include "cluster/protocol.h"
#include "cluster/sign.h"
#include "opencl/slices.h"
#include "program/cluster/far_stores.h"
#include "program/cluster_devices.h"
#include "program/options.h"
#include "runtime/runtime.h"

enum {
    PULLS = 64,
    EARLY_MS = 50, /* an item that runs for longer does not keep back what it need not */
    LOOK_MS = 200,   /* the longest wait for events, in ms: periodic work is checked so often */
    PROGRESS_MS = TP_ACK_WAIT_S * 1000 / 4, /* how often a chunk is said to be under way */
    UNABLE_MS = 10 * 1000, /* a worker that cannot run its work takes none for so long */
    AGAIN_MS = 2000, /* a result that the server has not acknowledged is sent again after this */
    /* while chunks take less than this, more are fetched than there are slots: at least one more
     * for each slot */
    SHORT_NS = 50 * 1000 * 1000,
    IMAGES = 64,
    MODULES = 16, /* bundles of modules that are kept for the next session with the same ones */
    CANCELLED = 1024 /* how many cancelled chunks are remembered, in case they arrive later */
};

/* By code.c, but `users`, which counts the chunks that have it, and `kernel`, which chunks.c
 * makes. */
typedef struct image {
    tp_image *of; /* NULL: the place is free */
    uint8_t digest[TP_DIGEST_BYTES];
    uint64_t used;
    unsigned users; /* chunks */
    tp_parcel_refs refs;
    tp_kernel *kernel; /* of a plan: what it has become here, once it was wanted */
} image;

/* A coordinator's process. By sessions.c, but where a field says otherwise. */
typedef struct session {
    struct session *next;
    tp_waiter waiter; /* wakes the thread when a job of the host has news */
    struct node *node;
    uint8_t id[TP_ID_BYTES], nonce[TP_ID_BYTES];
    char hex[TP_ID_TEXT];
    bool is_alive; /* it has answered once. By intake.c */
    /* it has a journal: its results will be read even when its coordinator is dead. By chunks.c */
    bool is_kept;
    uint64_t busy_ms; /* when it has last had work. By chunks.c */
    unsigned tries; /* questions without an answer; 0: none is open. intake.c takes the answer */
    uint64_t ask_ms; /* when it is asked next */
    tp_host *host; /* NULL until its first chunk runs */
    tp_known known;
    far_stores stores;
    /* ---- by code.c ---- */
    image images[IMAGES];
    uint64_t used;
    /* Its processes find modules in the file behind this descriptor, which is another one when
     * there are more of them. -1: there is no host yet */
    int modules;
    uint64_t modules_size;
    /* ---- by telling.c: the number of the job that each worker of its host has taken last; how
     * many events were lost in its ring; so many bytes may be told yet, since then ---- */
    uint64_t *takers; /* owned */
    uint32_t takers_room, n_takers;
    uint64_t n_lost, told_ns;
    size_t told_left;
    /* the running chunks by the numbers of their jobs, while their events are sorted */
    struct chunk **running; /* owned */
    uint32_t running_room, n_running;
    /* since when its devices run nothing that is wanted; 0: they do not. By cluster_worker.c */
    uint64_t stuck_ms;
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
    uint64_t run; /* it is this of all that were taken */
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
    /* RUNNING: results so far, of which so many bytes were sent early; ANSWERED: a large result
     * that could not be stored yet (is_unsent) */
    tp_buf records;
    size_t early;
    bool may_give_back; /* what it has not begun, when an item runs for long */
    bool is_unsent;
    tp_buf ticket; /* see parcel.h */
    /* of an item that gives values while it runs (tp_part): those that are on their way, or will
     * be, as records; the first one's number; how many may be given, as its coordinator has said */
    bool streams, is_on_way, has_told_full;
    tp_buf values;
    uint32_t n_values;
    uint64_t first_value, allowed, told_ms;
    /* ---- by telling.c: events that were not told yet, of which there are so many, and some that
     * will not be; how many came before; when some were last told. told, told_bytes: of its
     * task ---- */
    tp_buf happened;
    uint32_t told, told_bytes, n_happened;
    uint64_t n_missing, happened_before, happened_ns;
    uint32_t at, count;
    uint64_t queued_ms, progress_ms, again_ms;
} chunk;

typedef struct pull {
    unsigned left; /* how many messages the server may still send for it */
    uint64_t until_ms;
} pull;

typedef struct node {
    /* Set by cluster_worker.c, read-only afterwards. */
    const tp_options *options;
    tp_nats nats;
    tp_signer signer;
    tp_build build;
    uint8_t id_bytes[TP_ID_BYTES];
    char id[TP_ID_TEXT], inbox[80], host_name[64];
    unsigned slots;
    uint64_t grace_ms, idle_ms; /* --grace, --idle-exit; idle_ms 0: it never leaves by itself */
    long grace_s;
    char *token; /* for the process below */
    tp_own_devices *devices; /* this is a process that drives devices: those; NULL in others */

    session *sessions; /* by sessions.c */
    chunk *chunks;     /* in the order in which they came; intake.c adds them */
    kept_modules modules[MODULES]; /* by code.c */
    uint64_t modules_used;

    /* ---- by node.c; heartbeat_ms 0: it shows itself at once ---- */
    uint64_t heartbeat_ms, held_ms;
    uint64_t told_ms;      /* when its parent was told that it is busy */
    tp_nats_events later; /* events that came while a driver was waited for */

    /* ---- by chunks.c; compiles: the chunk that waits for a compiler, or NULL ---- */
    const chunk *compiles;
    pull pulls[PULLS];
    uint64_t pull_ms;
    double chunk_ns; /* how long a chunk took lately */
    uint64_t unable_ms; /* until then it takes nothing, since it could not run what it had */

    /* ---- by intake.c ---- */
    uint64_t beat_ms, beat_until_ms; /* how often it shows itself, and how long that holds */
    uint64_t runs; /* chunks that were taken */
    /* how many messages were dropped, since they were not valid work for this worker */
    uint64_t dropped;
    struct {
        session *session; /* NULL: the session is over */
        uint64_t chunk;
    } cancelled[CANCELLED];
    unsigned n_cancelled;
    bool is_lost, is_refused;
    unsigned losses; /* of the connection, since a result was last acknowledged */

    /* ---- by replies.c and intake.c: so many results may be sent again now, and when one last
     * was ---- */
    unsigned resends;
    uint64_t resent_ms;

    /* ---- by cluster_worker.c ---- */
    bool is_leaving;
    uint64_t leave_ms;
    uint64_t busy_ms; /* when it last had something to do */
    /* The process that drives this machine's devices: whether a coordinator wants it (intake.c
     * hears that), how often in a row it has died young, when it may be started (again) */
    tp_device_process device_process;
    bool wants_devices;
    unsigned deaths;
    uint64_t born_ms, reborn_ms;
} node;

static inline uint64_t tp_node_now_ms(void)
{
    return uv_hrtime() / 1000000;
}

/* Says something to whoever has started the worker. Any thread. */
void tp_node_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- signs of life ---- */

/* Publishes an acknowledgement ("+ACK", "-NAK", "+TERM", "+WPI") at that subject; "": to nobody. */
void tp_node_acknowledge_at(node *n, const char *ack, const char *how);
void tp_node_acknowledge(node *n, const chunk *k, const char *how);

/* Adds a line of TP_SUBJECT_R SESSION.held. */
void tp_node_add_name(const node *n, const chunk *k, tp_buf *text);

/* Sends such lines, and frees them. */
void tp_node_send_names(node *n, const session *s, tp_buf *text);

/* A tp_between: others see that this process is alive, and has what it has. `user` is the node. */
void tp_node_stay(void *user);

/* A tp_between, for what takes long and is no transfer: others hear of this process meanwhile, and
 * what comes from them is kept for later. `user` is the node. */
void tp_node_hear(void *user);

/* The next event, which is the caller's. NULL: none has come until then. */
tp_nats_event *tp_node_next_event(node *n, uint64_t deadline_ns);

/* ---- the list of chunks ---- */

/* The chunk with that number that is not over; NULL: there is none. */
chunk *tp_node_find_chunk(const node *n, const session *s, uint64_t number);

/* Takes the chunk off the list and frees it, its job too. */
void tp_node_forget(node *n, chunk *k);

/* The chunk runs no more: frees what only that needed. */
void tp_node_stop(chunk *k);

#endif
