/* store.h: state that the script and all workers of a host share: dictionaries and queues of values.
 *
 * A value is a number, or a message that the codec has made, so that each reader has a copy of its own. A store has a
 * lock of its own, held for a few moves of memory and never with another; no Lua runs under it. Counted (base/ref.h):
 * it travels by reference. */
#ifndef TP_STORE_H
#define TP_STORE_H

#include "engine/func.h"
#include "engine/job.h"

/* A value; `packed` is owned. */
typedef struct tp_stored {
    tp_image *packed; /* NULL: the number */
    double number;
} tp_stored;

extern const tp_ref_type tp_dict_type, tp_store_queue_type;

typedef struct tp_dict tp_dict;
typedef struct tp_store_queue tp_store_queue;

/* ---- dictionaries: any thread ---- */

enum { TP_VERSION_ANY = UINT64_MAX };

int tp_dict_open(tp_dict **out, tp_error *err);

/* The value of a key and its version, which is another one after each change and never 0; 0 when there is none. *value is the caller's. */
uint64_t tp_dict_get(tp_dict *d, const char *key, size_t len, tp_stored *value);

/* Takes the value, if the key's version is `expected` (0: there is none; TP_VERSION_ANY): *is_put says so; else it stays the caller's. -1 out of memory. */
int tp_dict_put(tp_dict *d, const char *key, size_t len, const tp_stored *value, uint64_t expected, bool *is_put, tp_error *err);

/* Adds to a number, 0 when there is none; *sum is what it is then. -1 when there is no memory, or something else than a number (TP_EUSAGE). */
int tp_dict_add(tp_dict *d, const char *key, size_t len, double by, double *sum, tp_error *err);

/* Takes the key out: false when it is not there. Only at that version, which may be TP_VERSION_ANY. */
bool tp_dict_pop(tp_dict *d, const char *key, size_t len, uint64_t expected, tp_stored *value);

size_t tp_dict_count(tp_dict *d);

/* An entry of a snapshot: the key is a copy. */
typedef struct tp_entry {
    char *key;
    size_t len;
    tp_stored value;
} tp_entry;

/* All entries as they are now, *n of them, the caller's to free; NULL when there are none, or out of memory (err). */
tp_entry *tp_dict_snapshot(tp_dict *d, size_t *n, tp_error *err);
void tp_entries_free(tp_entry *entries, size_t n);

/* ---- queues: any thread ---- */

typedef enum tp_moved { TP_MOVED, TP_NOT_YET, TP_CLOSED, TP_NO_ROOM /* out of memory */ } tp_moved;

/* `capacity`: how many values wait at most; 0: any number. */
int tp_store_queue_open(tp_store_queue **out, uint64_t capacity, tp_error *err);

/* At once: TP_NOT_YET where that would have to wait. `put` takes the value only when it says TP_MOVED. */
tp_moved tp_store_queue_put(tp_store_queue *q, const tp_stored *value);
tp_moved tp_store_queue_take(tp_store_queue *q, tp_stored *value);

/* Nothing can be put in any more; what is there can be taken. */
void tp_store_queue_close(tp_store_queue *q);
bool tp_store_queue_is_closed(tp_store_queue *q);
size_t tp_store_queue_count(tp_store_queue *q);

/* Would putting (`for_room`), or taking, not have to wait now? */
bool tp_store_queue_is_ready(tp_store_queue *q, bool for_room);

/* Waits until there may be room (`for_room`), or a value, or the queue is closed, for so long at most. */
void tp_store_queue_wait(tp_store_queue *q, bool for_room, uint64_t ns);

#endif
