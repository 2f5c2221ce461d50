/* store.h: state that the script and all workers of a host share: dictionaries and queues of
 * values.
 *
 * A value is a number, or a message of the codec, so that each reader gets a copy of its own. Each
 * store has a lock of its own, which is held for a few moves of memory, never with another lock and
 * never while Lua runs. Stores count their owners (base/ref.h) and travel by reference.
 *
 * A store is kept in one process. Others have stand-ins for it, which know its keeper (for a worker
 * process: its host) and its number there. So what is done to a store is data, a tp_store_op, which
 * tp_store_perform carries out here or has the keeper carry out. */
#ifndef TP_STORE_H
#define TP_STORE_H

#include "engine/func.h"
#include "engine/job.h"

/* A value of a store: a number, or a message. Owned by whoever has the struct. */
typedef struct tp_stored {
    tp_image *packed; /* NULL: the number */
    double number;
    bool is_foreign; /* the message is from another process, which is not trusted */
} tp_stored;

extern const tp_ref_type tp_dict_type, tp_store_queue_type;

/* Is it a Dict or a Queue? */
static inline bool tp_store_is(const tp_ref *r)
{
    return r->type == &tp_dict_type || r->type == &tp_store_queue_type;
}

/* A dictionary or a queue, or a stand-in for one: `ref.type` says which. All functions here but
 * tp_store_await: any thread. */
typedef struct tp_store tp_store;

enum { TP_VERSION_ANY = UINT64_MAX };

typedef enum tp_store_verb {
    /* Of dictionaries: */
    TP_STORE_GET, /* gives `value` and `version`, which is 0 where the key has no value */
    TP_STORE_PUT, /* sets `value`, if the key's version is `version`: `is_done` */
    TP_STORE_ADD, /* adds `number` to that of the key, 0 where there is none; `number` is the sum */
    TP_STORE_POP, /* takes `value` out, if the key's version is `version`: `is_done` */
    TP_STORE_LIST, /* gives all `entries` as they are now */
    /* Of queues: */
    TP_STORE_PUSH, /* adds `value`: `moved` */
    TP_STORE_TAKE, /* takes the first `value`: `moved` */
    TP_STORE_CLOSE, /* nothing more can be pushed; what is there can still be taken */
    TP_STORE_IS_CLOSED, /* `is_done` */
    /* Of both: */
    TP_STORE_COUNT, /* `number` */
    /* Of none: makes one, `made`; a queue for at most `number` values (0: any number) */
    TP_STORE_NEW_DICT,
    TP_STORE_NEW_QUEUE,
    TP_STORE_VERBS
} tp_store_verb;

typedef enum tp_moved {
    TP_MOVED,
    TP_NOT_YET, /* there is no room, or no value */
    TP_CLOSED,
    /* there never will be: everything that could change that waits, too (tp_engine_is_stuck) */
    TP_STUCK,
    TP_UNWANTED /* the item that waits has been cancelled */
} tp_moved;

/* An entry of a list. */
typedef struct tp_entry {
    char *key;
    size_t len;
    tp_stored value;
} tp_entry;

/* What is to be done to a store, and what came of it. All that it points to is owned, except
 * `key`. */
typedef struct tp_store_op {
    tp_store_verb verb;
    /* A key is a letter and what follows it: 's' and a string, 'n' and a double that is neither nan
     * nor -0, 'b' and a byte that is 0 or 1. */
    const char *key;
    size_t len;
    /* Of a key's value: differs after each change and is never 0. TP_VERSION_ANY: in any case. */
    uint64_t version;
    tp_stored value; /* of PUT and PUSH: taken, so that it is empty then, if that was done */
    double number;
    uint64_t wait_ns; /* how long PUSH and TAKE may wait, where the store is kept elsewhere */
    bool is_done;
    tp_moved moved;
    tp_entry *entries;
    size_t n;
    tp_store *made;
} tp_store_op;

/* Frees what the operation owns. */
void tp_store_op_clear(tp_store_op *op);

/* Are these bytes a key as described at tp_store_op.key? */
bool tp_store_is_key(const char *key, size_t len);

/* Whoever keeps the stores that stand-ins are for. It outlives them. */
typedef struct tp_store_keeper {
    /* Has the operation carried out on the store with that id (none for those of no store). May
     * wait. -1 with err set. The thread of the item that asks. */
    int (*perform)(void *user, uint32_t id, tp_store_op *op, tp_error *err);
    /* Nobody here holds the stand-in any more. */
    void (*drop)(void *user, uint32_t id);
    /* Is everything stuck where it is kept? See tp_engine_is_stuck. */
    bool (*is_stuck)(void *user);
    void *user;
    unsigned encoding; /* flags for tp_encode when values are encoded for it */
} tp_store_keeper;

/* A stand-in with one owner; NULL when out of memory. */
tp_store *tp_store_new_far(const tp_ref_type *type, const tp_store_keeper *keeper, uint32_t id);

/* The keeper, or NULL for a store that is kept here; the id of a stand-in. */
const tp_store_keeper *tp_store_keeper_of(const tp_store *s);
uint32_t tp_store_id(const tp_store *s);

/* Carries out the operation; `s` NULL for those of no store, which `keeper` does (NULL: it is kept
 * here). What is kept here does not wait: TP_NOT_YET says that it would have to. -1 with err set
 * when out of memory, or for ADD when the value is no number (TP_EUSAGE). */
int tp_store_perform(tp_store *s, const tp_store_keeper *keeper, tp_store_op *op, tp_error *err);

/* Puts a value that was taken out back at the front, even where the queue is full or closed; it is
 * lost when there is no memory. The queue must be kept here. */
void tp_store_put_back(tp_store *queue, tp_stored *value);

/* Inside the agent's item (or outside of any): waits until there may be room (`for_room`) or a
 * value, or the queue is closed (TP_MOVED), until the deadline (TP_NOT_YET), until everything is
 * stuck, or until is_unwanted(user), which is asked every `look_ns`. A queue that is kept here.
 * Another worker may run in the agent's place. The item's permit is released and not taken again:
 * the caller does that. */
tp_moved tp_store_await(tp_store *queue, bool for_room, tp_agent *agent, uint64_t deadline,
                        uint64_t look_ns, bool (*is_unwanted)(void *user), void *user);

#endif
