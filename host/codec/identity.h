/* identity.h: a value's identity: bytes that are the same for equal values in every process that
 * runs the same program. It is a hash of what TP_ENCODE_IDENTITY writes.
 *
 * That is a message like the codec's others, but it cannot be decoded. Pairs of tables are sorted;
 * functions are what they do, without lines, files and the names of locals; typed arrays are hashes
 * of their elements; classes are their definitions; host objects and modules are only named. All
 * NaNs are the same. */
#ifndef TP_IDENTITY_H
#define TP_IDENTITY_H

#include "codec/block.h"

struct lua_State;

enum { TP_IDENTITY = 16 /* bytes of an identity */ };

/* The identity of n values from the stack's index `first` on, as one item's arguments or results.
 * `message` is the caller's scratch memory. -1 with err set, as from tp_encode. May raise out of
 * memory. */
int tp_identity_of_values(struct lua_State *L, int first, int n, const char *const *root,
                          tp_buf *message, uint8_t to[TP_IDENTITY], tp_error *err);

/* The same of item k of a block of columns, which is the identity of the values that it stands for.
 * -1: out of memory. */
int tp_identity_of_item(const tp_block *b, uint32_t k, tp_buf *message, uint8_t to[TP_IDENTITY]);

/* The identity of a value whose canonical bytes these are. */
void tp_identity_of_bytes(const void *bytes, size_t len, uint8_t to[TP_IDENTITY]);

#endif
