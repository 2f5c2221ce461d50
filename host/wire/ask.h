/* ask.h: what a worker process asks of the stores that its host keeps (engine/store.h), and the
 * answer: both at the beginning of a third piece of shared memory, one after the other.
 *
 * The question is the operation, and the host checks it as everything that comes from a worker
 * (frame.h): it copies before it checks. The worker trusts the answer, except for values that
 * another worker has put in: those are marked as foreign. */
#ifndef TP_ASK_H
#define TP_ASK_H

#include "engine/store.h"
#include "wire/give.h"

enum { TP_WIRE_ASK_SIZE = 4096 /* bytes of new memory */ };

typedef struct tp_wire_value {
    double number;
    uint32_t is_packed, is_foreign; /* is_packed: it is a message */
    uint64_t bytes_at, bytes, refs_at, nrefs; /* references are ids, u32 each */
} tp_wire_value;

typedef struct tp_wire_ask {
    uint64_t size; /* where the question ends */
    uint32_t verb, store; /* tp_store_verb; the id of the store */
    uint64_t version;
    double number;
    uint64_t wait_ns;
    uint64_t key_at, len;
    tp_wire_value value;
} tp_wire_ask;

typedef struct tp_wire_entry {
    uint64_t key_at, len;
    tp_wire_value value;
} tp_wire_entry;

typedef struct tp_wire_answer {
    uint64_t size; /* where the answer ends */
    /* 0, or a tp_code: then only message_at is set, the offset of a NUL-terminated text that says
     * why */
    int32_t code;
    uint32_t is_done, moved;
    uint32_t made; /* 1 + the id of the store that was made */
    uint64_t version;
    double number;
    tp_wire_value value;
    uint64_t entries_at, entries; /* tp_wire_entry */
    uint64_t given_at, given;     /* tp_wire_ref */
    uint64_t message_at;
} tp_wire_answer;

/* The worker: writes the question. `known` are the things that it has, by id; `s` NULL for
 * operations of no store. -1 with err set when the value refers to something else (TP_ECODEC), or
 * out of memory. */
int tp_wire_put_ask(tp_region *r, uint32_t store, const tp_store_op *op, tp_ref *const *known,
                    uint32_t n, tp_error *err);

/* The id of a thing: its index among the n `known`; n: it is not among them. */
uint32_t tp_wire_id_of(const tp_ref *r, tp_ref *const *known, uint32_t n);

/* The host: reads the question. What `op` gets is its own; its key is freed with `*key`. *store is
 * borrowed; NULL for operations of no store. False with err set when anything is wrong in it, or
 * out of memory (TP_EMEMORY). */
bool tp_wire_get_ask(tp_region *r, const tp_wire_given *given, tp_store_op *op, tp_store **store,
                     char **key, tp_error *err);

/* The host: writes the answer, which is `why` when its code is not 0. `returned` as in
 * tp_wire_writer. -1 with err set when that is not possible, see tp_wire_give; nothing was given
 * then. */
int tp_wire_put_answer(tp_region *r, tp_wire_given *given, _Atomic uint64_t *returned,
                       const tp_store_op *op, const tp_error *why, tp_error *err);

/* The worker: maps all of the answer and returns it. NULL when out of memory. */
const tp_wire_answer *tp_wire_see_answer(tp_region *r);

/* The worker: copies the answer, after it has taken what is given with it. -1 with err set: the
 * operation has failed, or out of memory. */
int tp_wire_get_answer(const tp_region *r, tp_ref *const *known, tp_store_op *op, tp_error *err);

/* The worker: copies bytes into a buffer, with references to what they refer to. */
int tp_wire_copy_message(const tp_region *r, tp_ref *const *known, tp_buf *to, uint64_t at,
                         uint64_t len, uint64_t refs_at, uint64_t nrefs);

#endif
