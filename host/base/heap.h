/* heap.h: the memory of a Lua state of ours: small blocks from chunks of one size each, large ones
 * from malloc.
 *
 * LuaJIT's own allocator maps large blocks one by one (see host/workers/vm/vm.c), and malloc takes
 * 40 ns for what Lua asks for most, blocks of some 50 bytes that live shortly; it also grows a
 * thread's heap by a page at a time, a system call each. A heap belongs to its state, and is used
 * by one thread at a time. */
#ifndef TP_HEAP_H
#define TP_HEAP_H

#include <stdbool.h>
#include <stddef.h>

typedef struct tp_heap tp_heap;

/* LuaJIT keeps 47 bits of an address. Is all memory of this process below that? On x86-64 it is;
 * most kernels for arm64 give addresses of 48 bits, and only LuaJIT's own allocator asks for
 * others. */
bool tp_heap_is_in_reach(void);

tp_heap *tp_heap_new(void); /* NULL when out of memory */

/* Sets memory aside so that opening the FFI (which takes 15 KiB) cannot run out of it, until
 * tp_heap_seal. False when there is none to set aside. Without this, a state that runs out of
 * memory there could not even be closed: LuaJIT crashes. Accepts NULL. */
bool tp_heap_prepare(tp_heap *heap);

/* The state, or the FFI in it, is open: from here on running out of memory is an ordinary error.
 * Accepts NULL. */
void tp_heap_seal(tp_heap *heap);

/* Accepts NULL. All blocks must have been given back, or be in use no more. */
void tp_heap_free(tp_heap *heap);

/* lua_Alloc, with the heap as its user data. */
void *tp_heap_allocate(void *heap, void *p, size_t old, size_t size);

#endif
