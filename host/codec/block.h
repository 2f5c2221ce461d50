/* block.h: a batch of consecutive items of a job: inputs on their way down, results on their way
 * up.
 *
 * Items are packed column by column: numbers of one type, or scalars of any type (numbers, strings,
 * booleans, nil: TP_MIXED). Or they are messages of the codec, or one failure. Columns are what
 * compiled Lua loops read and write through FFI, on both sides. A block has one owner at a time; it
 * is written by whoever makes it and read-only once it is published. */
#ifndef TP_BLOCK_H
#define TP_BLOCK_H

#include "base/array.h"
#include "base/pairing.h"
#include "codec/codec.h"

typedef enum tp_block_kind {
    TP_BLOCK_COLUMNS, /* item k has the values column[0][k], column[1][k], ... */
    TP_BLOCK_VALUES,  /* item k is the message bytes[ends[k-1] .. ends[k]) */
    TP_BLOCK_FAILURE, /* n == 1; the message has TP_FAILURE_FIELDS (message.h) */
    TP_BLOCK_RETRY,   /* the same, of an attempt that is going to be repeated; no item's result */
    TP_BLOCK_DONE,    /* items that ran for their effect: no results kept */
    /* as VALUES: given by the item `first` while it runs (Function:stream); not an item's result */
    TP_BLOCK_PART,
    /* n items in groups of TP_GROUP, each reduced to one double: column[0][k] is for the group that
     * begins at item k * TP_GROUP */
    TP_BLOCK_PARTIALS
} tp_block_kind;

/* The type of a column whose elements are tp_scalars; all others are of array.h. */
enum { TP_MIXED = TP_TYPES };

typedef enum tp_scalar_kind {
    TP_SCALAR_ABSENT, /* the item has fewer values than there are columns */
    TP_SCALAR_NIL, TP_SCALAR_FALSE, TP_SCALAR_TRUE, TP_SCALAR_NUMBER, TP_SCALAR_STRING,
    /* a long string in the owner's Lua state, pinned there while the block lives */
    TP_SCALAR_PINNED,
    /* the same in memory that the block owns and another process can still write to. Its bytes may
     * change while they are read, so a Lua string must be made from a private copy: else the
     * string's hash might not be that of its bytes */
    TP_SCALAR_SHARED
} tp_scalar_kind;

typedef struct tp_scalar {
    union {
        double number;
        struct {
            uint32_t at, length; /* in the block's text */
        } string;
        const char *pinned;
    } as;
    uint32_t kind, pinned_length;
} tp_scalar;

/* C and Lua index such a column as an array of scalars. */
_Static_assert(sizeof(tp_scalar) == 2 * sizeof(double), "a scalar is as wide as two doubles");
_Static_assert(offsetof(tp_scalar, kind) == sizeof(double), "the kind stands behind the value");

/* The strings of mixed columns; in the block's own memory. */
typedef struct tp_text {
    char *bytes;
    uint32_t used, capacity;
} tp_text;

enum { TP_TEXT_STRING_MAX = 4096 }; /* longer strings are pinned, or go as messages */

/* What the journal knows of an input: its identity (identity.h), and how often it was tried in
 * earlier runs. */
typedef struct tp_tag {
    uint8_t identity[16];
    uint32_t attempts;
} tp_tag;

/* How items were run. Times are of uv_hrtime. */
typedef struct tp_ran {
    uint64_t queued_ns;  /* when their inputs were handed over */
    uint64_t started_ns; /* when the first of them was begun; the next one follows after its time */
    double ns_per_item;
    uint32_t attempt; /* from 1, in this run; 0: they were not run, since their results are known */
    int32_t worker;   /* who ran them */
    int32_t site;     /* and at which site (tp_agent), from 1; 0: at none */
    int32_t lost_at;  /* the site, from 1, that was to run them and has not come back; 0: none */
    /* how long their site waited for its driver's compiler before; it is a part of their time */
    uint64_t compiled_ns;
} tp_ran;

typedef struct tp_block {
    struct tp_block *next; /* in the list that owns it */
    tp_pairing early;      /* among results that wait for their turn (job.c) */
    uint64_t first;        /* index of the first item in its job, from 0 */
    uint32_t n;            /* items */
    tp_ran ran;            /* of results; of inputs only queued_ns */
    tp_block_kind kind;
    uint32_t columns;  /* COLUMNS */
    uint32_t capacity; /* items that there is room for: in its own COLUMNS, in the ends of VALUES */
    uint32_t open;            /* inputs: items that have no result yet; engine's lock */
    bool may_retry;           /* FAILURE: raised by the user's function, so that `retries` apply */
    bool is_crash;            /* FAILURE: the worker died, so that `crash_retries` apply */
    bool hides_input;         /* FAILURE: the block of inputs does not have what is in its arrays */
    /* VALUES, FAILURE: the messages come from another process or a file, and are decoded as
     * hostile */
    bool is_foreign;
    uint32_t *ends;           /* VALUES: where each message ends; offsets into bytes */
    tp_buf bytes; /* VALUES: the messages; COLUMNS: its refs own the arrays that columns lie in */
    void *column[TP_COLUMNS_MAX]; /* COLUMNS: elements of the type below */
    uint8_t type[TP_COLUMNS_MAX]; /* tp_type or TP_MIXED */
    tp_text text;                 /* of mixed columns */
    /* FAILURE: the item's arguments as a message; empty: not known, as when the input could not be
     * made */
    tp_buf input;
    /* bytes of memory outside the block that stay in use until it is freed (held strings,
     * wire/held.h) */
    size_t held;
    tp_tag *tags;    /* inputs of jobs whose results are recorded: one per item; else NULL */
} tp_block;

