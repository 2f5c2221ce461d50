/* core_private.h: what the files of the module "tidepool.core" share: core.c, core_*.c and luv.c, nobody else.
 *
 * Each of them registers its functions, and core.c calls them all: none of them calls back into it. core_private.c stands below the others. */
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

/* What the functions of one state share: a userdata in its registry, and their first upvalue. Only the state's own thread enters it. */
typedef struct context {
    tp_host *host;
    tp_agent *agent; /* the worker whose state this is, NULL in the owner's: its maps are nested in what it runs */
    lua_State *main; /* the state's main thread */
    tp_listener *listener; /* the owner's state's; NULL in a worker's */
    tp_buf scratch;  /* of image */
    tp_pins *pins;   /* one reference; NULL until something was pinned */
    tp_source script;  /* of random numbers, for the maps that the script starts */
    tp_source *source; /* of those that are started now: the script's, or that of the task that runs */
} context;

/* The context of the function that runs, which tp_core_register has made. */
static inline context *get_context(lua_State *L)
{
    return lua_touserdata(L, lua_upvalueindex(1));
}

/* ---- core_private.c ---- */

/* The work whose item runs; NULL outside of one. */
tp_work *tp_core_work(const context *ctx);

/* Puts functions into the field `name` of the table on top, which is made when it is not there, or into the table itself where name is
 * NULL. Their first upvalue is the caller's, the context. */
void tp_core_register(lua_State *L, const char *name, const luaL_Reg *functions);

int tp_core_push_message(lua_State *L, const tp_error *err); /* nil and the message; gives 2 */
int tp_core_push_refusal(lua_State *L, const tp_error *err, tp_failure_kind otherwise); /* and the failure's kind, see tp_failure_kind_of; gives 3 */

/* Fields of the table at index t, an absolute one. */
bool tp_core_get_boolean(lua_State *L, int t, const char *key);
double tp_core_get_number(lua_State *L, int t, const char *key, double otherwise);

/* The counted object at index; raises when it is not one of the type. */
void *tp_core_check_ref(lua_State *L, int index, const tp_ref_type *type);

/* So many seconds from now as uv_hrtime() will have it, UINT64_MAX for nil and none. */
uint64_t tp_core_deadline_after(lua_State *L, int index);

/* Raises "interrupted", at the line of users' code that waits, in the owner's state after tp_host_interrupt. */
void tp_core_check_interrupt(lua_State *L, context *ctx);

/* Is the value at index what tp_lua_core_raise_interrupt has raised last? */
bool tp_core_is_interrupt(lua_State *L, int index);

/* ---- core_pin.c ---- */

/* Keeps the table on top alive for as long as the block lives, and pops it. Raises out of memory. */
void tp_core_pin(lua_State *L, context *ctx, tp_block *b);

/* Lets go of what was returned. In the owner's thread. */
void tp_core_take_back(lua_State *L, context *ctx);

/* The state is about to be closed: its maps are cancelled, and nobody reads what is pinned any more. */
void tp_core_end_pins(context *ctx);

/* ---- core_array.c ---- */

/* The argument is the `memory` field of an array, a void * of FFI; raises for anything else. Borrowed. */
tp_array *tp_core_check_memory(lua_State *L, int index);

/* ---- core_job.c: for those who make inputs of the job at an index ---- */

/* The block is what the job is building, in the place of what it was, until it is pushed. Raises what is no job. */
void tp_core_build(lua_State *L, int job, tp_block *b);

/* Encodes n stack values from `first` as one more input. 0, or -1 with err set. */
int tp_core_add(lua_State *L, int job, int first, int n, tp_error *err);

/* Pushes what was built. Raises out of memory. */
void tp_core_push_built(lua_State *L, int job);

/* ---- core_random.c ---- */

tp_source *tp_core_source(const context *ctx); /* of who is starting a map or a call */

/* Pops the context. Puts math.randomseed in the place of LuaJIT's, whose state tells what was seeded before. */
void tp_core_open_random(lua_State *L, context *ctx);

/* ---- luv.c ---- */

/* Pops the context. Puts a loader for "luv" before the third of package.loaders; `package` is the index of package. */
void tp_core_open_luv(lua_State *L, int package);

/* Does anything that luv has in this state keep the loop alive? */
bool tp_core_has_luv_work(lua_State *L, const context *ctx);

/* ---- what core.c calls: each puts its functions into the table on top, as tp_core_register does ---- */

void tp_core_register_func(lua_State *L);
void tp_core_register_job(lua_State *L);
void tp_core_register_array(lua_State *L);
void tp_core_register_random(lua_State *L);
void tp_core_register_device(lua_State *L);
void tp_core_register_io(lua_State *L);
void tp_core_register_journal(lua_State *L);
void tp_core_register_command(lua_State *L);
void tp_core_register_lines(lua_State *L);
void tp_core_register_loop(lua_State *L);
void tp_core_register_luv(lua_State *L);

#endif
