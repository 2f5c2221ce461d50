/* core_io.c: what Lua code writes through the host, and the commands that it runs. */
#include "lua/core_private.h"

#include "base/sigmask.h"
#include "workers/lines.h"
#include "workers/workers.h"

#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

/* Writes what the state prints: a worker's in whole lines, the owner's at once. */
static void write_lines(const context *ctx, int fd, const char *bytes, size_t len)
{
    if (ctx->agent)
        tp_lines_write(&ctx->agent->worker, fd, bytes, len);
    else
        tp_host_print(ctx->host, fd, bytes, len);
}

/* core.io.print(...): Lua's print, as one whole line through the host */
static int l_io_print(lua_State *L)
{
    int n = lua_gettop(L);
    luaL_Buffer line;
    lua_getglobal(L, "tostring");              // ... tostring
    for (int i = 1; i <= n; i++) {
        lua_pushvalue(L, n + 1);
        lua_pushvalue(L, i);
        lua_call(L, 1, 1);
        if (!lua_isstring(L, -1))
            return luaL_error(L, "'tostring' must return a string to 'print'");
        lua_replace(L, i);
    }
    luaL_buffinit(L, &line);
    for (int i = 1; i <= n; i++) {
        if (i > 1)
            luaL_addchar(&line, '\t');
        lua_pushvalue(L, i);
        luaL_addvalue(&line);
    }
    luaL_addchar(&line, '\n');
    luaL_pushresult(&line);
    size_t len;
    const char *bytes = lua_tolstring(L, -1, &len);
    const context *ctx = get_context(L);
    write_lines(ctx, 1, bytes, len);
    return 0;
}

/* file:write(...), or io.write(...), of a worker. Upvalues: the context, the stock function, and
 * io.output for io.write. What goes to standard output or error goes through the host, as printed
 * lines do. */
static int l_write(lua_State *L)
{
    const context *ctx = get_context(L);
    const bool is_method = lua_isnil(L, lua_upvalueindex(3));
    const int n = lua_gettop(L), first = is_method ? 2 : 1;
    if (!is_method) {
        lua_pushvalue(L, lua_upvalueindex(3));
        lua_call(L, 0, 1);                          // texts file
    }
    FILE **file = luaL_checkudata(L, is_method ? 1 : n + 1, LUA_FILEHANDLE);
    const int fd = *file ? fileno(*file) : -1; /* NULL: the file is closed */
    lua_settop(L, n);
    if (fd == STDOUT_FILENO || fd == STDERR_FILENO) {
        luaL_Buffer text;
        size_t len;
        for (int i = first; i <= n; i++)
            luaL_checklstring(L, i, NULL);
        luaL_buffinit(L, &text);
        for (int i = first; i <= n; i++) {
            lua_pushvalue(L, i);
            luaL_addvalue(&text);
        }
        luaL_pushresult(&text);
        const char *bytes = lua_tolstring(L, -1, &len);
        write_lines(ctx, fd, bytes, len);
        /* the stock function is called with the rest, possibly nothing, for its results */
        lua_settop(L, first - 1);
    }
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

/* core.io.writer(stock function, io.output or nil) -> the function that replaces it in a worker */
static int l_io_writer(lua_State *L)
{
    lua_settop(L, 2);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_pushcclosure(L, l_write, 3);
    return 1;
}

/* core.io.warn(text): a line for stderr through the host */
static int l_io_warn(lua_State *L)
{
    size_t len;
    const char *bytes = luaL_checklstring(L, 1, &len);
    const context *ctx = get_context(L);
    if (ctx->agent)
        ctx->agent->worker.type->write(&ctx->agent->worker, 2, bytes, len);
    else
        tp_host_print(ctx->host, 2, bytes, len);
    return 0;
}

/* posix_spawn of the shell. Commands begin with the signal mask that the program itself has, not
 * with a worker's, which blocks nearly all. */
static int spawn_shell(pid_t *pid, const tp_host *host, const char *command)
{
    char *const words[] = { "sh", "-c", (char *)command, NULL };
    posix_spawnattr_t attributes;
    bool is_owner = tp_host_check_owner(host, NULL) == 0;
    int status = posix_spawnattr_init(&attributes);
    if (status)
        return status;
    if (!is_owner) {
        posix_spawnattr_setsigmask(&attributes, &host->sigmask);
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    }
    status = posix_spawn(pid, "/bin/sh", NULL, &attributes, words, environ);
    posix_spawnattr_destroy(&attributes);
    return status;
}

/* core.io.execute(command) -> status: os.execute for workers. C's system() would make the whole
 * process ignore SIGINT while it waits: Ctrl-C during a map of commands would then end only the
 * commands. */
static int l_io_execute(lua_State *L)
{
    const char *command = luaL_optstring(L, 1, NULL);
    pid_t pid;
    int status = -1;
    if (!command)
        status = access("/bin/sh", X_OK) == 0;
    else if (spawn_shell(&pid, get_context(L)->host, command) == 0)
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
    lua_pushinteger(L, status);
    return 1;
}

/* io.popen of a worker. Upvalues: the context, the stock function. A command inherits the signal
 * mask of the thread that starts it, so the thread has the program's mask during popen, which
 * blocks all signals itself but for some microseconds. */
static int l_popen(lua_State *L)
{
    sigset_t before;
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_insert(L, 1);
    tp_sigmask_set(&get_context(L)->host->sigmask, &before);
    int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
    tp_sigmask_set(&before, NULL);
    return status ? lua_error(L) : lua_gettop(L);
}

/* core.io.opener(io.popen) -> the function that replaces it in a worker */
static int l_io_opener(lua_State *L)
{
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_pushcclosure(L, l_popen, 2);
    return 1;
}

static const luaL_Reg io_functions[] = {
    { "print", l_io_print },
    { "writer", l_io_writer },
    { "warn", l_io_warn },
    { "execute", l_io_execute },
    { "opener", l_io_opener },
    { NULL, NULL },
};

void tp_core_register_io(lua_State *L)
{
    tp_core_register(L, "io", io_functions);
}
