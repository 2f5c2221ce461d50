/* state.c: opening Lua states, their allocator, and the limit to their memory. */
#include "workers/state.h"

#include "base/heap.h"
#include "codec/codec.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdlib.h>

#ifdef TP_MALLOC_STATE
static void *allocate(void *ud, void *p, size_t old, size_t size)
{
    (void)ud, (void)old;
    if (size == 0) {
        free(p);
        return NULL;
    }
    return realloc(p, size);
}
#endif

/* LuaJIT's own allocator is used only where it cannot reach what malloc gives: it maps and unmaps
 * strings of 128 KiB and more one by one, and the page faults cost several times as much as copying
 * the strings (W4 of bench/: 211 ms with LuaJIT's, 58 ms with malloc). Sanitizer builds see each
 * block. */
lua_State *tp_state_new(void)
{
#ifdef TP_MALLOC_STATE
    return lua_newstate(allocate, NULL);
#else
    if (!tp_heap_is_in_reach()) {
        lua_State *own = luaL_newstate();
        if (own)
            lua_atpanic(own, NULL); /* luaL_newstate's prints */
        return own;
    }
    tp_heap *heap = tp_heap_new();
    lua_State *L = heap ? lua_newstate(tp_heap_allocate, heap) : NULL;
    if (L)
        tp_heap_seal(heap);
    else
        tp_heap_free(heap);
    return L;
#endif
}

void tp_state_close(lua_State *L)
{
    void *user;
    bool has_heap = lua_getallocf(L, &user) == tp_heap_allocate;
    lua_close(L);
    if (has_heap)
        tp_heap_free(user);
}

void tp_state_open_libraries(lua_State *L)
{
    void *user;
    tp_heap *heap = lua_getallocf(L, &user) == tp_heap_allocate ? user : NULL;
    /* LUA_PATH is the user's, not the embedder's; the host's paths come with each function. */
    lua_pushboolean(L, 1);
    lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
    luaL_openlibs(L);
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
    /* here, where running out of memory only means that the state cannot be opened */
    tp_codec_reserve_references(L, TP_STATE_REFERENCES);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "ffi");
    if (!tp_heap_prepare(heap))
        tp_codec_raise_memory(L);
    lua_call(L, 1, 0);
    tp_heap_seal(heap);
}

uint64_t tp_state_used(lua_State *L)
{
    return (uint64_t)lua_gc(L, LUA_GCCOUNT, 0) * 1024 + (uint64_t)lua_gc(L, LUA_GCCOUNTB, 0);
}

/* ---- the limit to a state's memory ---- */

/* Sets when the next collection is requested. Close to the limit no more are: they would give back
 * too little to be worth it. */
static void set_ask_at(tp_limit *m)
{
    uint64_t left = m->bytes - m->used;
    m->low = m->used;
    m->ask_at = left > m->bytes / 64 ? m->used + left / 2 : UINT64_MAX;
}

/* Makes the collector do a full cycle at its next step, unless it has been stopped or is running a
 * finalizer. */
static void ask_for_collection(tp_limit *m)
{
    if (lua_gc(m->L, LUA_GCISRUNNING, 0)) {
        lua_gc(m->L, LUA_GCSETSTEPMUL, 0);
        lua_gc(m->L, LUA_GCRESTART, 0);
    }
    set_ask_at(m);
}

static void *refuse(tp_limit *m)
{
    m->has_refused = true;
    atomic_store_explicit(m->refused,
                          1 + (uint32_t)atomic_load_explicit(m->item, memory_order_relaxed),
                          memory_order_relaxed);
    return NULL;
}

/* lua_Alloc, with the limit as its user data. */
static void *allocate_within(void *user, void *p, size_t old, size_t size)
{
    tp_limit *m = user;
    if (size > old && m->used + (size - old) > m->bytes)
        return refuse(m);
    void *to = m->allocate(m->user, p, old, size);
    if (size > 0 && !to)
        return refuse(m);
    m->used += size;
    m->used -= old;
    if (size > old) {
        if (m->used >= m->ask_at)
            ask_for_collection(m);
    } else if (m->used < m->low) {
        set_ask_at(m);
    }
    return to;
}

/* lua_atpanic while there is a limit: LuaJIT is about to end the process (it could not make its
 * machine code executable, say). */
static int panic(lua_State *L)
{
    void *user;
    lua_getallocf(L, &user);
    refuse(user);
    return 0;
}

void tp_limit_begin(tp_limit *m, lua_State *L, uint64_t bytes, uint64_t shown,
                    _Atomic uint32_t *refused, const _Atomic int32_t *item)
{
    *m = (tp_limit){ .L = L,
                     .bytes = bytes,
                     .shown = shown,
                     .used = tp_state_used(L),
                     .refused = refused,
                     .item = item };
    if (m->used > bytes)
        m->bytes = m->used; /* the state gets no more memory */
    set_ask_at(m);
    m->allocate = lua_getallocf(L, &m->user);
    lua_setallocf(L, allocate_within, m);
    m->panic = lua_atpanic(L, panic);
}

void tp_limit_end(tp_limit *m)
{
    if (m->bytes) {
        lua_setallocf(m->L, m->allocate, m->user);
        lua_atpanic(m->L, m->panic);
    }
    *m = (tp_limit){ 0 };
}
