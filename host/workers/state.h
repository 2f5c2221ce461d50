/* state.h: a Lua state as the host opens all of its own: with which allocator and libraries, and
 * within which limit of memory. Who runs what in it is not said here (vm.h, host.h). */
#ifndef TP_STATE_H
#define TP_STATE_H

#include <lua.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* So many references the registry has room for, see tp_state_open_libraries. */
enum { TP_STATE_REFERENCES = 256 };

/* A new Lua state with the allocator that all of the host's states use; NULL when out of memory. */
lua_State *tp_state_new(void);

/* Opens the standard libraries, and FFI, in a state of tp_state_new. Raises out of memory. */
void tp_state_open_libraries(lua_State *L);

/* Closes a state that tp_state_new has made. */
void tp_state_close(lua_State *L);

/* Bytes that the state uses, garbage included. */
uint64_t tp_state_used(lua_State *L);

/* How much memory a state may have (tp_limit_begin), and how much it has. LuaJIT does not collect
 * garbage before it asks for more memory, so a collection is requested in time. */
typedef struct tp_limit {
    struct lua_State *L;
    lua_Alloc allocate; /* the state's own, with its user data */
    void *user;
    lua_CFunction panic; /* as it was before */
    uint64_t bytes, used, shown;
    uint64_t low;       /* the least that was in use since a collection was last requested */
    /* a collection is requested when so much is in use: half way between `low` and the limit */
    uint64_t ask_at;
    bool has_refused; /* since a collection was last asked for by the owner */
    _Atomic uint32_t *refused;
    const _Atomic int32_t *item;
} tp_limit;

/* Limits the memory of a state to `bytes`, of which it uses tp_state_used() already. Asking for
 * more raises "not enough memory" in the running item, and sets *refused to 1 + *item (both
 * relaxed; both must outlive the limit). `shown` is the limit that messages name. The struct, which
 * has no limit yet, stays where it is until the limit's end. */
void tp_limit_begin(tp_limit *m, lua_State *L, uint64_t bytes, uint64_t shown,
                    _Atomic uint32_t *refused, const _Atomic int32_t *item);

/* Ends the limit, if there is one, and clears the struct. */
void tp_limit_end(tp_limit *m);

#endif