/* A specialised loop's signature is a string: a character per column of the inputs, TP_SIGN_OWN, or
 * TP_SIGN_FOREIGN where the column lies in an array of the users', and the number of its type; one
 * that says whether results are kept; and then a character per column of those. */
enum {
    TP_SIGN_OWN = '0',
    TP_SIGN_FOREIGN = 'a',
    TP_SIGN_KEPT = '>',
    TP_SIGN_DROPPED = '-'
};
_Static_assert(TP_SIGN_OWN + (int)TP_MIXED < TP_SIGN_KEPT,
               "a type is not what stands behind the inputs");
_Static_assert(TP_SIGN_DROPPED < TP_SIGN_OWN, "nor is the other one");

/* Letters in the argument of core.job.columns, one per column. */
enum { TP_COLUMN_DOUBLES = 'd', TP_COLUMN_SCALARS = 'm' };

/* A reduction makes one number of each TP_GROUP items, beginning at a multiple of TP_GROUP. Within
 * a group, item k goes to lane k modulo TP_LANES; then the lanes are combined pairwise. */
enum { TP_GROUP = 1024, TP_LANES = 16 };
_Static_assert(TP_GROUP % TP_LANES == 0 && (TP_LANES & (TP_LANES - 1)) == 0, "all lanes are alike");

/* What becomes of the numbers of a group. Others than these only devices do. */
typedef enum tp_reduction { TP_REDUCES_NOTHING, TP_SUM, TP_LEAST, TP_GREATEST } tp_reduction;

/* no item is added to a block whose messages have more bytes than this */
enum { TP_BLOCK_BYTES_MAX = 1 << 20 };

/* A block with room for `capacity` items in columns of these types (NULL: doubles), and for `text`
 * bytes of strings; NULL when out of memory. The elements are not initialised. */
tp_block *tp_block_new_columns(uint32_t capacity, uint32_t columns, const uint8_t *types,
                               uint32_t text);

/* A block of n items whose columns lie elsewhere: the caller fills in column, type and the owners.
 * NULL when out of memory. */
tp_block *tp_block_new_borrowed(uint64_t first, uint32_t n, uint32_t columns);

/* Bytes of an element of a column. */
static inline size_t tp_block_element_size(uint8_t type)
{
    return type == TP_MIXED ? sizeof(tp_scalar) : tp_type_size((tp_type)type);
}

/* Makes the block an owner of r too. -1 when out of memory. */
int tp_block_own(tp_block *b, tp_ref *r);

/* The same, but takes over the caller's reference; on failure the caller keeps it. */
int tp_block_give(tp_block *b, tp_ref *r);

/* An empty block for messages; NULL when out of memory. */
tp_block *tp_block_new_values(tp_block_kind kind);

/* A block of n items without values (DONE). */
tp_block *tp_block_new_empty(tp_block_kind kind, uint64_t first, uint32_t n);

/* The failure of one item that was not raised in Lua; its message is its value too when the kind is
 * TP_KIND_ERROR. Since a worker must be able to report a failure, this waits some milliseconds for
 * memory if it must. NULL when there still is none: see tp_job_starve. */
tp_block *tp_block_new_failure(tp_failure_kind kind, const char *message, unsigned attempt,
                               int worker);

/* The same for an item whose worker process has died: `last` is the end of what the process had
 * written to its standard error. */
tp_block *tp_block_new_crash(tp_failure_kind kind, const char *message, const char *last,
                             size_t last_len, unsigned attempt, int worker);

tp_block *tp_block_copy_failure(const tp_block *from);
tp_block *tp_block_new_empty_failure(void); /* for the caller to encode the message into */

/* Makes room for one more message end; -1 when out of memory. Call before encoding into bytes. */
int tp_block_reserve(tp_block *b);

/* The bytes appended since the last item are one more item. */
static inline void tp_block_add(tp_block *b)
{
    b->ends[b->n++] = (uint32_t)b->bytes.len;
}

/* The message of item k. */
static inline const uint8_t *tp_block_message(const tp_block *b, uint32_t k, size_t *len)
{
    size_t begin = k ? b->ends[k - 1] : 0;
    *len = b->ends[k] - begin;
    return b->bytes.data + begin;
}

/* Appends the values of item k as a message, whatever kind of block it is. For columns it is the
 * message that identities are made of (codec/identity.h). -1 when out of memory, with out as it
 * was. */
int tp_block_encode_item(const tp_block *b, uint32_t k, tp_buf *out);

/* Roughly how many bytes of memory the block keeps in use. */
size_t tp_block_size(const tp_block *b);

void tp_block_free(tp_block *b);       /* accepts NULL */
void tp_block_free_list(tp_block *b);  /* it and all that follow it */

#endif
