/* frame.h: what a host and a worker process write for each other in shared memory: requests with
 * work one way, records with results the other.
 *
 * Two arenas make a link. The host writes `in`: a tp_wire_in, then one request, which is some items
 * of one job with everything that is needed to run them. The worker writes `out`: a tp_wire_out,
 * then records, each with the results of some items, published one by one, so that what is
 * published counts even if the worker dies. Offsets are from the beginning of the arena, and
 * multiples of 8.
 *
 * A request can also be one item that waits beside others (tp_terms.concurrent): it has a place, a
 * number from 1 that the host chooses, and the worker is done with the request when the item waits
 * or is over. The host then lets it go on with all such items (TP_WIRE_GO_ON), until it has news or
 * the host wants the turn (`poked`); records say by their place whose results they have.
 *
 * The worker trusts the host. The host trusts nothing in the worker's memory, since users' code may
 * write anywhere there: it copies before it checks, and a record that is wrong in any respect is
 * ignored, with all after it. */
#ifndef TP_FRAME_H
#define TP_FRAME_H

#include "codec/block.h"
#include "engine/inside.h"
#include "engine/work.h"
#include "wire/give.h"
#include "wire/held.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* A number that tells how a process lays out what both read. It is compared first: a worker of
 * another build is not used. */
#define TP_WIRE_LAYOUT (7u << 24 | sizeof(tp_work) << 12 | sizeof(tp_scalar) << 6 | sizeof(void *))

typedef enum tp_wire_state {
    TP_WIRE_STARTING, /* it has not said anything yet */
    TP_WIRE_READY,    /* waits for the first request */
    TP_WIRE_ASKS,     /* it asks the host for something: `asked` */
    TP_WIRE_FULL, /* there is no room for more records: the host must take those that there are */
    /* what the host has asked for is done; or, with items at places: the worker gives the turn
     * back */
    TP_WIRE_DONE,
    TP_WIRE_FAILED    /* it could not start: `message` says why */
} tp_wire_state;

/* What the host's turn means, unless the worker has asked for something or was full. */
typedef enum tp_wire_wish {
    TP_WIRE_REQUEST,
    TP_WIRE_GO_ON, /* to let items that wait beside each other go on */
    TP_WIRE_STOP,  /* to end the item at the place `stopped` where it waits */
    TP_WIRE_LEAVE  /* to do what must be done before it ends */
} tp_wire_wish;

/* What a worker can ask its host for. It waits until the host has done it. */
typedef enum tp_wire_asked {
    TP_WIRE_RELEASE_OWN, /* to release the item's permit, while it waits for others */
    TP_WIRE_TAKE_OWN,    /* to take a permit for it again */
    /* for the item at the place `asked_of`: see tp_slice_give_way (`flags`: 1 is_lent, 2 endless),
     * tp_slice_come_back, tp_slice_note_step (`number`: the step) and
     * tp_slice_note_blocking */
    TP_WIRE_GIVE_WAY,
    TP_WIRE_COME_BACK,
    TP_WIRE_NOTE_STEP,
    TP_WIRE_NOTE_BLOCKING,
    TP_WIRE_IS_STUCK, /* see tp_engine_is_stuck */
    TP_WIRE_TRY_TAKE, /* TAKE, if that is possible without a wait */
    /* to take a permit of the function `asked_of`, whose items it runs itself; it has one such
     * permit at most */
    TP_WIRE_TAKE,
    TP_WIRE_RELEASE,     /* to release that permit */
    TP_WIRE_PERFORM      /* to do something to a store, see wire/ask.h */
} tp_wire_asked;

/* The beginning of `in`. */
typedef struct tp_wire_in {
    /* counts the host's turns: a request, or that the worker may go on (release; the worker
     * acquires) */
    _Atomic uint32_t turn;
    uint32_t layout;
    int32_t host_pid;
    uint32_t workers; /* of the host, at most */
    /* Relaxed, since `turn` makes them visible. wish: a tp_wire_wish; stopped: a place; answer: to
     * what was asked, not 0 for yes */
    _Atomic uint32_t wish, stopped, answer;
    /* not 0: the host wants the turn; sequentially consistent, with worker_sleeps */
    _Atomic uint32_t poked;
    /* in builds with assertions, not 0: the worker kills itself after so many steps (child.c) */
    uint32_t dies_in;
    char modules[100], place[100]; /* those of tp_host */
    uint64_t data_limit; /* RLIMIT_DATA where a function has no limit; 0: as it is */
    uint32_t is_sampled; /* the host wants samples of what is run: frames TP_WIRE_SAMPLES */
    /* Relaxed, as above: offsets between which the worker writes its next records, see
     * tp_wire_room. It begins anew at records_from with each request, and after TP_WIRE_FULL. After
     * a second TP_WIRE_FULL for the same record there is no end (records_until 0) */
    _Atomic uint64_t records_from, records_until, held;
} tp_wire_in;

