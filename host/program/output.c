/* output.c: writes output in whole pieces, and notices when it gets lost. */
#include "program/output.h"

#include "program/errors.h"
#include "program/process.h"
#include "program/signals.h"
#include "program/term.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { UNKNOWN_ERROR = -1 /* the errno of a failed write that stdio has not kept */ };

/* If descriptor 0, 1 or 2 is closed, the next file or socket would get its number. So it gets
 * /dev/null, opened in the wrong direction: reading standard input and writing standard output
 * still fail with "Bad file descriptor". */
void tp_output_open(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF &&
            open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd)
            _exit(EXIT_FAILURE);
    tp_term_open();
}

/* ---- standard output and the end ---- */

static void note_write_error(void)
{
    int none = 0;
    atomic_compare_exchange_strong(&tp_process.write_error, &none, errno ? errno : UNKNOWN_ERROR);
}

/* tp_config.write. Each call is one fwrite, so lines of workers and of the main thread stay
 * whole. */
void tp_output_write(void *user, int fd, const char *bytes, size_t len)
{
    (void)user;
    if (tp_term_write(fd == STDERR_FILENO ? stderr : stdout, bytes, len) < len &&
        fd != STDERR_FILENO)
        note_write_error();
}

/* Flushes stdout. Returns code, or the exit code for lost output. When the reader has gone away,
 * ends the process as SIGPIPE would have. */
int tp_output_flush(int code)
{
    /* A write to a terminal that a signal has interrupted is marked as an error, but has lost
     * nothing: stdio keeps the bytes, and writes them with the next ones. */
    if (isatty(STDOUT_FILENO))
        clearerr(stdout);
    errno = 0; /* ferror may tell of an earlier failed print, whose errno is gone */
    if (fflush(stdout) != 0 || ferror(stdout))
        note_write_error();
    const int why = atomic_load(&tp_process.write_error);
    if (!why)
        return code;
    if (why == EPIPE && !tp_process.pipe_ignored)
        tp_signals_die_by(SIGPIPE);
    fprintf(stderr, "tidepool: cannot write to standard output: %s\n",
            why == UNKNOWN_ERROR ? "an earlier write failed" : strerror(why));
    return code ? code : EXIT_FAILURE;
}

/* ---- progress ---- */

static int l_term_line(lua_State *L)
{
    size_t len;
    const char *text = luaL_checklstring(L, 1, &len);
    tp_term_show(text, len);
    return 0;
}

static int l_term_note(lua_State *L)
{
    size_t len;
    luaL_checkstring(L, 1);
    lua_pushvalue(L, 1);
    lua_pushliteral(L, "\n");
    lua_concat(L, 2);
    const char *text = lua_tolstring(L, -1, &len);
    tp_term_write(stderr, text, len);
    return 0;
}

static int l_term_width(lua_State *L)
{
    lua_pushinteger(L, tp_term_width(STDERR_FILENO));
    return 1;
}

/* print of the main state: writes in one piece, so that lines of workers do not get into it.
 * Otherwise as luajit's: it calls the global tostring. */
static int l_print_whole(lua_State *L)
{
    const int n = lua_gettop(L);
    lua_getglobal(L, "tostring");                   // values tostring
    for (int i = 1; i <= n; i++) {
        lua_pushvalue(L, n + 1);
        lua_pushvalue(L, i);
        lua_call(L, 1, 1);
        if (!lua_tostring(L, -1))
            return luaL_error(L, "'tostring' must return a string to 'print'");
        lua_replace(L, i);
    }
    size_t len = (size_t)(n > 0 ? n : 1);           /* tabs and the line end */
    for (int i = 1; i <= n; i++)
        len += lua_objlen(L, i);
    tp_term_lock(stdout, len); /* nothing below can raise while the lock is held */
    for (int i = 1; i <= n; i++) {
        size_t bytes;
        const char *text = lua_tolstring(L, i, &bytes);
        if (i > 1)
            putc_unlocked('\t', stdout);
        fwrite_unlocked(text, 1, bytes, stdout);
    }
    putc_unlocked('\n', stdout);
    tp_term_unlock(stdout, len);
    return 0;
}

/* Calls upvalue 1, a function that writes, with all arguments, while the progress line is
 * hidden. */
static int write_around_line(lua_State *L, bool at_line_start)
{
    const int n = lua_gettop(L);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    tp_term_hide();
    lua_call(L, n, LUA_MULTRET);
    tp_term_resume(at_line_start || !isatty(STDOUT_FILENO));
    return lua_gettop(L);
}

static int l_print(lua_State *L)
{
    return write_around_line(L, true);
}

/* io.write(...) and file:write(...); upvalue 2 is how many arguments come before the texts. */
static int l_write(lua_State *L)
{
    const int n = lua_gettop(L), first = (int)lua_tointeger(L, lua_upvalueindex(2)) + 1;
    size_t len = 0;
    const char *text = "";
    /* the same check as the stock function's, but with a name in the message */
    for (int i = first; i <= n; i++) {
        const char *argument = luaL_checklstring(L, i, &len);
        text = len ? argument + len - 1 : text;
    }
    if (first == 2) {
        FILE **file = luaL_checkudata(L, 1, LUA_FILEHANDLE);
        if (*file != stdout && *file != stderr) {
            lua_pushvalue(L, lua_upvalueindex(1));
            lua_insert(L, 1);
            lua_call(L, n, LUA_MULTRET);
            return lua_gettop(L);
        }
    }
    return write_around_line(L, *text == '\n');
}

/* Replaces a function in the table on the top; `before`: see l_write. */
static void wrap(lua_State *L, const char *name, lua_CFunction fn, int before)
{
    lua_getfield(L, -1, name);
    lua_pushinteger(L, before);
    lua_pushcclosure(L, fn, 2);
    lua_setfield(L, -2, name);
}

/* Makes the main state write above a progress line or a line that is being typed. Must come before
 * the host is opened in the state, which registers these functions as builtins. */
void tp_output_guard(lua_State *L, const char *progress)
{
    lua_pushcfunction(L, l_print_whole);
    lua_setglobal(L, "print");
    if (strcmp(progress, "line") != 0 && !isatty(STDOUT_FILENO))
        return;
    lua_pushvalue(L, LUA_GLOBALSINDEX);
    wrap(L, "print", l_print, 0);
    lua_getglobal(L, "io");
    wrap(L, "write", l_write, 0);
    luaL_getmetatable(L, LUA_FILEHANDLE);
    lua_getfield(L, -1, "__index");
    wrap(L, "write", l_write, 1);
    lua_pop(L, 4);
}

const char *tp_output_choose_progress(const char *given, bool is_quiet)
{
    if (is_quiet)
        return "off";
    if (given)
        return given;
    return tp_term_is_capable(STDERR_FILENO) && !tp_is_set("CI") ? "line" : "off";
}

void tp_output_open_progress(lua_State *L, const char *mode)
{
    if (strcmp(mode, "off") == 0)
        return;
    lua_pushstring(L, mode);
    lua_pushcfunction(L, l_term_line);
    lua_pushcfunction(L, l_term_note);
    lua_pushcfunction(L, l_term_width);
    tp_errors_require(L, "tidepool.engine.progress", "display", 4, 0);
}
