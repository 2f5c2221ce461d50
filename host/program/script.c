/* script.c: runs scripts, commands and options in the main state. */
#include "program/script.h"

#include "opencl/cl.h"
#include "program/errors.h"
#include "program/process.h"
#include "program/repl.h"
#include "program/signals.h"
#include "program/watch.h"
#include "tidepool.h"
#include "workers/texts.h"

#include <lauxlib.h>
#include <lua.h>
#include <luajit.h>
#include <uv.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- running ---- */

static void print_version(bool as_luajit)
{
    if (as_luajit)
        printf("%s -- Tidepool %s, libuv %s\n", LUAJIT_VERSION, TP_VERSION, uv_version_string());
    else {
        char loader[300];
        tp_cl_describe_loader(getenv("TIDEPOOL_OPENCL"), loader, sizeof loader);
        printf("Tidepool %s (%s, libuv %s, OpenCL loader: %s)\n", TP_VERSION, LUAJIT_VERSION,
               uv_version_string(), loader);
    }
}

/* Calls the chunk that luaL_load... left on the top; `status` is what that returned. */
static bool run_chunk(lua_State *L, int status, int nargs)
{
    if (status != 0) {
        tp_errors_show(L);
        return false;
    }
    lua_insert(L, -nargs - 1);
    return tp_errors_call(L, nargs, 0);
}



/* Compiles the text at the top and replaces it by the chunk; returns what luaL_loadbuffer returns.
 * The text is stored for the translator (workers/texts.h). */
static int load_text(lua_State *L, const char *name)
{
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);              // text
    tp_texts_keep(L, name);
    int status = luaL_loadbuffer(L, text, len, name);           // text chunk or message
    lua_remove(L, -2);                                          // chunk or message
    return status;
}

static bool run_string(lua_State *L, const char *code, const char *name)
{
    lua_pushstring(L, code);
    return run_chunk(L, load_text(L, name), 0);
}

/* Compiles all of standard input as luaL_loadfile(L, NULL) does, and stores its text as load_text
 * does. */
static int load_stdin(lua_State *L)
{
    luaL_Buffer text;
    luaL_buffinit(L, &text);
    size_t n;
    do {
        n = fread(luaL_prepbuffer(&text), 1, LUAL_BUFFERSIZE, stdin);
        luaL_addsize(&text, n);
    } while (n > 0);
    const int error = ferror(stdin) ? errno : 0;
    luaL_pushresult(&text);
    if (!error)
        return load_text(L, "=stdin");
    lua_pushfstring(L, "cannot read stdin: %s", strerror(error));
    lua_remove(L, -2);
    return LUA_ERRFILE;
}

bool tp_script_run_init(lua_State *L)
{
    const char *init = getenv("LUA_INIT");
    if (!init)
        return true;
    if (*init == '@')
        return run_chunk(L, luaL_loadfile(L, init + 1), 0);
    return run_string(L, init, "=LUA_INIT");
}

/* Runs -e, -l, -j and -O in their order. Stops at the first error. */
bool tp_script_run_options(lua_State *L, const tp_options *o)
{
    for (int i = 1; i < o->end; i++) {
        const char *word = o->argv[i], *argument = word + 2, *name;
        bool fine = true;
        if (tp_options_takes_next(word, o->argv[i + 1]))
            argument = o->argv[++i];
        if (word[1] == '-' || word[1] == 'w')
            continue; /* an option of the host's, which tp_options_parse has read */
        lua_pushstring(L, argument);
        switch (word[1]) {
        case 'e':
            fine = run_string(L, argument, "=(command line)");
            break;
        case 'p':
            lua_pushfstring(L, "print(%s\n)", argument);
            lua_replace(L, -2);
            fine = run_string(L, lua_tostring(L, -1), "=(command line)");
            break;
        case 'l':
            lua_getfield(L, LUA_REGISTRYINDEX, TP_REQUIRE_KEY);
            lua_pushvalue(L, -2);
            fine = tp_errors_call(L, 1, 0);
            break;
        case 'j':
        case 'O':
            name = word[1] == 'j' ? "jit" : "optimise";
            lua_pushvalue(L, -1);
            fine = tp_errors_call_module(L, "tidepool.program.cli", name, 1, 0);
            break;
        }
        if (!fine)
            return false;
        lua_pop(L, 1);
    }
    return true;
}

