/* parcel.h: what a coordinator and the workers of its cluster send each other, as bytes.
 *
 * Both are of the same build (tp_build), on machines with the same memory layout, so that structs
 * are sent as they lie in memory. Work is signed: a signature, a tp_sealed, and behind it the
 * payload whose hash is in there, or nothing when the payload is too large for a message and lies
 * in the stream of blobs. A worker looks at nothing else before both are verified. Results are not
 * signed: they are records as worker processes write them (wire/frame.h), and read as hostile.
 *
 * A payload of work is a tp_task, the function's name, definitions, the items, and the image if it
 * is small. Definitions are things that messages refer to (functions, classes, packed values,
 * stores). They are numbered, those of the work first, then those of the image; results refer to
 * these numbers. */
#ifndef TP_PARCEL_H
#define TP_PARCEL_H

#include "cluster/question.h"
#include "cluster/sign.h"
#include "engine/job.h"
#include "engine/work.h"
#include "wire/frame.h"

enum {
    TP_ID_BYTES = 16,  /* of a build and of a session */
    TP_ID_TEXT = 2 * TP_ID_BYTES + 1,
    TP_DIGEST_BYTES = 32,
    TP_INLINE_BYTES = 200 << 10, /* larger payloads of work go as blobs, */
    TP_RESULT_INLINE = 32 << 10, /* and larger results, which can be removed one by one there */
    /* the same of kernels, which go directly, and of their results when those do; both less than
     * the 1 MB that every server takes */
    TP_KERNEL_INLINE = 512 << 10,
    TP_DIRECT_BYTES = 32 << 10,  /* larger work always goes by way of a stream */
    TP_IMAGE_INLINE = 16 << 10,  /* larger images go as blobs, once */
    TP_BLOB_PIECE = 256 << 10,
    TP_PAYLOAD_MAX = 1 << 30,
    TP_IDENTITY_BYTES = 16
};

/* What this process is built of: `id` is a hash of its version, LuaJIT, our Lua modules and the
 * layout of structs; `text` says it for people. Only processes with the same id understand each
 * other. */
typedef struct tp_build {
    uint8_t id[TP_ID_BYTES];
    char hex[TP_ID_TEXT];
    char text[80];
} tp_build;

void tp_build_get(tp_build *build);

/* The head of a message of work; signed. */
typedef struct tp_sealed {
    char magic[8];
    uint8_t key[32]; /* the public one of who has signed it */
    uint8_t build[TP_ID_BYTES], session[TP_ID_BYTES];
    uint64_t chunk; /* its number in the session */
    uint32_t sending; /* how often it was sent so far, from 1 */
    uint32_t is_blob;
    uint64_t size; /* of the payload */
    uint8_t digest[TP_DIGEST_BYTES];
} tp_sealed;

#define TP_SEALED_MAGIC "TPWORK1"

/* What a live coordinator signs to show that it is one; `nonce` is the asker's. */
typedef struct tp_alive {
    char magic[8];
    uint8_t build[TP_ID_BYTES], session[TP_ID_BYTES], nonce[TP_ID_BYTES];
} tp_alive;

#define TP_ALIVE_MAGIC "TPLIVE1"

/* That, as it travels. */
typedef struct tp_signed_alive {
    uint8_t signature[TP_SIGNATURE_BYTES];
    tp_alive alive;
} tp_signed_alive;

/* Names items of a map with a journal by their rows in its file. The items' identities follow,
 * TP_IDENTITY_BYTES each. It goes to the worker and comes back with the result, so that another
 * process can read that when the coordinator is dead (leftover.h). */
typedef struct tp_ticket {
    int64_t map, version;
    uint64_t first; /* index of the first item in its map, from 0 */
    uint32_t count, discards, returns, pad;
    uint8_t returned[TP_COLUMNS_MAX];
} tp_ticket;

/* The head of a result. Behind the result follow its ticket, and the names of chunks that the
 * worker begins now, in lines as in TP_SUBJECT_R SESSION.held (protocol.h). */
typedef struct tp_answer {
    uint32_t kind, where;
    uint64_t size, ticket, names; /* ticket, names: the lengths of these */
    uint8_t digest[TP_DIGEST_BYTES]; /* of a result that is elsewhere */
    uint64_t chunk; /* what it is the answer to */
    uint32_t sending;
    uint32_t offers; /* so many chunks of this session the worker takes directly, in its inbox */
    uint8_t worker[TP_ID_BYTES];
    uint64_t run; /* of all that the worker has taken this is the so-manieth (see tp_early) */
    uint64_t ran_ns; /* how long it ran the chunk */
    uint64_t count;  /* items of the chunk that it has results of: those behind were given back */
    uint64_t happened; /* events of it, those that were not told, too (happened.h) */
} tp_answer;

/* Where the result of an answer is. */
typedef enum tp_answer_where {
    TP_ANSWER_HERE,  /* behind the head */
    TP_ANSWER_BLOB,  /* in the stream of blobs */
    TP_ANSWER_DIRECT /* there was no room: it was sent to the coordinator, in pieces */
} tp_answer_where;

/* The head of such a piece; its bytes follow. */
typedef struct tp_direct {
    uint64_t chunk, at;
    uint32_t sending, pad;
} tp_direct;

/* The head of a message with values that an item gives while it runs: `count` records, of the
 * values `from`, from + 1, ... (the first is 0), here or elsewhere (tp_answer_where). A worker has
 * one of these on its way for each item. The answer to it, and what is sent there later, is "TAKEN
 * ALLOWED": so many values were taken, and so many may be given in all; or "over": nobody wants
 * them. */
