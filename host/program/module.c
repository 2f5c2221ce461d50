/* module.c: what `require "tidepool"` finds in a program that does not embed us: stock luajit,
 * Neovim.
 *
 * The module is one file with its Lua code inside. It is not linked to LuaJIT, since the program
 * has one. The host belongs to the program's Lua state and ends with it. What workers print goes to
 * the standard outputs; in an editor, whose screen that would spoil, it is stored until Lua code
 * fetches it (core.printed). */
#include "host.h"
#include "codec/codec.h"
#include "program/engine.h"
#include "program/pocl_cache.h"
#include "lua/core.h"

#include <dlfcn.h>
#include <lauxlib.h>
#include <lua.h>
#include <luajit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REST_MS = 1000 }; /* how long workers may take to come to rest when the state is closed */

/* Owned by a userdata of the state: the first one that the module makes, since a closing state
 * finalizes it last. */
typedef struct module {
    tp_host *host;
    /* what was printed to 1 and 2 and not fetched yet; guarded by host->print_lock */
    tp_buf printed[2];
    tp_buf fetched;    /* the owner's */
} module;

/* tp_config.write. One call is one fwrite, so lines stay whole. */
static void write_line(void *user, int fd, const char *bytes, size_t len)
{
    (void)user;
    FILE *to = fd == 2 ? stderr : stdout;
    fwrite(bytes, 1, len, to);
    fflush(to);
}

/* tp_config.write in an editor, called with print_lock held. Without memory the line is lost. */
static void keep_line(void *user, int fd, const char *bytes, size_t len)
{
    module *m = user;
    tp_buf *b = &m->printed[fd == 2];
    if (tp_buf_add(b, bytes, len) == 0)
        uv_async_send(&m->host->wake_up);
}

/* core.printed(fd) -> what was printed since the last call, or nil. Upvalue 1 is the module. */
static int l_printed(lua_State *L)
{
    module *m = *(module **)lua_touserdata(L, lua_upvalueindex(1));
    tp_buf *b = &m->printed[luaL_checkinteger(L, 1) == 2];
    tp_buf_free(&m->fetched);
    uv_mutex_lock(&m->host->print_lock);
    m->fetched = *b;
    *b = (tp_buf){ 0 };
    uv_mutex_unlock(&m->host->print_lock);
    if (m->fetched.len == 0)
        return 0;
    lua_pushlstring(L, (const char *)m->fetched.data, m->fetched.len);
    return 1;
}

/* core.close_host(milliseconds) -> whether all workers have ended by then. Nothing runs after it.
 * For a program that ends without closing its Lua state. */
static int l_close_host(lua_State *L)
{
    module *m = *(module **)lua_touserdata(L, lua_upvalueindex(1));
    lua_pushboolean(L, tp_host_stop(m->host, (unsigned)luaL_checkinteger(L, 1)) == 0);
    return 1;
}

static void free_module(module *m)
{
    for (int i = 0; i < 2; i++)
        tp_buf_free(&m->printed[i]);
    tp_buf_free(&m->fetched);
    free(m);
}

/* Keeps this library loaded when the state, which is being closed, unloads its modules: our threads
 * still run code of it. */
static void stay_loaded(void)
{
    Dl_info info;
    if (dladdr(write_line, &info))
        dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
}

/* Closes the host when the state is closed. If an item does not end in time, the program must not
 * wait for it: everything that the item needs then stays in memory until the process ends. */
static int close_module(lua_State *L)
{
    module **box = lua_touserdata(L, 1), *m = *box;
    *box = NULL;
    if (!m)
        return 0;
    /* this may be another thread than the one that opened the state */
    if (tp_host_free_within(m->host, REST_MS))
        free_module(m);
    else
        stay_loaded();
    return 0;
}

/* Opens a host that L owns, and leaves the module's userdata on the stack. Raises. */
static module *open_module(lua_State *L, bool is_editor)
{
    tp_error err = { 0 };
    module **box = lua_newuserdata(L, sizeof *box);
    *box = NULL;
    lua_newtable(L);
    lua_pushcfunction(L, close_module);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    luaL_ref(L, LUA_REGISTRYINDEX);
    module *m = *box = calloc(1, sizeof *m);
    if (!m)
        tp_codec_raise_memory(L);
    char path[4096], state[4096];
    tp_config config = {
        .size = sizeof config,
        .write = is_editor ? keep_line : write_line,
        .user = m,
        .opencl = getenv("TIDEPOOL_OPENCL"),
        .cache_dir = tp_caches_own(path, sizeof path),
        .state_dir = tp_caches_state(state, sizeof state),
        .worker = getenv("TIDEPOOL_WORKER"),
    };
    char token[TP_TOKEN_TEXT];
    const char *engine = getenv("TIDEPOOL_ENGINE");
    config.engine = engine && *engine ? engine : NULL;
    config.token = config.engine ? tp_engine_find_token(true, token) : NULL;
    if (tp_host_open(&m->host, &config, &err))
        luaL_error(L, "tidepool: %s", err.message);
    return m;
}

static void require(lua_State *L, const char *name)
{
    lua_getglobal(L, "require");
    lua_pushstring(L, name);
    lua_call(L, 1, 1);
}

/* The Lua API's symbols are weak here (see the Makefile): in a Lua that is not LuaJIT, those that
 * only LuaJIT has are missing. Functions called before that is checked exist in all versions of
 * Lua. */
TP_API int luaopen_tidepool(lua_State *L);

int luaopen_tidepool(lua_State *L)
{
    int (*volatile set_mode)(lua_State *, int, int) = luaJIT_setmode;
    if (!set_mode)
        return luaL_error(L, "tidepool needs LuaJIT 2.1, and this is another Lua");
    lua_settop(L, 0);
    lua_getglobal(L, "jit");
    lua_getfield(L, -1, "version_num");
    if (lua_tointeger(L, -1) < 20100)
        return luaL_error(L, "tidepool needs LuaJIT 2.1, and this is %d",
                          (int)lua_tointeger(L, -1));
    lua_getglobal(L, "vim");
    bool is_editor = lua_istable(L, -1);
    lua_getglobal(L, "ngx");
    bool is_nginx = lua_istable(L, -1);
    lua_settop(L, 0);
    module *m = open_module(L, is_editor);        // module
    tp_error err = { 0 };
    if (tp_lua_core_open_protected(L, m->host, &err))
        return luaL_error(L, "tidepool: %s", err.message);
    require(L, "tidepool.core");                  // module core
    lua_pushvalue(L, 1);
    lua_pushcclosure(L, l_printed, 1);
    lua_setfield(L, -2, "printed");
    lua_pushvalue(L, 1);
    lua_pushcclosure(L, l_close_host, 1);
    lua_setfield(L, -2, "close_host");
    /* a plain `require "tidepool"` would find this module, which is being loaded */
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_getfield(L, -1, "package");
    lua_getfield(L, -1, "preload");
    lua_getfield(L, -1, "tidepool");
    lua_pushliteral(L, "tidepool");
    lua_call(L, 1, 1);                            // ... tidepool
    if (is_editor) {
        require(L, "tidepool.host.nvim");
        lua_pop(L, 1);
    } else {
        if (is_nginx) {
            require(L, "tidepool.host.nginx");
            lua_pop(L, 1);
        }
        require(L, "tidepool.engine.ending");
        lua_getfield(L, -1, "tell_at_end");
        lua_call(L, 0, 0);
        lua_pop(L, 1);
    }
    return 1;
}
