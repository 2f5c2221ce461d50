/* repl.c: the interactive session: reads lines, runs them, shows what they give.
 *
 * On a terminal lines are edited with libedit and kept in a history file; otherwise standard input
 * is read as it is. A chunk that is not finished goes on in the next line. What lines mean (locals
 * that last, expressions, completion, help) is lua/tidepool/program/session.lua's.
 *
 * Signals are handled in signals.c, error texts in errors.c, and main.c ends the process. */
#include "program/repl.h"

#include "base/folder.h"
#include "program/errors.h"
#include "program/process.h"
#include "program/signals.h"
#include "program/term.h"

#include <lauxlib.h>
#include <lua.h>
#include <luajit.h>

#include <dlfcn.h>
#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

enum {
    HISTORY_LINES = 2000,
    /* when so many bytes arrive together with a tab, they were pasted, not typed: no completion */
    PASTED_MIN = 3,
    LISTED_MAX = 200 /* completions that are listed */
};

typedef enum answer { LINE, INTERRUPTED, END } answer;

/* libedit is loaded when a session begins. Linked, it and the three libraries that it needs would
 * add a quarter of a millisecond to each start of the program, and scripts do not use it. Filled in
 * by load_libedit. */
static struct {
    __typeof__(el_init) *init;
    __typeof__(el_end) *end;
    __typeof__(el_get) *get;
    __typeof__(el_set) *set;
    __typeof__(el_wset) *wset;
    __typeof__(el_gets) *gets;
    __typeof__(el_line) *line;
    __typeof__(el_wline) *wline;
    __typeof__(el_insertstr) *insert;
    __typeof__(el_resize) *resize;
    __typeof__(history) *history;
    __typeof__(history_init) *history_init;
    __typeof__(history_end) *history_end;
} edit;