typedef struct tp_part {
    uint64_t chunk, from, size;
    uint32_t sending, count, where;
    uint32_t is_full; /* the item waits until it may give more */
    uint8_t digest[TP_DIGEST_BYTES]; /* of records that are elsewhere */
    uint8_t worker[TP_ID_BYTES];
    uint64_t run; /* as in tp_answer */
} tp_part;

/* The head of results of a chunk's first items, while one behind them runs for long. The records
 * follow that stand behind `from` bytes of earlier ones. They are not kept: the answer has all of
 * them again. The items from `end` on were not begun and will not be. What one run of a chunk has
 * given says nothing of another's records, also by the same worker: one that has forgotten a
 * sending may be given it again. */
typedef struct tp_early {
    uint64_t chunk, from;
    uint32_t sending, end;
    uint8_t worker[TP_ID_BYTES];
    uint64_t run; /* as in tp_answer */
} tp_early;

typedef enum tp_answer_kind {
    TP_ANSWER_DONE = 1, /* records of results */
    /* it was not run here, or not all of it: it must be sent again; the result is empty, or a text
     * that says why this worker cannot run anything now */
    TP_ANSWER_BACK,
    /* this worker runs nothing of this coordinator's; the result is a text that says why */
    TP_ANSWER_REFUSED
} tp_answer_kind;

/* The head of a payload. */
typedef struct tp_task {
    uint64_t base; /* the index of its first item */
    tp_key draws;
    uint64_t timeout_ns, memory, recycle;
    uint64_t allowed; /* values that its item may give at first */
    uint32_t attempt, discards, batch, splits, streams, tags_lines, returns;
    uint8_t returned[TP_COLUMNS_MAX];
    uint32_t count; /* items; */
    uint32_t columns; /* in so many columns of numbers; 0: as messages */
    uint8_t column_type[TP_COLUMNS_MAX];
    uint32_t func;  /* the number of the definition of the function that is called */
    uint8_t image[TP_DIGEST_BYTES];
    uint64_t image_size;
    uint8_t modules[TP_DIGEST_BYTES];
    uint64_t modules_size; /* of the script's modules (base/bundle.h), a blob; 0: there are none */
    uint32_t has_image; /* the image's bytes follow */
    uint32_t reduction; /* a tp_reduction: what is wanted of whole groups of results (groups.h) */
    uint32_t is_kernel; /* the image is a plan for devices (opencl/plan.h) */
    uint32_t is_alone; /* workers have died with it: nothing else may run beside it */
    /* what is to be told of what happens in it: a tp_told; of all that its worker has for this
     * session, in so many bytes in TP_HAPPENED_NS (happened.h) */
    uint32_t told, told_bytes;
} tp_task;

/* Things that messages refer to, in the order of their numbers; held. Zeroed: none. */
typedef struct tp_parcel_refs {
    tp_ref **refs;
    uint32_t n, room;
} tp_parcel_refs;

void tp_parcel_refs_free(tp_parcel_refs *refs);

/* Adds it, held. -1 with err set: there is no memory. */
int tp_parcel_refs_add(tp_parcel_refs *refs, tp_ref *r, tp_error *err);

/* ---- the coordinator ---- */

/* An image as bytes. -1 with err set when something in it cannot travel to another machine. *funcs
 * counts the functions that were numbered so far. */
int tp_parcel_put_image(const tp_image *image, tp_buf *out, tp_parcel_refs *refs, uint64_t *funcs,
                        tp_error *err);

/* A payload for up to task->count items of the work, from w->at on; fewer when they are many bytes:
 * task->count says how many. `func` is the function's; `image` the bytes of its image when they are
 * to follow, else NULL; `recorder` the job's, or NULL; *funcs as above. */
int tp_parcel_put_task(tp_task *task, const tp_work *w, tp_func *func,
                       const tp_recorder *recorder, const tp_buf *image, tp_buf *out,
                       tp_parcel_refs *refs, uint64_t *funcs, tp_error *err);

/* ---- a worker ---- */

/* Where definitions are looked up by the hash of their bytes, so that the same function stays the
 * same in all work of a session. Functions and classes that nothing here has any more are forgotten
 * when many others were used since. Zeroed: empty. */
typedef struct tp_known {
    struct tp_known_one *first; /* the one that was used last */
    uint32_t n, trim;           /* how many there are; with how many it is looked what to forget */
    const tp_store_names *stores; /* NULL: there are none */
} tp_known;

void tp_known_free(tp_known *known);

/* Reads the definitions and the message of an image. */
int tp_parcel_get_image(tp_image **image, tp_parcel_refs *refs, tp_known *known,
                        const uint8_t *bytes, size_t len, tp_error *err);

/* Reads a payload: `name` lies in its bytes, `items` is a new block; *image is where the image's
 * bytes begin when they follow, else NULL. The ticket is added to *ticket. Nothing is believed of
 * the lengths in it. */
int tp_parcel_get_task(tp_task *task, const char **name, tp_block **items, const uint8_t **image,
                       tp_buf *ticket, tp_parcel_refs *refs, tp_known *known,
                       const uint8_t *bytes, size_t len, tp_error *err);

/* Adds results as records (wire/frame.h): n items of the block from `from` on; of groups
 * (TP_BLOCK_PARTIALS) always all. `at` is the offset of the first of them; `refs` are the work's
 * definitions and `more` its image's. -1 with err set when they refer to anything else, or there is
 * no memory; out is as it was. */
int tp_parcel_put_result(tp_buf *out, const tp_block *b, uint32_t from, uint32_t n, uint32_t at,
                         const tp_parcel_refs *refs, const tp_parcel_refs *more, tp_error *err);

#endif
