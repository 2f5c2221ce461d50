/* heap.h: the memory of a Lua state of ours: small blocks from chunks of one size each, large ones from malloc.
 *
 * LuaJIT's own allocator maps large blocks one by one (see host/vm.c), and malloc takes 40 ns for what Lua asks for most, blocks of some 50 bytes that
 * live shortly; it also grows a thread's heap by a page at a time, a system call each. A heap belongs to its state, and is used by one thread at a time. */
#ifndef TP_HEAP_H
#define TP_HEAP_H

#include <stddef.h>

typedef struct tp_heap tp_heap;

tp_heap *tp_heap_new(void); /* NULL when out of memory */

/* The state is open: from here on running out of memory is an error. */
void tp_heap_seal(tp_heap *heap);

/* Accepts NULL. Everything that was taken from it must have been given back, or is not used any more. */
void tp_heap_free(tp_heap *heap);

/* lua_Alloc, with the heap as its user data. */
void *tp_heap_allocate(void *heap, void *p, size_t old, size_t size);

#endif
