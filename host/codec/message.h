/* message.h: the format of the codec's messages, and messages of simple values, which need no Lua
 * state.
 *
 * A message is a count and that many values, each a tag byte and what the tag asks for (enum tag).
 * What can be met twice (tables, functions, long strings, ...) is referred to by its offset from
 * the message's start; only when that happens is the first occurrence's tag patched to its "shared"
 * variant, so that decoding registers only those.
 *
 * Numbers are in the machine's byte order. Whoever sends messages to another machine compares that
 * first. */
#ifndef TP_MESSAGE_H
#define TP_MESSAGE_H

#include "base/array.h"
#include "base/buf.h"
#include "base/failure.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum tag {
    T_INT = 0x00,   /* 0x00 .. 0x7f: the integers 0 to 127 */
    T_SHORT = 0x80, /* 0x80 .. 0x9f: strings of 0 to 31 bytes, which follow */
    T_NIL = 0xa0,
    T_FALSE,
    T_TRUE,
    T_INT8, /* one byte, signed */
    T_INT32,
    T_DOUBLE,
    T_INT64, /* cdata */
    T_UINT64,
    T_COMPLEX, /* cdata: two doubles */
    T_RUN,     /* in a table's array part only: u32 count, so many doubles */
    T_BACK,    /* u32 offset of something shared */
    T_UPBACK,  /* in a function only: u32 offset of a shared upvalue */
    T_ARRAY,   /* u32 index of a reference: the memory; u8 type, u64 offset in bytes, u64 elements,
                  u64 shape (see codec_state.h) */
    T_NULL,    /* the light userdata that points nowhere: tidepool.null, and cjson.null */

    /* From here on: even tags, and tag | SHARED where a T_BACK or T_UPBACK refers to it. */
    T_STRING = 0xb0,  /* u32 length, bytes */
    T_TABLE = 0xb2,   /* u32 array items, u32 pairs, the items, the pairs */
    T_OBJECT = 0xb4,  /* as T_TABLE, with the metatable (a value) before the items */
    T_FUNC = 0xb6,    /* bytecode (a string), environment (nil, T_ENV or T_BACK; then u32 pairs of
                         globals), u8 upvalues */
    T_UPVAL = 0xb8,   /* in a function only: a value */
    T_ENV = 0xba,     /* in a function only: an environment of its own */
    T_BUILTIN = 0xbc, /* name */
    T_MODULE = 0xbe, /* u8 of MODULE_*, then path and cpath, the module's name, the field's name, or
                        u32 other names and these */
    T_CLASS = 0xc0,  /* name: a class that the other side must know */
    T_BLOB = 0xc2,   /* u32 index of a reference: a class with its definition */
    T_DEFINED = 0xc4,  /* name: a class whose definition is being read further out */
    T_REF = 0xc6,      /* u32 index of a reference: a host object */
    T_REFUSED = 0xc8,  /* u32 length, bytes: stands for what cannot travel; whoever uses it gets the
                          text as an error */
    T_CAPTURED = 0xca, /* u32 number: a table that came in the image, see captured.h */
    T_CTYPE = 0xcc,    /* two values: the text of a C type, and its metatable or nil */
    T_BYTES = 0xce,    /* the same for the type of a cdata; u32 length, its bytes */
    T_SYMBOL = 0xd0,   /* two values: the name of a function of C, and its library */
    T_LIBRARY = 0xd2,  /* two values: the name of a library of C, and whether it is global */
    T_ELEMENTS = 0xd4, /* a typed array as a copy: u8 type, u64 elements, u64 shape, and the
                          elements' bytes */
    T_FIELDS = 0xd6    /* two values: a metatable, and a table: a userdata of that class, whose
                          environment is the table of its fields (tp_codec_has_fields) */
};

enum { SHARED = 1, SHORT_MAX = 32 };
enum { MODULE_FIELD = 1, MODULE_PATHS = 2, MODULE_ALIASES = 4 };

/* Writes a number as a value of a message, up to 9 bytes; returns the position behind it. */
static inline uint8_t *tp_write_number(uint8_t *p, double x)
{
    if (x >= INT32_MIN && x <= INT32_MAX) {
        int32_t i = (int32_t)x;
        if ((double)i == x && !(i == 0 && signbit(x))) {
            if (i >= 0 && i < T_SHORT) {
                *p++ = (uint8_t)(T_INT + i);
            } else if (i >= INT8_MIN && i <= INT8_MAX) {
                *p++ = T_INT8;
                *p++ = (uint8_t)i;
            } else {
                *p++ = T_INT32;
                memcpy(p, &i, sizeof i);
                p += sizeof i;
            }
            return p;
        }
    }
    *p++ = T_DOUBLE;
    memcpy(p, &x, sizeof x);
    return p + sizeof x;
}

/* Appends the message of what n columns of these types have at `at`, where some are booleans. -1
 * when out of memory, with out as it was. */
int tp_encode_elements(tp_buf *out, void *const *columns, const tp_type *types,
                       const bool *is_boolean, unsigned n, size_t at);

/* Is the message complete in itself? Not if it has code, references to objects of this process, or
 * stand-ins for values that could not travel: another process cannot use those. False too for bytes
 * that are no message, as far as that shows without decoding them. */
bool tp_message_is_plain(const uint8_t *bytes, size_t len);

/* If the message has exactly one value, and that is a number or a string (`*len` bytes at `*text`),
 * gives the kind of its tag, T_DOUBLE or T_STRING; else T_NIL. */
enum tag tp_message_single(const uint8_t *bytes, size_t message_len, double *number,
                           const char **text, size_t *len);

/* The value at that index, from 0, if it is a string: `*len` bytes at `*text`, in the message.
 * False where it is none, or cannot be found without decoding the message. */
bool tp_message_text(const uint8_t *bytes, size_t message_len, uint32_t index, const char **text,
                     size_t *len);

/* Reads the first n values of one of our own messages into `to`. Gives how many of them are numbers
 * before the first that is not; *other then says what that is ("a string"). Those for which
 * is_boolean (NULL: none) says so are booleans, 0 or 1. */
unsigned tp_decode_numbers(const uint8_t *bytes, size_t len, double *to, const bool *is_boolean,
                           unsigned n, const char **other);

/* A class's definition, which T_BLOB refers to: the class's name, which lives as long as the blob,
 * and the message. */
extern const tp_ref_type tp_class_blob_type;
const char *tp_class_blob_read(const tp_ref *blob, const tp_buf **message, bool *is_partial);

/* Makes such a definition. It takes the message over and leaves the buffer empty. NULL when out of
 * memory. */
tp_ref *tp_class_blob_new(const char *name, tp_buf *message, bool is_partial);

/* The values of a failure's message, in this order, by the names of the fields of a
 * tidepool.Failure. */
#define TP_FAILURE_FIELDS(X)                                                          \
    X(KIND, kind)                                                                     \
    X(MESSAGE, message) X(VALUE, value) X(TRACEBACK, traceback) X(ATTEMPTS, attempts) \
        X(WORKER, worker) X(STDERR, stderr)

typedef enum tp_failure_field {
#define TP_FAILURE_FIELD(name, in_lua) TP_FAILURE_##name,
    TP_FAILURE_FIELDS(TP_FAILURE_FIELD)
#undef TP_FAILURE_FIELD
    TP_FAILURE_FIELDS_N
} tp_failure_field;

/* Appends a failure's message; tp_block_new_crash explains `last`. -1 when out of memory, with out
 * as it was. */
int tp_encode_failure(tp_buf *out, tp_failure_kind kind, const char *message, const char *last,
                      size_t last_len, unsigned attempt, int worker);

#endif
