/* heap.h: the memory of a Lua state of ours: small blocks from chunks of one size each, large ones from malloc.
 *
 * LuaJIT's own allocator maps large blocks one by one (see host/workers/vm.c), and malloc takes 40 ns for what Lua asks for most, blocks of some 50 bytes that
 * live shortly; it also grows a thread's heap by a page at a time, a system call each. A heap belongs to its state, and is used by one thread at a time. */
#ifndef TP_HEAP_H
#define TP_HEAP_H

#include <stdbool.h>
#include <stddef.h>

typedef struct tp_heap tp_heap;

tp_heap *tp_heap_new(void); /* NULL when out of memory */

/* Sets memory aside for FFI to be opened (which takes 15 KiB): until tp_heap_seal it cannot run out. False when there is none to set aside. A state that
 * runs out in the middle of that could not be closed: LuaJIT crashes. Accepts NULL. */
bool tp_heap_prepare(tp_heap *heap);

/* The state, or FFI in it, is open: from here on running out of memory is an error. Accepts NULL. */
void tp_heap_seal(tp_heap *heap);

/* Accepts NULL. Everything that was taken from it must have been given back, or is not used any more. */
void tp_heap_free(tp_heap *heap);

/* lua_Alloc, with the heap as its user data. */
void *tp_heap_allocate(void *heap, void *p, size_t old, size_t size);

#endif