/* The beginning of `out`. Atomics are relaxed unless stated otherwise. */
typedef struct tp_wire_out {
    _Atomic uint32_t turn;  /* counts the worker's turns (release; the host acquires) */
    _Atomic uint32_t state; /* tp_wire_state: what the last turn means */
    /* whether that side sleeps, so that a byte must wake it; sequentially consistent */
    _Atomic uint32_t worker_sleeps, host_sleeps;
    _Atomic uint32_t begun;   /* the number of the host's turn whose request was begun */
    /* not 0: there was no memory even for a failure: 1 + the item's place */
    _Atomic uint32_t starved;
    /* 1 + the item, counted from the request's first, that was last refused memory; 0: none. While
     * items wait beside each other: 1 + its place */
    _Atomic uint32_t refused;
    _Atomic int32_t shown; /* the place whose item runs; 0: none of these */
    _Atomic uint32_t will_leave; /* not 0: it must do something before it ends */
    /* tp_wire_asked; the id of the function, or a place; see tp_wire_asked */
    _Atomic uint32_t asked, asked_of, flags;
    _Atomic uint64_t number;
    _Atomic uint64_t ran_ns;  /* how long the items of the last request ran */
    _Atomic uint64_t printed; /* counts writes to the socket */
    _Atomic uint64_t used;    /* records end here (release): what lies before it is published */
    /* where the record of columns begins that is being filled in, at `used`; 0: none */
    _Atomic uint64_t open;
    /* the ids of things that the worker has returned. The host clears them while the worker
     * rests */
    tp_wire_ids returned;
    uint32_t layout;
    char version[32], message[500];
    /* the work that runs in the worker; the host only looks at its `ctl` */
    _Alignas(64) tp_work work;
    tp_inside inside; /* the maps inside of its items */
} tp_wire_out;

/* what ctl[0] of the worker's work is before it has opened a request's */
enum { TP_WIRE_NO_ITEM = -1 };

/* exit codes of a worker process: it is out of memory; an item has ended its thread */
enum { TP_CHILD_NO_MEMORY = 124, TP_CHILD_NO_THREAD = 125 };

enum {
    TP_WIRE_IN_BEGIN = (sizeof(tp_wire_in) + 63) & ~63, /* where the request begins */
    TP_WIRE_OUT_BEGIN = (sizeof(tp_wire_out) + 63) & ~63, /* records begin there or behind it */
    /* in pages; both sides map the beginning of `out` a second time, so that it keeps its address
     * when `out` grows */
    TP_WIRE_CONTROL = (TP_WIRE_OUT_BEGIN + 4095) & ~4095,
    TP_WIRE_SIZE = 256 << 10,  /* bytes of a new arena */
    TP_WIRE_KEPT = 8 << 20,    /* bytes of its memory that an arena keeps after it was larger */
    /* so many bytes of an arena are written before its beginning is written again, see
     * tp_wire_next; with less or more W1 of bench/processes.lua takes longer */
    TP_WIRE_LAP = 960 << 10
};

/* Where in an arena, from `begin` on, the next items or records go when the last ones were written
 * from .. until (any numbers). What two processors write and read in turns has to come out of the
 * other one's cache line by line, which takes longer than many functions do. So each long piece
 * goes behind the last one, and when the memory is used again, it lies in the cache that both
 * share. */
uint64_t tp_wire_next(uint64_t begin, uint64_t from, uint64_t until);

/* ---- requests ---- */

typedef struct tp_wire_request {
    uint64_t size;   /* where the request ends */
    uint32_t attempt, worker;
    uint32_t place, concurrent; /* of an item that waits beside others; place 0: none */
    uint32_t discards, tags_lines, has_leases, is_limited;
    uint32_t told; /* what the host wants to know of what happens: a tp_told (wire/events.h) */
    /* leases, has_leases, is_limited: as in tp_terms. Devices have the same numbers in all
     * processes of a machine */
    uint64_t leases;
    uint64_t name_at, executor_at; /* texts: tp_terms.name and executor */
    tp_key draws;
    uint64_t memory; /* tp_terms.memory */
    uint32_t depth, returns, batch, splits, streams;
    uint8_t returned[TP_COLUMNS_MAX];
    /* 1 + the id of the array in which results of that column are stored; 0: they come as
     * records */
    uint32_t result[TP_COLUMNS_MAX];
    /* The function. */
    /* the index among the images that the worker keeps; image_at is not 0 when the image comes with
     * the request */
    uint32_t image;
    uint64_t image_at, image_bytes, image_refs_at, image_nrefs;
    /* Things that are given with this request (wire/give.h): tp_wire_refs. */
    uint64_t given_at, given;
    /* The items. */
    uint64_t first;
    /* is_foreign: the columns are users' memory, in which any bits may be */
    uint32_t kind, n, columns, is_foreign;
    uint8_t type[TP_COLUMNS_MAX];
    /* 1 + the id of the array in which a column lies, at the offset column_at; 0: it lies here */
    uint32_t lent[TP_COLUMNS_MAX];
    uint64_t column_at[TP_COLUMNS_MAX], text_at, text, ends_at, bytes_at, bytes, refs_at, nrefs;
} tp_wire_request;

