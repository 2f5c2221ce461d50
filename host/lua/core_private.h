/* core_private.h: what the files of the module "tidepool.core" share: core.c, core_*.c and luv.c,
 * nobody else.
 *
 * Each file registers its functions when core.c calls it to do so: when the module is opened, or
 * when the file's part of it is first read. None calls back into core.c. core_private.c stands
 * below the others. */
#ifndef TP_CORE_PRIVATE_H
#define TP_CORE_PRIVATE_H

#include "base/buf.h"
#include "base/error.h"
#include "codec/block.h"
#include "engine/random.h"
#include "runtime/runtime.h"

#include <lauxlib.h>
#include <lua.h>

#include <stdbool.h>
#include <stdint.h>

typedef struct tp_pins tp_pins; /* core_pin.c */

/* The random numbers of an input of a journal that is run again in the script's own state
 * (core.random.replay). */
typedef struct tp_replay {
    tp_draws draws; /* first member, as in a tp_work */
    int32_t at;     /* the offset of the item that runs: 0 */
} tp_replay;

/* What the functions of one state share: a userdata in the state's registry, which is their first
 * upvalue. Only the state's own thread uses it. */
typedef struct context {
    tp_host *host;
    /* the worker whose state this is: maps of the state are nested in what the worker runs; NULL in
     * the owner's state */
    tp_agent *agent;
    lua_State *main; /* the state's main thread */
    tp_listener *listener; /* of the owner's state; NULL in a worker's */
    tp_buf scratch;  /* memory for core.func.image */
    tp_block *emitting; /* being encoded by core.job.emit, or left over when that raised; or NULL */
    const void *job_metatable; /* of core_job.c's userdata; the registry keeps it */
    tp_pins *pins;   /* one reference; NULL until something was pinned */
    tp_replay *replay; /* the registry keeps it; NULL: this is no replay */
    tp_source script;  /* the script's random numbers, for the maps that it starts */
    tp_source *source; /* that of maps started now: the script's, or that of the running task */
} context;

/* The context of the running function, which was registered by tp_core_register. */
static inline context *get_context(lua_State *L)
{
    return lua_touserdata(L, lua_upvalueindex(1));
}

/* ---- core_private.c ---- */

/* The work whose item is running; NULL outside an item. */
tp_work *tp_core_work(const context *ctx);

/* Registers functions in the field `name` of the table on top, which is made when it is missing, or
 * in the table itself when name is NULL. They share the first upvalue of the running function, the
 * context. */
void tp_core_register(lua_State *L, const char *name, const luaL_Reg *functions);

/* pushes nil and the message; returns 2 */
int tp_core_push_message(lua_State *L, const tp_error *err);
/* false with err set: the process has forked since, and this is the child */
bool tp_core_is_usable(const tp_host *host, tp_error *err);
/* pushes true, or that when rc is not 0; returns how many values */
int tp_core_push_true_or(lua_State *L, int rc, const tp_error *err);
/* and the failure's kind, see tp_failure_kind_of; returns 3 */
int tp_core_push_refusal(lua_State *L, const tp_error *err, tp_failure_kind otherwise);

/* Fields of the table at the absolute index t. */
bool tp_core_get_boolean(lua_State *L, int t, const char *key);
double tp_core_get_number(lua_State *L, int t, const char *key, double otherwise);

/* Pushes an address for ffi.cast, as a number: LuaJIT compiles a cast of that, but not of a light
 * userdata. (Addresses of processes have 47 bits.) */
void tp_core_push_address(lua_State *L, const void *p);

/* The counted object at index; raises when it is not one of the type. */
void *tp_core_check_ref(lua_State *L, int index, const tp_ref_type *type);

/* The time (uv_hrtime) in so many seconds; UINT64_MAX for nil and none. */
uint64_t tp_core_deadline_after(lua_State *L, int index);

/* Pushes the position of the user's code that runs, as in error messages: "job.lua:7: ", or "" when
 * only the library's own code runs. */
void tp_core_push_place(lua_State *L);

