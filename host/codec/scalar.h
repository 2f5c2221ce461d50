/* scalar.h: elements of mixed columns (TP_MIXED of block.h) to Lua and back, where no compiled loop
 * does it. */
#ifndef TP_SCALAR_H
#define TP_SCALAR_H

#include "codec/block.h"

struct lua_State;

/* How many bytes of text the strings among n values from index `first` on need; -1 when a value is
 * no scalar, or a string too long for a column. */
int64_t tp_scalar_measure(struct lua_State *L, int first, int n);

/* Writes the value at index to *to, an element of b. The block must have room for its text. */
void tp_scalar_store(struct lua_State *L, int index, tp_block *b, tp_scalar *to);

/* Pushes the value of an element of b. Raises out of memory. */
void tp_scalar_push(struct lua_State *L, const tp_block *b, const tp_scalar *from);

#endif