/* Host: writes a request for these items, or for one at a place, without publishing it. *in_place:
 * results are stored in the job's own arrays. -1 with TP_ECODEC when something in it cannot travel
 * to a process, TP_EMEMORY, or TP_ELIMIT when the worker was given too much and must be replaced
 * first. */
int tp_wire_put_request(tp_region *in, tp_wire_given *given, const tp_work *w, uint32_t count,
                        const tp_worker *worker, uint32_t place, bool *in_place, tp_error *err);

/* How many of the next `count` items have together at most so many bytes in long strings, which are
 * pinned and copied into the request. */
uint32_t tp_wire_fitting(const tp_work *w, uint32_t count, uint64_t most);

/* The request in the arena at `base`. */
static inline const tp_wire_request *tp_wire_get_request(const char *base)
{
    return (const tp_wire_request *)(const void *)(base + TP_WIRE_IN_BEGIN);
}

/* ---- records ---- */

typedef struct tp_wire_record {
    uint64_t size;     /* with this head, a multiple of 8 */
    uint32_t kind;     /* tp_block_kind */
    uint32_t at, n; /* its items: the first one, counted from the request's first, and how many */
    uint32_t capacity, columns, may_retry;
    uint32_t is_crash; /* tp_block.is_crash, in results of a cluster */
    uint32_t place;    /* whose results these are: of a request's item at a place; 0: of others */
    uint32_t in_place; /* COLUMNS: the record has none, they were stored where the request says */
    uint8_t type[TP_COLUMNS_MAX];
    tp_text text;      /* COLUMNS of scalars; `bytes` is only meaningful in the worker */
    uint64_t bytes;    /* VALUES (always one item) and FAILURE: the message's length */
    uint64_t nrefs;    /* how many references the message has; their ids follow it, u32 each */
} tp_wire_record;

/* Bytes of a record of columns. */
uint64_t tp_wire_columns_size(uint32_t capacity, uint32_t columns, const uint8_t *types,
                              uint32_t text);

/* The offset of column c in the record; for c == columns that of the text. */
uint64_t tp_wire_column_at(const tp_wire_record *r, uint32_t c);

/* What the host expects in the records of a request. */
typedef struct tp_wire_reader {
    const char *base;   /* the beginning of `out` */
    uint64_t size;      /* how much of it is mapped */
    uint64_t from;      /* what lies before it was read */
    /* items of the record at `from` that were read while it was still being filled in */
    uint32_t ahead;
    uint32_t first;     /* the request's first item, as an offset in its block */
    uint32_t count;     /* items of the request */
    uint32_t at; /* index of the next item that needs a result, counted from the request's first */
    bool in_place;      /* the request said where results are to be written */
    bool may_reduce;    /* whole groups may come as one number each (TP_BLOCK_PARTIALS) */
    const tp_wire_given *given;
    tp_wire_held *held; /* where long strings can stay; NULL: all of them are copied */
    /* a block of VALUES that more can be added to; the sink gets it when it is flushed */
    tp_block *open;
} tp_wire_reader;

/* Finds the run of records from `from` on that have the same place: sets *place and where they end.
 * False with err set when there is no valid record before `until`. */
bool tp_wire_find_place(const tp_wire_reader *r, uint64_t from, uint64_t until, uint32_t *place,
                        uint64_t *end, tp_error *err);

/* Reads the records from `from` to `until` and gives their results to the work's sink. False with
 * err set when something is wrong in them or there is no memory; the results before that were
 * given. */
bool tp_wire_read(tp_wire_reader *r, tp_work *to, uint64_t from, uint64_t until, tp_error *err);

/* The same for the open record of columns at `from`, of which the items before `running` are done.
 * The rest can be read later, when there is more in it or the record is complete. */
bool tp_wire_read_open(tp_wire_reader *r, tp_work *to, uint64_t from, uint32_t running,
                       tp_error *err);

#endif