/* Where lines come from. Only for tp_repl_run. */
typedef struct reader {
    lua_State *L;
    EditLine *el; /* NULL: plain reading */
    History *history;
    char *history_path; /* NULL: not kept */
    const char *prompt;
    /* a copy of the global _PROMPT or _PROMPT2, made when the line was asked for; NULL: not set */
    char *own_prompt;
    int width;    /* the terminal's, when the line that is being edited was last drawn */
    bool is_away; /* the line that is being edited was taken off the screen, see put_away */
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
        { "el_wset", &edit.wset },
        { "el_gets", &edit.gets },
        { "el_line", &edit.line },
        { "el_wline", &edit.wline },
        { "el_insertstr", &edit.insert },
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

/* Calls the function `name` of session.lua with the nargs values on the top. */
static bool ask(lua_State *L, const char *name, int nargs, int nresults)
{
    return tp_errors_call_module(L, "tidepool.program.session", name, nargs, nresults);
}

/* A place on the terminal, counted from where the line that is being edited begins. */
typedef struct place {
    size_t row, column;
} place;

/* The place behind the characters from..to when they begin at `at`. They may contain line ends,
 * when a block was recalled. */
static place end_of(place at, const wchar_t *from, const wchar_t *to, size_t width)
{
    for (const wchar_t *c = from; c < to; c++) {
        const int columns = wcwidth(*c);
        if (*c == L'\n')
            at = (place){ at.row + at.column / width + 1, 0 };
        else
            at.column += columns > 0 ? (size_t)columns : 0;
    }
    return (place){ at.row + at.column / width, at.column % width };
}

/* Removes the line that is being edited, however many rows it has, from the screen until
 * put_back. */
static void put_away(void *arg)
{
    reader *r = arg;
    if (r->is_away)
        return;
    const LineInfoW *line = edit.wline(r->el);
    const size_t width = (size_t)tp_term_width(STDOUT_FILENO);
    const place cursor = end_of((place){ 0, strlen(r->prompt) }, line->buffer, line->cursor, width);
    const place end = end_of(cursor, line->cursor, line->lastchar, width);
    fputc('\r', stdout);
    if (!tp_term_is_capable(STDOUT_FILENO))
        fprintf(stdout, "%*s\r", (int)(end.row == 0 ? end.column : width - 1), "");
    else if (cursor.row > 0)
        fprintf(stdout, "\033[%zuA\033[J", cursor.row);
    else
        fputs("\033[J", stdout);
    fflush(stdout);
    r->is_away = true;
}

static void put_back(reader *r)
{
    if (!r->is_away)
        return;
    tp_term_end_line();
    fflush(stdout);
    r->is_away = false;
    edit.set(r->el, EL_REFRESH);
}

/* Writes lines above the one that is being edited. */
static void write_above(reader *r, const char *text, size_t len)
{
    put_away(r);
    fwrite(text, 1, len, stdout);
    if (len > 0 && text[len - 1] != '\n')
        fputc('\n', stdout);
    put_back(r);
}

/* Shows what workers have written. */
static void show_held(reader *r)
{
    size_t len;
    char *held = tp_term_take(&len);
    if (held)
        write_above(r, held, len);
    free(held);
}

/* Reports spawned calls that have ended. */
static void tell_news(reader *r)
{
    lua_State *L = r->L;
    lua_pushinteger(L, tp_term_width(STDOUT_FILENO));
    if (!ask(L, "news", 1, 1))
        return;
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    show_held(r); /* shows first what they printed before they ended */
    if (text)
        write_above(r, text, len);
    lua_pop(L, 1);
}

/* Lets tasks, timers and callbacks go on. They are users' code, so Ctrl-C may have to stop them;
 * then it also drops the line that is being typed, as it does at the prompt. */
static void turn(reader *r)
{
    if (tp_signals_session(TP_SESSION_LINE)) {
        tp_signals_session(TP_SESSION_PROMPT);
        tp_signals_interrupt_prompt();
        return;
    }
    ask(r->L, "turn", 0, 0);
    if (tp_signals_session(TP_SESSION_PROMPT))
        tp_signals_interrupt_prompt();
    put_back(r);
}

/* How long to wait for a key before session.lua has something to do, in ms; -1: for ever. */
static int patience(lua_State *L)
{
    const bool fine = ask(L, "patience", 0, 1);
    const int ms = fine && lua_isnumber(L, -1) ? (int)lua_tointeger(L, -1) : -1;
    lua_pop(L, fine);
    return ms;
}

/* Waits for standard input; -1 with errno as poll does. */
static int await_input(reader *r)
{
    struct pollfd waits[] = { { .fd = STDIN_FILENO, .events = POLLIN },
                              { .fd = tp_term_held_fd(), .events = POLLIN } };
    for (;;) {
        const int ready = tp_signals_poll(waits, 2, patience(r->L));
        if (ready < 0 || waits[0].revents)
            return ready;
        if (ready == 0)
            turn(r);
        tell_news(r);
    }
}

/* Redraws the line that is being edited when the terminal's width has changed, which libedit does
 * not notice. */
static void follow_resize(reader *r)
{
    const int width = tp_term_width(STDOUT_FILENO);
    if (width == r->width)
        return;
    put_away(r); /* uses the new width, since terminals have rewrapped the line */
    r->width = width;
    edit.resize(r->el);
    put_back(r);
}

/* libedit's way to read a character: 1, 0 at the end, or -1. */
static int read_character(EditLine *el, wchar_t *out)
{
    reader *r = NULL;
    mbstate_t state = { 0 };
    edit.get(el, EL_CLIENTDATA, &r);
    for (;;) {
        char byte;
        if (await_input(r) < 0)
            return -1;
        follow_resize(r);
        const ssize_t n = read(STDIN_FILENO, &byte, 1);
        if (n <= 0)
            return (int)n;
        const size_t used = mbrtowc(out, &byte, 1, &state);
        if (used == 0 || used == 1)
            return 1;
        if (used == (size_t)-1) { /* not UTF-8: dropped */
            state = (mbstate_t){ 0 };
            continue;
        }
    }
}

/* Shows the names in the list at the stack's top, in columns below the line. */
static void list_names(lua_State *L, int n)
{
    size_t widest = 0;
    const int shown = n > LISTED_MAX ? LISTED_MAX : n;
    for (int i = 1; i <= shown; i++) {
        lua_rawgeti(L, -1, i);
        widest = lua_objlen(L, -1) > widest ? lua_objlen(L, -1) : widest;
        lua_pop(L, 1);
    }
    const int width = tp_term_width(STDOUT_FILENO),
              columns = width / (int)(widest + 2) > 0 ? width / (int)(widest + 2) : 1;
    for (int i = 1; i <= shown; i++) {
        lua_rawgeti(L, -1, i);
        fprintf(stdout, "%s%-*s", i % columns == 1 || columns == 1 ? "\n" : "", (int)widest + 2,
                lua_tostring(L, -1));
        lua_pop(L, 1);
    }
    if (n > shown)
        fprintf(stdout, "\n... (%d more)", n - shown);
    fputc('\n', stdout);
}

/* How many bytes all names in the list at the stack's top have in common at their beginnings. */
static size_t common_prefix(lua_State *L, int n)
{
    size_t common = 0;
    lua_rawgeti(L, -1, 1);
    const char *first = lua_tolstring(L, -1, &common);
    for (int i = 2; i <= n; i++) {
        lua_rawgeti(L, -2, i);
        const char *name = lua_tostring(L, -1);
        size_t same = 0;
        while (same < common && name[same] == first[same])
            same++;
        common = same;
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return common;
}

/* The Tab key. */
static unsigned char complete(EditLine *el, int ch)
{
    (void)ch;
    reader *r = NULL;
    edit.get(el, EL_CLIENTDATA, &r);
    const LineInfo *line = edit.line(el);
    const size_t len = (size_t)(line->cursor - line->buffer);
    int pending = 0;
    if (ioctl(STDIN_FILENO, FIONREAD, &pending) == 0 && pending >= PASTED_MIN)
        return edit.insert(el, "\t") == 0 ? CC_REFRESH : CC_ERROR;
    if (strspn(line->buffer, " \t") >= len)
        return edit.insert(el, "  ") == 0 ? CC_REFRESH : CC_ERROR;
    lua_State *L = r->L;
    lua_pushlstring(L, line->buffer, len);
    if (!ask(L, "complete", 1, 2))
        return CC_REDISPLAY;                        // length names
    const size_t typed = (size_t)lua_tointeger(L, -2);
    const int n = (int)lua_objlen(L, -1);
    unsigned char code = CC_ERROR;
    if (n > 0) {
        const size_t common = common_prefix(L, n);
        lua_rawgeti(L, -1, 1);
        lua_pushlstring(L, lua_tostring(L, -1) + typed, common - typed);
        if (common > typed && edit.insert(el, lua_tostring(L, -1)) == 0)
            code = CC_REFRESH;
        lua_pop(L, 2);
        if (common == typed && n > 1) {
            list_names(L, n);
            code = CC_REDISPLAY;
        }
    }
    lua_pop(L, 2);
    return code;
}

/* $XDG_STATE_HOME/tidepool/history, with its folders made; NULL when there can be none. The caller
 * frees it. */
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
    char *slash = strrchr(path, '/');
    *slash = '\0';
    if (tp_folder_make(path)) {
        free(path);
        return NULL;
    }
    *slash = '/';
    return path;
}

static void open_reader(reader *r)
{
    HistEvent event;
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO) || !load_libedit())
        return;
    setlocale(LC_CTYPE, ""); /* so that libedit reads characters, not bytes */
    r->el = edit.init("tidepool", stdin, stdout, stderr);
    if (!r->el)
        return;
    edit.set(r->el, EL_CLIENTDATA, r);
    edit.set(r->el, EL_PROMPT, prompt_of);
    edit.set(r->el, EL_EDITOR, "emacs");
    edit.set(r->el, EL_GETCFN, read_character);
    /* el_set would leak its copies */
    edit.wset(r->el, EL_ADDFN, L"tidepool-complete", L"completes names", complete);
    edit.set(r->el, EL_BIND, "^I", "tidepool-complete", NULL);
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
    free(r->own_prompt);
    free(r->plain);
}