/* arg[0] is the script, arg[1] its first argument, arg[-1] the word before the script. */
void tp_script_set_arg(lua_State *L, const tp_options *o)
{
    lua_createtable(L, o->argc, o->script + 1);
    for (int i = 0; i < o->argc; i++) {
        lua_pushstring(L, o->argv[i]);
        lua_rawseti(L, -2, i - o->script);
    }
    lua_setglobal(L, "arg");
}

/* A loader of modules that finds none: it reports to the watching process (watch.h) which file is
 * about to be loaded. Upvalue: the descriptor. */
static int report_module(lua_State *L)
{
    static const char *const paths[] = { "path", "cpath" };
    for (int i = 0; i < 2; i++) {
        lua_getglobal(L, "package");
        lua_getfield(L, -1, "searchpath");
        lua_pushvalue(L, 1);
        lua_getfield(L, -3, paths[i]);
        lua_call(L, 2, 1);
        char *path = lua_isstring(L, -1) ? realpath(lua_tostring(L, -1), NULL) : NULL;
        if (path)
            tp_watch_report((int)lua_tointeger(L, lua_upvalueindex(1)), path);
        free(path);
        if (path)
            break;
    }
    return 0;
}

/* From here on the files that the script requires are reported to the watching process
 * (watch.h). */
void tp_script_report_modules(lua_State *L, const tp_options *o)
{
    if (!o->watch_fd)
        return;
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "loaders");
    for (int i = (int)lua_objlen(L, -1); i > 0; i--) {
        lua_rawgeti(L, -1, i);
        lua_rawseti(L, -2, i + 1);
    }
    lua_pushinteger(L, o->watch_fd);
    lua_pushcclosure(L, report_module, 1);
    lua_rawseti(L, -2, 1);
    lua_pop(L, 2);
}

/* Pushes the words from argv[first] on; returns how many. */
static int push_words(lua_State *L, const tp_options *o, int first)
{
    const int n = first < o->argc ? o->argc - first : 0;
    luaL_checkstack(L, n, "too many arguments");
    for (int i = first; i < o->argc; i++)
        lua_pushstring(L, o->argv[i]);
    return n;
}

/* Calls the entry that the script has made with app:main, if there is one; `source` is the name of
 * the script's chunk. */
static bool run_entry(lua_State *L, tp_options *o, const char *name, const char *source)
{
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_getfield(L, -1, "tidepool.app");
    const bool has_apps = lua_istable(L, -1);
    lua_pop(L, 2);
    if (!has_apps)
        return true;
    lua_pushstring(L, source);
    if (!tp_errors_call_module(L, "tidepool.app", "has_entries", 1, 1))
        return false;
    const bool has_entries = lua_toboolean(L, -1);
    lua_pop(L, 1);
    if (!has_entries)
        return true;
    lua_pushstring(L, name);
    lua_pushstring(L, source);
    const int nargs = 2 + push_words(L, o, o->script + 1);
    if (!tp_errors_call_module(L, "tidepool.program.run", "script", nargs, 2))
        return false;
    o->code = (int)lua_tointeger(L, -2);
    if (lua_isstring(L, -1))
        tp_errors_show(L);
    return true;
}

static bool run_script(lua_State *L, tp_options *o)
{
    const char *name = o->argv[o->script];
    const bool from_stdin = strcmp(name, "-") == 0 && strcmp(o->argv[o->script - 1], "--") != 0;
    const int nargs = push_words(L, o, o->script + 1);
    const int status = from_stdin ? load_stdin(L) : luaL_loadfile(L, name);
    const char *near = status == LUA_ERRFILE && !strpbrk(name, "./")
                           ? tp_options_nearest(name, tp_options_commands)
                           : NULL;
    if (near) {
        lua_pushfstring(L, "%s (did you mean tidepool %s?)", lua_tostring(L, -1), near);
        lua_remove(L, -2);
    }
    if (!run_chunk(L, status, nargs))
        return false;
    if (from_stdin)
        return run_entry(L, o, "-", "=stdin");
    const char *source = lua_pushfstring(L, "@%s", name);
    return run_entry(L, o, name, source);
}

