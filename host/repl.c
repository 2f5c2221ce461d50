/* repl.c: the interactive session: reads lines, runs them, shows what they give.
 *
 * On a terminal lines are edited with libedit and kept in a history file; otherwise standard input
 * is read as it is. A chunk that is not finished goes on in the next line. A chunk that is an
 * expression is shown without `=`. Each chunk is compiled by itself, so a local ends with it; the
 * session says so once.
 *
 * Signals, error texts and the way out are main.c's. */
#include "repl.h"

#include <lauxlib.h>
#include <lua.h>
#include <luajit.h>

#include <dlfcn.h>
#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HISTORY_LINES = 2000, DEFAULT_WIDTH = 80 };

typedef enum answer { LINE, INTERRUPTED, END } answer;

/* libedit, which is loaded when a session begins: with the three libraries that it needs it would take a quarter of
 * a ms from each start of the program, and scripts have no use for it. Filled by load_libedit. */
static struct {
    __typeof__(el_init) *init;
    __typeof__(el_end) *end;
    __typeof__(el_get) *get;
    __typeof__(el_set) *set;
    __typeof__(el_gets) *gets;
    __typeof__(el_resize) *resize;
    __typeof__(history) *history;
    __typeof__(history_init) *history_init;
    __typeof__(history_end) *history_end;
} edit;

/* Where lines come from. Made and used by tp_repl_run only. */
typedef struct reader {
    EditLine *el; /* NULL: plain reading */
    History *history;
    char *history_path; /* NULL: not kept */
    const char *prompt;
    char *plain; /* getline's buffer */
    size_t plain_size;
} reader;

/* ---- lines ---- */

static bool load_libedit(void)
{
    const struct {
        const char *name;
        void *to;
    } functions[] = {
        { "el_init", &edit.init },
        { "el_end", &edit.end },
        { "el_get", &edit.get },
        { "el_set", &edit.set },
        { "el_gets", &edit.gets },
        { "el_resize", &edit.resize },
        { "history", &edit.history },
        { "history_init", &edit.history_init },
        { "history_end", &edit.history_end },
    };
    void *library = dlopen("libedit.so.2", RTLD_LAZY);
    if (!library)
        return false;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void *address = dlsym(library, functions[i].name);
        if (!address)
            return false;
        memcpy(functions[i].to, &address, sizeof address);
    }
    return true;
}

static char *prompt_of(EditLine *el)
{
    reader *r = NULL;
    edit.get(el, EL_CLIENTDATA, &r);
    return (char *)r->prompt;
}

/* $XDG_STATE_HOME/tidepool/history, with its folders made; NULL when there is no place for it. The
 * caller frees. */
static char *make_history_path(void)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char *path = NULL;
    int len = -1;
    if (state && *state == '/')
        len = asprintf(&path, "%s/tidepool/history", state);
    else if (home && *home == '/')
        len = asprintf(&path, "%s/.local/state/tidepool/history", home);
    if (len < 0)
        return NULL;
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST) {
            free(path);
            return NULL;
        }
        *slash = '/';
    }
    return path;
}

static void open_reader(reader *r)
{
    HistEvent event;
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO) || !load_libedit())
        return;
    setlocale(LC_CTYPE, ""); /* libedit reads characters, not bytes */
    r->el = edit.init("tidepool", stdin, stdout, stderr);
    if (!r->el)
        return;
    edit.set(r->el, EL_CLIENTDATA, r);
    edit.set(r->el, EL_PROMPT, prompt_of);
    edit.set(r->el, EL_EDITOR, "emacs");
    edit.set(r->el, EL_BIND, "^R", "em-inc-search-prev", NULL);
    r->history = edit.history_init();
    if (!r->history)
        return;
    edit.history(r->history, &event, H_SETSIZE, HISTORY_LINES);
    edit.history(r->history, &event, H_SETUNIQUE, 1);
    edit.set(r->el, EL_HIST, edit.history, r->history);
    r->history_path = make_history_path();
    if (r->history_path)
        edit.history(r->history, &event, H_LOAD, r->history_path);
}

static void close_reader(reader *r)
{
    if (r->history)
        edit.history_end(r->history);
    if (r->el)
        edit.end(r->el);
    free(r->history_path);
    free(r->plain);
}

/* Kept at once, so that no way of ending loses it. */
static void remember(reader *r, const char *line)
{
    HistEvent event;
    if (!r->history || line[strspn(line, " \t\n")] == '\0')
        return;
    edit.history(r->history, &event, H_ENTER, line);
    if (r->history_path)
        edit.history(r->history, &event, H_SAVE, r->history_path);
}

static const char *read_edited(reader *r)
{
    int count = 0;
    edit.resize(r->el);
    return edit.gets(r->el, &count);
}

static const char *read_plain(reader *r)
{
    const ssize_t len = getline(&r->plain, &r->plain_size, stdin);
    return len < 0 ? NULL : r->plain;
}

/* Reads one line. *line stays valid until the next call. */
static answer read_line(reader *r, const char *prompt, const char **line)
{
    r->prompt = prompt;
    for (;;) {
        tp_main_session(TP_SESSION_PROMPT);
        errno = 0;
        *line = r->el ? read_edited(r) : read_plain(r);
        const bool was_signal = errno == EINTR, interrupted = tp_main_session(TP_SESSION_LINE);
        if (interrupted || (!*line && (tp_main_ending() || !was_signal))) {
            if (r->el)
                fputs("\n", stdout);
            clearerr(stdin);
            return interrupted ? INTERRUPTED : END;
        }
        if (*line)
            return LINE;
        clearerr(stdin); /* some other signal: read on */
    }
}

