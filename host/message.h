/* message.h: the format of the codec's messages, and messages of simple values, which need no Lua state.
 *
 * A message is a count and that many values, each a tag byte and what the tag asks for (enum tag). What can be met
 * twice (tables, functions, long strings, ...) is referred to by its offset from the message's start; only when that
 * happens is the first occurrence's tag patched to its "shared" variant, so that decoding registers only those.
 *
 * Numbers are in the machine's byte order. Whoever sends messages to another machine compares that first. */
#ifndef TP_MESSAGE_H
#define TP_MESSAGE_H

#include "buf.h"

#include <stdbool.h>

enum tag {
    T_INT = 0x00,    /* 0x00 .. 0x7f: the integers 0 to 127 */
    T_SHORT = 0x80,  /* 0x80 .. 0x9f: strings of 0 to 31 bytes, which follow */
    T_NIL = 0xa0,
    T_FALSE,
    T_TRUE,
    T_INT8,          /* one byte, signed */
    T_INT32,
    T_DOUBLE,
    T_INT64,         /* cdata */
    T_UINT64,
    T_COMPLEX,       /* cdata: two doubles */
    T_RUN,           /* in a table's array part only: u32 count, so many doubles */
    T_BACK,          /* u32 offset of something shared */
    T_UPBACK,        /* in a function only: u32 offset of a shared upvalue */
    T_ARRAY,         /* u32 index of a reference: the memory; u8 type, u64 offset in bytes, u64 elements */

    /* From here on: even tags, and tag | SHARED where a T_BACK or T_UPBACK refers to it. */
    T_STRING = 0xb0, /* u32 length, bytes */
    T_TABLE = 0xb2,  /* u32 array items, u32 pairs, the items, the pairs */
    T_OBJECT = 0xb4, /* as T_TABLE, with the metatable (a value) before the items */
    T_FUNC = 0xb6,   /* bytecode (a string), environment (nil, T_ENV or T_BACK; then u32 pairs of globals), u8 upvalues */
    T_UPVAL = 0xb8,  /* in a function only: a value */
    T_ENV = 0xba,    /* in a function only: an environment of its own */
    T_BUILTIN = 0xbc, /* name */
    T_MODULE = 0xbe,  /* u8 of MODULE_*, then path and cpath, the module's name, the field's name */
    T_CLASS = 0xc0,   /* name: a class that the other side must know */
    T_BLOB = 0xc2,    /* u32 index of a reference: a class with its definition */
    T_DEFINED = 0xc4, /* name: a class whose definition is being read further out */
    T_REF = 0xc6      /* u32 index of a reference: a host object */
};

enum { SHARED = 1, SHORT_MAX = 32 };
enum { MODULE_FIELD = 1, MODULE_PATHS = 2 };
/* Appends the message of n numbers, of which some are booleans. -1 when out of memory, with out as it was. */
int tp_encode_numbers(tp_buf *out, const double *values, const bool *is_boolean, unsigned n);

/* Reads the first n values of a message of this process into `to`. Gives how many of them, from the first on, are numbers; when one is something else,
 * *other says what ("a string"). */
unsigned tp_decode_numbers(const uint8_t *bytes, size_t len, double *to, unsigned n, const char **other);

/* Appends a failure's message, see tp_block_new_failure. -1 when out of memory, with out as it was. */
int tp_encode_failure(tp_buf *out, const char *kind, const char *message, unsigned attempt, int worker);

#endif
