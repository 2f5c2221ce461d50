/* store.h: state that the script and all workers of a host share: dictionaries and queues of
 * values.
 *
 * A value is a number, or a message of the codec, so that each reader gets a copy of its own. Each
 * store has a lock of its own, which is held for a few moves of memory, never with another lock and
 * never while Lua runs. Stores count their owners (base/ref.h) and travel by reference. */
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

/* Gets the value of a key, which is the caller's then, and returns its version: it differs after
 * each change and is never 0. 0: the key has no value. */
uint64_t tp_dict_get(tp_dict *d, const char *key, size_t len, tp_stored *value);

/* Sets the value of a key, if its version is `expected` (0: the key has none; TP_VERSION_ANY: in
 * any case). *is_put says whether it did; only then the value belongs to the dictionary. -1 when
 * out of memory. */
int tp_dict_put(tp_dict *d, const char *key, size_t len, const tp_stored *value, uint64_t expected,
                bool *is_put, tp_error *err);

/* Adds to the number of a key, which is 0 when it has no value; *sum is the result. -1 when out of
 * memory, or when the value is no number (TP_EUSAGE). */
int tp_dict_add(tp_dict *d, const char *key, size_t len, double by, double *sum, tp_error *err);

/* Removes the key if its version is `expected` (TP_VERSION_ANY: in any case), and gives its value
 * to the caller. False when it did not. */
bool tp_dict_pop(tp_dict *d, const char *key, size_t len, uint64_t expected, tp_stored *value);

size_t tp_dict_count(tp_dict *d);

/* An entry of a snapshot: the key is a copy. */
typedef struct tp_entry {
    char *key;
    size_t len;
    tp_stored value;
} tp_entry;

/* A snapshot of all *n entries, to be freed by the caller; NULL when there are none, or out of
 * memory (err). */
tp_entry *tp_dict_snapshot(tp_dict *d, size_t *n, tp_error *err);
void tp_entries_free(tp_entry *entries, size_t n);

/* ---- queues: any thread ---- */

typedef enum tp_moved { TP_MOVED, TP_NOT_YET, TP_CLOSED, TP_NO_ROOM /* out of memory */ } tp_moved;

/* `capacity`: how many values wait at most; 0: any number. */
int tp_store_queue_open(tp_store_queue **out, uint64_t capacity, tp_error *err);

/* Neither waits: TP_NOT_YET when it would have to. `put` takes the value over only when it returns
 * TP_MOVED. */
tp_moved tp_store_queue_put(tp_store_queue *q, const tp_stored *value);
tp_moved tp_store_queue_take(tp_store_queue *q, tp_stored *value);

/* Closes the queue: nothing more can be put in; values in it can still be taken. */
void tp_store_queue_close(tp_store_queue *q);
bool tp_store_queue_is_closed(tp_store_queue *q);
size_t tp_store_queue_count(tp_store_queue *q);

/* Could a value be put in (`for_room`), or taken, without waiting? */
bool tp_store_queue_is_ready(tp_store_queue *q, bool for_room);

/* Waits at most `ns` until there may be room (`for_room`) or a value, or the queue is closed. */
void tp_store_queue_wait(tp_store_queue *q, bool for_room, uint64_t ns);

#endif