/* In the owner's state, after tp_host_interrupt: raises "interrupted" at the line of the user's
 * code that waits. */
void tp_core_check_interrupt(lua_State *L, context *ctx);

/* Is the value at index the one that tp_lua_core_raise_interrupt raised last? */
bool tp_core_is_interrupt(lua_State *L, int index);

/* ---- core_pin.c ---- */

/* Keeps the table on top alive for as long as the block lives, and pops it. Raises out of
 * memory. */
void tp_core_pin(lua_State *L, context *ctx, tp_block *b);

/* Frees the pins that were dropped. On the owner's thread. */
void tp_core_take_back(lua_State *L, context *ctx);

/* Called before the state is closed: cancels its maps, and waits until pinned strings are not read
 * any more. */
void tp_core_end_pins(context *ctx);

/* ---- core_array.c ---- */

/* The memory in a `memory` field of an array (a void * of the FFI); raises for anything else.
 * Borrowed. */
tp_array *tp_core_check_memory(lua_State *L, int index);

/* ---- core_device.c ---- */

/* The queue at index. Raises in a forked child, which has no driver threads and would wait for them
 * for ever. */
struct tp_queue *tp_core_check_queue(lua_State *L, int index);

/* Who brings bytes home for this state, and gives up waiting for that after Ctrl-C, or when the map
 * was cancelled in whose item it waits. */
struct tp_mover tp_core_mover(context *ctx);

/* That was given up: raises that it was interrupted, as other waits do after Ctrl-C; or pushes nil
 * and the message, in an item. */
int tp_core_push_given_up(lua_State *L, const tp_error *err);

/* ---- core_job.c: for those who make inputs of the job at an index ---- */

/* Makes the block the one that the job is building, in place of any other, until it is pushed.
 * Raises if there is no job at the index. */
void tp_core_build(lua_State *L, int job, tp_block *b);

/* Encodes n stack values from `first` as one more input. 0, or -1 with err set. */
int tp_core_add(lua_State *L, int job, int first, int n, tp_error *err);

/* Pushes the block that was built. Raises out of memory. */
void tp_core_push_built(lua_State *L, int job);

/* ---- core_random.c ---- */

/* the source of whoever is starting a map or a call */
tp_source *tp_core_source(const context *ctx);

/* Pops the context. Replaces math.randomseed by our own; the state of LuaJIT's generator tells how
 * it was seeded before. */
void tp_core_open_random(lua_State *L, context *ctx);

/* ---- core_modules.c ---- */

/* Pops the context. Where the host has a file of modules: inserts a loader of those into
 * package.loaders; `package` is the index of that table. */
void tp_core_open_modules(lua_State *L, const tp_host *host, int package);

/* ---- core_store.c ---- */

/* Makes the metatables of Dicts and Queues, which messages bring. */
void tp_core_open_store(lua_State *L);

/* ---- luv.c ---- */

/* Pops the context. Inserts a loader for "luv" before the third of package.loaders; `package` is
 * the index of that table. */
void tp_core_open_luv(lua_State *L, int package);

/* Does luv have anything in this state that keeps the loop alive? */
bool tp_core_has_luv_work(lua_State *L, const context *ctx);

/* ---- each of these puts its functions into the table on top (tp_core_register); core.c calls them
 * ---- */

void tp_core_register_func(lua_State *L);
void tp_core_register_job(lua_State *L);
void tp_core_register_image(lua_State *L);
void tp_core_register_item(lua_State *L);
void tp_core_register_array(lua_State *L);
void tp_core_register_random(lua_State *L);
void tp_core_register_device(lua_State *L);
void tp_core_register_io(lua_State *L);
void tp_core_register_journal(lua_State *L);
void tp_core_register_command(lua_State *L);
void tp_core_register_lines(lua_State *L);
void tp_core_register_loop(lua_State *L);
void tp_core_register_store(lua_State *L);
void tp_core_register_trace(lua_State *L);
void tp_core_register_luv(lua_State *L);
void tp_core_register_modules(lua_State *L);

#endif