/* Adds a chunk to the history as one entry, however many lines it has, so that Enter runs it again.
 * Writes it at once, so that no way of ending loses it. */
static void remember(reader *r, const char *text)
{
    HistEvent event;
    if (!r->history || text[strspn(text, " \t\n")] == '\0')
        return;
    edit.history(r->history, &event, H_ENTER, text);
    if (r->history_path)
        edit.history(r->history, &event, H_SAVE, r->history_path);
}

static const char *read_edited(reader *r)
{
    int count = 0;
    r->width = tp_term_width(STDOUT_FILENO);
    edit.resize(r->el);
    tp_term_prompt(put_away, r);
    /* sets the terminal before the prompt appears: keys typed earlier would be echoed twice */
    edit.set(r->el, EL_PREP_TERM, 1);
    const char *line = edit.gets(r->el, &count);
    const int why = errno;
    tp_term_prompt(NULL, NULL);
    size_t len;
    char *held = tp_term_take(&len);
    if (held)
        fwrite(held, 1, len, stdout);
    free(held);
    errno = why;
    return line;
}

static const char *read_plain(reader *r)
{
    const ssize_t len = getline(&r->plain, &r->plain_size, stdin);
    return len < 0 ? NULL : r->plain;
}

/* Chooses the prompt: the user's own global if it is a string, read without metamethods. It is
 * copied, since tasks may change it while it is shown. */