/* Calls a command's Lua function with the words after the command. It returns an exit code and,
 * when it was used wrongly, a line that says how. */
static bool run_command(lua_State *L, tp_options *o)
{
    static const struct { const char *module, *name;
    } functions[] = {
        [RUN] = { "tidepool.program.run", "main" },
        [MAP] = { "tidepool.program.pipe", "main" },
        [DEVICES] = { "tidepool.program.cli", "devices" },
        [JOURNAL] = { "tidepool.program.journals", "main" },
        [REPLAY] = { "tidepool.program.replay", "main" },
        [CACHE] = { "tidepool.program.caches", "main" },
        [NEW] = { "tidepool.program.new", "main" },
        [HELP] = { "tidepool.program.cli", "help" },
        [BYTECODE] = { "tidepool.program.cli", "bytecode" },
    };
    const int nargs = push_words(L, o, o->script);
    if (!tp_errors_call_module(L, functions[o->command].module, functions[o->command].name, nargs,
                               2))
        return false;
    o->code = (int)lua_tointeger(L, -2);
    if (lua_isstring(L, -1))
        tp_errors_show(L);
    return true;
}

void tp_script_leave(lua_State *L)
{
    static const char module[] = "tidepool.engine.instances";
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_getfield(L, -1, module);
    if (lua_istable(L, -1) && !tp_errors_call_module(L, module, "leave", 0, 0))
        tp_errors_show(L);
    lua_pop(L, 2);
}

/* Waits for what the script has spawned, and for what luv has under way. Failures that the script
 * has not asked about are shown, and make the exit code 1. */
bool tp_script_run_loop(lua_State *L, const tp_options *o)
{
    bool fine = true;
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");  // loaded
    lua_getfield(L, -1, "tidepool");
    lua_getfield(L, -2, "luv");
    if (lua_isnil(L, -1) && lua_isnil(L, -2))
        return true;
    lua_getfield(L, -3, "tidepool.engine.loop");    // loaded tidepool luv loop
    if (!lua_istable(L, -1))
        return true;
    if (!tp_errors_call_module(L, "tidepool.engine.loop", "has_ending", 0, 1))
        return false;
    if (!lua_toboolean(L, -1))
        return true;
    lua_pushstring(L, o->was_session ? "session" : "script");
    if (!tp_errors_call_module(L, "tidepool.engine.ending", "finish", 1, 1)) // failures
        return false;
    for (int i = 1; lua_istable(L, -1) && i <= (int)lua_objlen(L, -1); i++) {
        lua_rawgeti(L, -1, i);
        tp_errors_push_description(L);
        tp_errors_show(L);
        lua_pop(L, 1);
        fine = false;
    }
    return fine;
}

bool tp_script_run_main(lua_State *L, tp_options *o)
{
    const bool has_script = o->script < o->argc, reads_terminal = isatty(STDIN_FILENO);
    if (o->command == VERSION) {
        print_version(false);
        return true;
    }
    if (o->command != SCRIPT)
        return run_command(L, o);
    if (has_script && !run_script(L, o))
        return false;
    if (tp_options_have_session(o)) {
        tp_process.session = TP_SESSION_PROMPT; /* from now on Ctrl-C stops lines of the session */
        if (!o->quiet && !o->interactive)
            print_version(true);
        if (!o->quiet && reads_terminal)
            puts("help() tells what there is; Ctrl-D ends the session.");
        o->was_session = true;
        o->is_left = tp_repl_run(L);
    } else if (!has_script && !o->executes && !o->version) {
        return run_chunk(L, load_stdin(L), 0) && run_entry(L, o, "-", "=stdin");
    }
    return true;
}

/* Prints the version where the options ask for it, after LUA_INIT and before all else, as luajit
 * does. Always true. */
bool tp_script_greet(const tp_options *o)
{
    if (o->version || (o->interactive && !o->quiet))
        print_version(true);
    return true;
}
