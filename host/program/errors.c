/* errors.c: what users see of an error: its text, their own frames, and nothing of ours. */
#include "program/errors.h"

#include "program/process.h"
#include "program/signals.h"
#include "program/term.h"

#include <lauxlib.h>
#include <lua.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    SHOWN_MAX = 4096,  /* bytes of one error message that a terminal gets */
    FRAMES_FIRST = 12, /* frames of a traceback shown before and after the "..." */
    FRAMES_LAST = 9
};

static const char traceback_key[] = "tidepool.main.traceback";

/* Calls require(module)[name] with nargs values; nresults results. Raises what it raises. The
 * `require` is the one of the start, whatever the script did to the global. */
void tp_errors_require(lua_State *L, const char *module, const char *name, int nargs, int nresults)
{
    const int base = lua_gettop(L) - nargs + 1;     // args
    lua_getfield(L, LUA_REGISTRYINDEX, TP_REQUIRE_KEY);
    lua_pushstring(L, module);
    lua_call(L, 1, 1);                              // args module
    lua_getfield(L, -1, name);                      // args module fn
    lua_insert(L, base);
    lua_pop(L, 1);                                  // fn args
    lua_call(L, nargs, nresults);
}

/* ---- errors ---- */

static bool frame(lua_State *L, int level, lua_Debug *ar)
{
    return lua_getstack(L, level, ar) && lua_getinfo(L, "Sln", ar);
}

/* Is this frame the library's own, or a C function that the library or main.c called? Users are not
 * shown those. */
static bool is_ours(lua_State *L, int level, const lua_Debug *ar)
{
    lua_Debug caller;
    if (*ar->what != 'C')
        return tp_is_library(ar);
    return !*ar->namewhat || !frame(L, level + 1, &caller) || tp_is_library(&caller);
}

static int count_frames(lua_State *L)
{
    lua_Debug ar;
    int low = 0, high = 1;
    while (lua_getstack(L, high, &ar))
        low = high, high *= 2;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (lua_getstack(L, middle, &ar))
            low = middle;
        else
            high = middle;
    }
    return high;
}

/* Pushes "\n\tjob.lua:7: in function 'f'" for each frame of users' code from `level` on, "" when
 * there is none. */
static void push_traceback(lua_State *L, int level)
{
    const int frames = count_frames(L), top = lua_gettop(L);
    lua_Debug ar, caller;
    lua_pushliteral(L, "");
    for (; frame(L, level, &ar); level++) {
        if (level == FRAMES_FIRST && frames - FRAMES_LAST > level) {
            level = frames - FRAMES_LAST;
            lua_pushliteral(L, "\n\t...");
        }
        if (is_ours(L, level, &ar))
            continue;
        lua_pushfstring(L, "\n\t%s:", ar.short_src);
        if (ar.currentline > 0)
            lua_pushfstring(L, "%d:", ar.currentline);
        if (*ar.namewhat && !(frame(L, level + 1, &caller) && tp_is_library(&caller)))
            /* the name that its caller used */
            lua_pushfstring(L, " in function '%s'", ar.name);
        else if (*ar.what == 'm')
            lua_pushliteral(L, " in main chunk");
        else
            lua_pushfstring(L, " in function <%s:%d>", ar.short_src, ar.linedefined);
        lua_concat(L, lua_gettop(L) - top);
    }
    lua_concat(L, lua_gettop(L) - top);
}

static int l_describe(lua_State *L)
{
    tp_errors_require(L, "tidepool.base.show", "error", 1, 1);
    return 1;
}

/* Pushes the text for the error value on the top, which stays. */
void tp_errors_push_description(lua_State *L)
{
    if (lua_type(L, -1) == LUA_TSTRING || lua_type(L, -1) == LUA_TNUMBER) {
        lua_pushvalue(L, -1);
        lua_tostring(L, -1);
        return;
    }
    lua_pushcfunction(L, l_describe);
    lua_pushvalue(L, -2);                           // value l_describe value
    if (lua_pcall(L, 1, 1, 0) == 0 && lua_isstring(L, -1))
        return;
    lua_pop(L, 1);
    lua_pushfstring(L, "(error object is a %s)", luaL_typename(L, -1));
}

/* The message handler: makes a text of any error value, and stores the traceback in the registry.
 * nil stays nil: as in luajit, error(nil) ends the program without a message. */
static int on_error(lua_State *L)
{
    if (lua_isnoneornil(L, 1))
        return 0;
    push_traceback(L, 1);
    lua_setfield(L, LUA_REGISTRYINDEX, traceback_key);
    lua_settop(L, 1);
    tp_errors_push_description(L);
    return 1;
}