static void choose_prompt(reader *r, const char *global, const char *otherwise)
{
    lua_pushstring(r->L, global);
    lua_rawget(r->L, LUA_GLOBALSINDEX);
    free(r->own_prompt);
    r->own_prompt = lua_isstring(r->L, -1) ? strdup(lua_tostring(r->L, -1)) : NULL;
    lua_pop(r->L, 1);
    r->prompt = r->own_prompt ? r->own_prompt : otherwise;
}

/* Says how far the maps of an interrupted line had got. */
static void tell_stopped(void)
{
    char text[100];
    if (!tp_process.delivered && !tp_process.total)
        return;
    if (tp_process.total)
        snprintf(text, sizeof text, "[%llu of %llu results were delivered]\n",
                 (unsigned long long)tp_process.delivered, (unsigned long long)tp_process.total);
    else
        snprintf(text, sizeof text, "[%llu results were delivered]\n",
                 (unsigned long long)tp_process.delivered);
    tp_term_write(stdout, text, strlen(text));
    tp_process.delivered = tp_process.total = 0;
}

/* Reads a line, the first of a chunk or a later one. *line stays valid until the next call. Without
 * a terminal there is no prompt unless the user has set one. */
static answer read_line(reader *r, bool is_first, const char **line)
{
    choose_prompt(r, is_first ? "_PROMPT" : "_PROMPT2", is_first ? "> " : ">> ");
    tp_term_show("", 0);
    if (r->el) {
        tp_term_end_line();
    } else if (r->own_prompt) {
        fputs(r->own_prompt, stdout);
        fflush(stdout);
    }
    for (;;) {
        if (tp_signals_session(TP_SESSION_PROMPT)) {
            tell_stopped();
            /* collects, and so cancels, the maps of the stopped line */
            lua_gc(r->L, LUA_GCCOLLECT, 0);
        }
        errno = 0;
        *line = r->el ? read_edited(r) : read_plain(r);
        const bool was_signal = errno == EINTR, interrupted = tp_signals_session(TP_SESSION_LINE);
        if (interrupted || (!*line && (tp_signals_ending() || !was_signal))) {
            if (r->el)
                fputs("\n", stdout);
            clearerr(stdin);
            return interrupted ? INTERRUPTED : END;
        }
        if (*line)
            return LINE;
        clearerr(stdin); /* another signal came: read on */
    }
}

/* ---- chunks ---- */

enum { COMPILED, WRONG, UNFINISHED };

/* Compiles the text at the stack's top; pushes the function, or an error's text. */
static int compile(lua_State *L)
{
    lua_pushvalue(L, -1);
    if (!ask(L, "compile", 1, 3)) {
        lua_pushliteral(L, "");
        return WRONG;
    }                                               // text fn message unfinished
    const int status = !lua_isnil(L, -3) ? COMPILED : lua_toboolean(L, -1) ? UNFINISHED : WRONG;
    lua_pop(L, 1);
    lua_remove(L, status == COMPILED ? -1 : -2);
    return status;
}

