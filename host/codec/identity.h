/* identity.h: what a value is, as bytes that are the same in every process that runs the same program: a hash of what TP_ENCODE_IDENTITY writes.
 *
 * That is a message as the codec's others, but it cannot be read back. Pairs of tables come in an order of their own; of functions there is what they do,
 * without lines, files and the names of locals; of typed arrays a hash of their elements; of classes the definition; what belongs to the host, and modules,
 * are only named. All NaNs are the same one. */
#ifndef TP_IDENTITY_H
#define TP_IDENTITY_H

#include "codec/block.h"

struct lua_State;

enum { TP_IDENTITY = 16 /* bytes of an identity */ };

/* Of n values from the stack's index `first` on, as one item's arguments or results. `message` is scratch of the caller's. -1 with err set, as tp_encode
 * does. May raise out of memory. */
int tp_identity_of_values(struct lua_State *L, int first, int n, const char *const *root, tp_buf *message, uint8_t to[TP_IDENTITY], tp_error *err);

/* The same of item k of a block of columns: the identity of the values that it stands for. `message` is scratch. -1: out of memory. */
int tp_identity_of_item(const tp_block *b, uint32_t k, tp_buf *message, uint8_t to[TP_IDENTITY]);

/* Of bytes that tell all. */
void tp_identity_of_bytes(const void *bytes, size_t len, uint8_t to[TP_IDENTITY]);

#endif