/* Bytes of the UTF-8 character at text, 0 when there is none or when it is a control character. */
static size_t printable(const unsigned char *text, size_t len)
{
    const unsigned char c = text[0];
    const size_t need =
        c < 0x80 ? 1 : c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
    if (need == 0 || need > len || (c < ' ' && c != '\n' && c != '\t') || c == 127)
        return 0;
    for (size_t i = 1; i < need; i++)
        if ((text[i] & 0xC0) != 0x80)
            return 0;
    return c == 0xC2 && text[1] < 0xA0 ? 0 : need;
}

/* Writes an error's text to stderr. On a terminal, control characters are left out and a long text
 * is cut. */
void tp_errors_print(const char *text, size_t len)
{
    const unsigned char *at = (const unsigned char *)text;
    const size_t shown = len > SHOWN_MAX ? SHOWN_MAX : len;
    if (!isatty(STDERR_FILENO)) {
        fwrite(text, 1, len, stderr);
        return;
    }
    for (size_t i = 0, n; i < shown; i += n) {
        n = printable(at + i, shown - i);
        if (n)
            fwrite(at + i, 1, n, stderr);
        else
            fprintf(stderr, "\\%03d", at[i]), n = 1;
    }
    if (len > shown)
        fprintf(stderr, "... (%zu bytes more)", len - shown);
}

/* Shows the text on the top and, if there is one, the traceback; pops the text. */
static void show_error(lua_State *L, const char *traceback)
{
    size_t len = 0;
    const char *text = lua_tolstring(L, -1, &len);
    if (!tp_process.signal) { /* a signal's end has a line of its own */
        tp_term_show("", 0);
        tp_term_hide();
        tp_term_end_line();
        fflush(stdout);
        if (tp_process.session == TP_NO_SESSION)
            fputs("tidepool: ", stderr);
        const bool coloured =
            (tp_process.session != TP_NO_SESSION || tp_process.colours == TP_ALWAYS) &&
            tp_term_has_colours(STDERR_FILENO);
        fputs(coloured ? "\033[31m" : "", stderr);
        tp_errors_print(text ? text : "", len);
        fputs(coloured ? "\033[0m" : "", stderr);
        /* A Failure's text has the worker's traceback; ours is where it was raised again. */
        const char *title = text && strstr(text, "\nstack traceback:") ? "called from"
                                                                       : "stack traceback";
        if (traceback && *traceback) {
            fprintf(stderr, "\n%s:", title);
            tp_errors_print(traceback, strlen(traceback));
        }
        fputc('\n', stderr);
        tp_term_resume(true);
    }
    lua_pop(L, 1);
}

void tp_errors_show(lua_State *L)
{
    show_error(L, NULL);
}

bool tp_errors_call(lua_State *L, int nargs, int nresults)
{
    const int base = lua_gettop(L) - nargs;         // fn args
    lua_pushcfunction(L, on_error);
    lua_insert(L, base);                            // handler fn args
    const int failed = lua_pcall(L, nargs, nresults, base);
    lua_remove(L, base);                            // results, or text
    if (!failed)
        return true;
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        return false;
    }
    if (failed == LUA_ERRRUN)
        lua_getfield(L, LUA_REGISTRYINDEX, traceback_key);
    else
        lua_pushnil(L);                             // text traceback
    lua_insert(L, -2);                              // traceback text
    show_error(L, lua_tostring(L, -2));
    lua_pop(L, 1);
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, traceback_key);
    return false;
}

/* (module, name, ...): tp_errors_require as a Lua function, so that it can be called protected. */
static int l_call_module(lua_State *L)
{
    const char *module = lua_tostring(L, 1), *name = lua_tostring(L, 2);
    tp_errors_require(L, module, name, lua_gettop(L) - 2, LUA_MULTRET);
    return lua_gettop(L) - 2;
}

bool tp_errors_call_module(lua_State *L, const char *module, const char *name, int nargs,
                         int nresults)
{
    const int base = lua_gettop(L) - nargs + 1;     // args
    lua_pushcfunction(L, l_call_module);
    lua_insert(L, base);                            // fn args
    lua_pushstring(L, module);
    lua_insert(L, base + 1);                        // fn module args
    lua_pushstring(L, name);
    lua_insert(L, base + 2);                        // fn module name args
    return tp_errors_call(L, nargs + 2, nresults);
}