/* Reads lines until they make a chunk. LINE: the text and its function are on the stack. All else,
 * and a chunk that does not compile (which is shown here, *compiled is false), leaves nothing
 * there. */
static answer read_chunk(lua_State *L, reader *r, bool *compiled)
{
    const char *line;
    answer got = read_line(r, true, &line);
    if (got != LINE)
        return got;
    lua_pushstring(L, line);                        // text
    for (;;) {
        const int status = compile(L);              // text fn
        *compiled = status == COMPILED;
        if (status != UNFINISHED) {
            remember(r, lua_tostring(L, -2));
            if (status == COMPILED)
                return LINE;
            tp_errors_show(L);
            lua_pop(L, 1);                          // -
            return LINE;
        }
        got = read_line(r, false, &line);
        if (got != LINE)
            remember(r, lua_tostring(L, -2));
        if (got == INTERRUPTED) {
            lua_pop(L, 2);
            return got;
        }
        if (got == END) { /* the input has ended within a chunk */
            tp_errors_show(L);
            lua_pop(L, 1);
            *compiled = false;
            return r->el && !tp_signals_ending() ? LINE : got;
        }
        lua_pop(L, 1);                              // text
        lua_pushstring(L, line);
        lua_concat(L, 2);                           // longer text
    }
}

/* ---- answers ---- */

/* Shows the n values on the top and pops them. */
static void show_values(lua_State *L, int n)
{
    if (n == 0)
        return;
    lua_pushinteger(L, tp_term_width(STDOUT_FILENO));
    lua_insert(L, -n - 1);                          // width values
    lua_pushboolean(L, tp_term_has_colours(STDOUT_FILENO));
    lua_insert(L, -n - 1);                          // width coloured values
    if (!tp_errors_call_module(L, "tidepool.program.session", "show", n + 2, 1))
        return;
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    tp_term_end_line();
    tp_term_write(stdout, text, len);
    tp_term_write(stdout, "\n", 1);
    lua_pop(L, 1);
}

/* Stack: text function. Runs the chunk; pops both. */
static void run_chunk(lua_State *L)
{
    const int base = lua_gettop(L) - 1;             // text fn
    if (tp_errors_call(L, 0, LUA_MULTRET))            // text values
        show_values(L, lua_gettop(L) - base);
    lua_settop(L, base - 1);
    fflush(stdout);
}

/* Compiled code runs no debug hooks, so Ctrl-C could not stop it. But while LuaJIT's profiler
 * counts lines, compiled code checks for the profiler's ticks and leaves for the interpreter at
 * each tick, where the hook runs. The check is one test of a byte in memory per line:
 * bench/interrupt.lua finds no cost in compiled loops beyond its own noise of 2 % (loops of 1 to 11
 * ns per turn; bench/RESULTS.md). Scripts do without it. */
static void ignore_tick(void *data, lua_State *L, int samples, int state)
{
    (void)data, (void)L, (void)samples, (void)state;
}

/* Says what is cancelled because the session ends. */
static void tell_dropped(lua_State *L)
{
    if (!ask(L, "dropped", 0, 1))
        return;
    if (lua_isstring(L, -1)) {
        puts(lua_tostring(L, -1));
        fflush(stdout);
    }
    lua_pop(L, 1);
}

bool tp_repl_run(lua_State *L)
{
    reader r = { .L = L };
    bool compiled = false;
    answer got;

    ask(L, "open", 0, 0);
    open_reader(&r);
    if (r.el)
        luaJIT_profile_start(L, "li50", ignore_tick, NULL);
    while ((got = read_chunk(L, &r, &compiled)) != END)
        if (got == LINE && compiled)
            run_chunk(L);
    if (r.el) {
        luaJIT_profile_stop(L);
        if (!tp_signals_ending())
            tell_dropped(L);
    }
    tp_signals_session(TP_NO_SESSION);
    const bool was_edited = r.el != NULL;
    close_reader(&r);
    return was_edited;
}