/* ---- chunks ---- */

/* Compiles before .. text .. after; pushes the function or the error's text, returns
 * luaL_loadbuffer's status. */
static int load(lua_State *L, const char *before, const char *text, const char *after)
{
    const char *code = lua_pushfstring(L, "%s%s%s", before, text, after);
    const int status = luaL_loadbuffer(L, code, strlen(code), "=stdin");
    lua_remove(L, -2);
    return status;
}

/* Does the error's text on the top say that the chunk ended too early? */
static bool is_unfinished(lua_State *L, int status)
{
    static const char mark[] = "'<eof>'";
    const size_t mark_len = sizeof mark - 1;
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    return status == LUA_ERRSYNTAX && len >= mark_len && strcmp(text + len - mark_len, mark) == 0;
}

/* Compiles the text at the stack's top, as an expression if it is one; pushes and returns as
 * load() does. */
static int compile(lua_State *L)
{
    const char *text = lua_tostring(L, -1);
    const bool forced = *text == '=';
    text += forced;
    const int as_expression = load(L, "return ", text, "");  // text fn
    if (as_expression == 0) {
        lua_pop(L, 1);
        /* Not `return f()`: a tail call has no line of its own in a traceback. */
        return load(L, "return (function(...) return ... end)(", text, "\n)");
    }
    if (forced)
        return as_expression;
    const int as_statement = load(L, "", text, "");           // text error fn
    const bool begins_expression = as_statement != 0 && !is_unfinished(L, as_statement);
    lua_insert(L, -2);                                        // text fn error
    if (begins_expression && is_unfinished(L, as_expression)) {
        lua_remove(L, -2);
        return as_expression;
    }
    lua_pop(L, 1);
    return as_statement;
}

/* Reads lines until they make a chunk. LINE leaves the text and its function on the stack; the
 * others, or a chunk that does not compile (shown here, *compiled false), leave nothing. */
static answer read_chunk(lua_State *L, reader *r, bool *compiled)
{
    const char *line;
    answer got = read_line(r, "> ", &line);
    if (got != LINE)
        return got;
    lua_pushstring(L, line);                        // text
    remember(r, line);
    for (;;) {
        const int status = compile(L);              // text fn
        *compiled = status == 0;
        if (!is_unfinished(L, status)) {
            if (status == 0)
                return LINE;
            tp_main_show_error(L);
            lua_pop(L, 1);                          // -
            return LINE;
        }
        got = read_line(r, ">> ", &line);
        if (got == INTERRUPTED) {
            lua_pop(L, 2);
            return got;
        }
        if (got == END) { /* what is missing will not come */
            tp_main_show_error(L);
            lua_pop(L, 1);
            return got;
        }
        remember(r, line);
        lua_pop(L, 1);                              // text
        lua_pushstring(L, line);
        lua_concat(L, 2);                           // longer text
    }
}

/* ---- answers ---- */

static int terminal_width(void)
{
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    return DEFAULT_WIDTH;
}

/* Shows the n values on the top and pops them. */
static void show_values(lua_State *L, int n)
{
    if (n == 0)
        return;
    lua_pushinteger(L, terminal_width());
    lua_insert(L, -n - 1);                          // width values
    if (!tp_main_call_module(L, "tidepool.show", "line", n + 1, 1))
        return;
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    fwrite(text, 1, len, stdout);
    fputc('\n', stdout);
    lua_pop(L, 1);
}

static void explain_locals(const char *text, bool *explained)
{
    text += strspn(text, " \t");
    if (*explained || (strncmp(text, "local ", 6) != 0 && strncmp(text, "local\t", 6) != 0))
        return;
    *explained = true;
    fputs("(a local ends with its line: leave out `local` to keep it)\n", stdout);
}

/* Runs the chunk on the top, below it its text; pops both. */
static void run_chunk(lua_State *L, bool *explained)
{
    const int base = lua_gettop(L) - 1;             // text fn
    if (tp_main_call(L, 0, LUA_MULTRET)) {          // text values
        show_values(L, lua_gettop(L) - base);
        if (isatty(STDIN_FILENO))
            explain_locals(lua_tostring(L, base), explained);
    }
    lua_settop(L, base - 1);
    fflush(stdout);
}

/* Compiled code runs no debug hooks, so Ctrl-C could not stop it. While LuaJIT's profiler counts
 * lines, compiled code looks for its ticks and leaves for the interpreter at each one, where the
 * hook is seen. */
static void ignore_tick(void *data, lua_State *L, int samples, int state)
{
    (void)data, (void)L, (void)samples, (void)state;
}

void tp_repl_run(lua_State *L)
{
    reader r = { 0 };
    bool explained = false, compiled = false;
    answer got;

    open_reader(&r);
    if (r.el)
        luaJIT_profile_start(L, "li50", ignore_tick, NULL);
    while ((got = read_chunk(L, &r, &compiled)) != END)
        if (got == LINE && compiled)
            run_chunk(L, &explained);
    if (r.el)
        luaJIT_profile_stop(L);
    tp_main_session(TP_NO_SESSION);
    close_reader(&r);
}
