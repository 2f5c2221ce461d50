/* main.c: the `tidepool` binary: its options, environment, signals and exit codes.
 *
 * It is a drop-in for `luajit`, plus the commands `run`, `map` and `help`. Only this file installs signal
 * handlers, and only here and in repl.c does the product print or exit.
 *
 * Every way out goes through finish(): it stops the host, closes the state where that is safe,
 * checks that standard output was really written, and dies by the signal that ended the process,
 * if one did. */
#include "caches.h"
#include "host.h"
#include "repl.h"
#include "term.h"
#include "tidepool.h"
#include "vm.h"

#include <lauxlib.h>
#include <lua.h>
#include <luajit.h>
#include <lualib.h>
#include <uv.h>

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__) || defined(TP_MALLOC_STATE)
#define SLOWNESS 20 /* a sanitizer's build: opening a Lua state alone may take as long */
#else
#define SLOWNESS 1
#endif

enum {
    EXIT_USAGE = 2,
    WORKERS_MAX = 1024,
    UNKNOWN_ERROR = -1, /* of a write: stdio has not kept its errno */
    STOP_MS = 250 * SLOWNESS, /* how long workers may take to come to rest at the end */
    PATIENCE_MS = 500,   /* how long an interrupted program may take to end by itself */
    SHOWN_MAX = 4096,    /* bytes of one error message that a terminal gets */
    FRAMES_FIRST = 12,   /* frames of a traceback shown before and after the "..." */
    FRAMES_LAST = 9
};

/* The process, for the signal handlers. Written by the main thread (and by handlers, which run on
 * it), except where noted. */
static struct {
    tp_host *volatile host; /* NULL while there is none that a signal may ask */
    lua_State *volatile L; /* NULL while there is none that a hook may be set in */
    pthread_t thread;      /* the main thread */
    pid_t pid;             /* main()'s; a forked child has another one */
    timer_t timer;         /* sends alarm_signal() when patience ends */
    bool has_timer, quiet;
    bool pipe_ignored;     /* SIGPIPE was ignored when we started: a lost reader is an error then */
    volatile sig_atomic_t signal; /* the signal that ends the process; 0: none */
    volatile sig_atomic_t line_said, code;
    volatile sig_atomic_t session, interrupts;
    uint64_t delivered, total; /* what the maps had done when the signal came */
    bool has_terminal;         /* the REPL runs on one: `terminal` is to be restored */
    struct termios terminal;
    _Atomic int write_error;   /* errno of the first failed write to stdout; any thread */
} the;

/* ---- signals: everything down to on_signal is async-signal-safe ---- */

static int alarm_signal(void)
{
    return SIGRTMIN;
}

static void be_patient(unsigned ms)
{
    const struct itimerspec when = { .it_value = { ms / 1000, (long)(ms % 1000) * 1000000 } };
    if (the.has_timer)
        timer_settime(the.timer, 0, &when, NULL);
}

static char *put_text(char *at, const char *text)
{
    size_t n = strlen(text);
    memcpy(at, text, n);
    return at + n;
}

static char *put_number(char *at, uint64_t n)
{
    char digits[20];
    int used = 0;
    do
        digits[used++] = (char)('0' + n % 10);
    while (n /= 10);
    while (used)
        *at++ = digits[--used];
    return at;
}

/* "tidepool: interrupted (12 of 100 results delivered)", once. The bracket needs a map that ran. */
static void say_interrupted(void)
{
    char line[128], *at = line;
    if (the.line_said || the.quiet)
        return;
    the.line_said = 1;
    at = put_text(at, tp_term_eraser());
    at = put_text(at, "tidepool: interrupted");
    if (the.delivered || the.total) {
        at = put_number(put_text(at, " ("), the.delivered);
        if (the.total)
            at = put_number(put_text(at, " of "), the.total);
        at = put_text(at, " results delivered)");
    }
    *at++ = '\n';
    if (write(STDERR_FILENO, line, (size_t)(at - line)) < 0)
        return; /* nowhere left to say it */
}

/* Ends the process by sig's default action, so that the parent sees what happened. */
static _Noreturn void die_by(int sig)
{
    sigset_t only;
    if (the.has_terminal)
        tcsetattr(STDIN_FILENO, TCSANOW, &the.terminal);
    signal(sig, SIG_DFL);
    sigemptyset(&only);
    sigaddset(&only, sig);
    pthread_sigmask(SIG_UNBLOCK, &only, NULL);
    raise(sig);
    _exit(128 + sig); /* PID 1 of a container survives its own raise */
}

/* A debug hook: raises in interpreted code at the next instruction, once; not when a wait has raised already, whose error is being
 * handled now. */
static void raise_interrupted(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    lua_sethook(L, NULL, 0, 0);
    if (!the.host || tp_host_take_interrupt(the.host))
        luaL_error(L, "interrupted");
}

/* Asks Lua code and waiting maps to stop. Hooks reach interpreted code only: see PATIENCE_MS for
 * the rest. */
static void interrupt_lua(void)
{
    if (the.host)
        tp_host_interrupt(the.host);
    if (the.L)
        lua_sethook(the.L, raise_interrupted, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT, 1);
}

static void begin_to_end(int sig)
{
    the.signal = sig;
    if (the.host)
        tp_host_counts(the.host, &the.delivered, &the.total);
    interrupt_lua();
    be_patient(PATIENCE_MS);
}

/* SIGINT, SIGTERM, SIGHUP, and the timer's own signal when patience ended. The first one asks, the
 * second one ends. */
static void on_signal(int sig)
{
    const int saved = errno;
    if (getpid() != the.pid) /* a child made by fork: nothing of it is ours to tidy up */
        die_by(sig == alarm_signal() ? SIGKILL : sig);
    if (!pthread_equal(pthread_self(), the.thread)) {
        pthread_kill(the.thread, sig);
    } else if (sig == alarm_signal() && !the.signal) {
        _exit(the.code);
    } else if (the.signal) {
        say_interrupted();
        die_by(the.signal);
    } else if (sig != SIGINT || the.session == TP_NO_SESSION) {
        begin_to_end(sig);
    } else if (the.session == TP_SESSION_PROMPT) {
        the.interrupts = 1;
    } else if (!the.interrupts) {
        the.interrupts = 1;
        interrupt_lua();
    } else {
        die_by(sig);
    }
    errno = saved;
}

/* No SA_RESTART: a read or a sleep that is interrupted returns, and the hook gets its turn. What
 * was ignored when we started (nohup) stays ignored. */
static void catch_signals(void)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
    struct sigaction action = { .sa_handler = on_signal }, old;
    struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = alarm_signal() };

    sigfillset(&action.sa_mask);
    the.pipe_ignored = sigaction(SIGPIPE, NULL, &old) == 0 && old.sa_handler == SIG_IGN;
    the.has_timer = timer_create(CLOCK_MONOTONIC, &event, &the.timer) == 0;
    if (the.has_timer)
        sigaction(alarm_signal(), &action, NULL);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(signals[i], &action, NULL);
}

bool tp_main_session(tp_session now)
{
    const bool interrupted = the.interrupts != 0;
    if (now == TP_SESSION_PROMPT && !the.has_terminal)
        the.has_terminal = tcgetattr(STDIN_FILENO, &the.terminal) == 0;
    the.session = (sig_atomic_t)now;
    if (interrupted && the.L && !the.signal) { /* unnoticed: not for the next line */
        lua_sethook(the.L, NULL, 0, 0);
        tp_host_resume(the.host);
    }
    the.interrupts = 0;
    return interrupted;
}

bool tp_main_ending(void)
{
    return the.signal != 0;
}

/* ---- standard output and the end ---- */

/* A descriptor of 0..2 that is closed would be given to the next file or socket. Standard output
 * gets /dev/null opened for reading, so that a write to it still says "Bad file descriptor". */
static void open_standard_files(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", O_RDONLY) != fd)
            _exit(EXIT_FAILURE);
}

static void note_write_error(void)
{
    int none = 0;
    atomic_compare_exchange_strong(&the.write_error, &none, errno ? errno : UNKNOWN_ERROR);
}

/* tp_config.write: one call is one fwrite, so lines stay whole beside those of the main thread. */
static void write_line(void *user, int fd, const char *bytes, size_t len)
{
    (void)user;
    if (tp_term_write(fd == STDERR_FILENO ? stderr : stdout, bytes, len) < len && fd != STDERR_FILENO)
        note_write_error();
}

/* Writes out what stdout holds. Returns code, or what it has to be when the output is lost. A
 * reader that went away ends us as SIGPIPE would have. */
static int flush_output(int code)
{
    errno = 0; /* an earlier error, of a print in the script, has left no errno behind */
    if (fflush(stdout) != 0 || ferror(stdout))
        note_write_error();
    const int why = atomic_load(&the.write_error);
    if (!why)
        return code;
    if (why == EPIPE && !the.pipe_ignored)
        die_by(SIGPIPE);
    fprintf(stderr, "tidepool: cannot write to standard output: %s\n", why == UNKNOWN_ERROR ? "an earlier write failed" : strerror(why));
    return code ? code : EXIT_FAILURE;
}

/* The one way out. close_state is false where Lua code of the state may still be below us on the C
 * stack and does not expect its state to go (os.exit). */
static _Noreturn void finish(int code, bool close_state)
{
    lua_State *L = the.L;
    bool at_rest = true;

    if (getpid() != the.pid) /* a forked child has no threads to wait for */
        exit(flush_output(code));
    tp_term_show("", 0);
    if (the.host)
        at_rest = tp_host_stop(the.host, STOP_MS) == 0;
    if (close_state && at_rest && L && !the.host->is_running) {
        the.L = NULL;
        lua_close(L);
        tp_host *host = the.host;
        the.host = NULL;
        tp_host_close(host);
    }
    code = flush_output(code);
    if (the.signal) {
        say_interrupted();
        die_by(the.signal);
    }
    if (at_rest)
        exit(code);
    the.code = code; /* a worker that still runs may hold the lock of some other FILE for ever */
    be_patient(PATIENCE_MS);
    fflush(NULL);
    _exit(code);
}

/* os.exit([code [, close]]) of the main state. */
static int l_os_exit(lua_State *L)
{
    int code = EXIT_SUCCESS;
    if (lua_isboolean(L, 1))
        code = lua_toboolean(L, 1) ? EXIT_SUCCESS : EXIT_FAILURE;
    else
        code = luaL_optint(L, 1, EXIT_SUCCESS);
    finish(code, lua_toboolean(L, 2));
}

/* ---- errors ---- */

static const char library_source[] = "=tidepool/";
static const char require_key[] = "tidepool.main.require";
static const char traceback_key[] = "tidepool.main.traceback";

/* Calls require(module)[name] with nargs values; nresults results. Raises what it raises. The
 * `require` is the one of the start, whatever the script did to the global. */
static void call_module(lua_State *L, const char *module, const char *name, int nargs, int nresults)
{
    const int base = lua_gettop(L) - nargs + 1;     // args
    lua_getfield(L, LUA_REGISTRYINDEX, require_key);
    lua_pushstring(L, module);
    lua_call(L, 1, 1);                              // args module
    lua_getfield(L, -1, name);                      // args module fn
    lua_insert(L, base);
    lua_pop(L, 1);                                  // fn args
    lua_call(L, nargs, nresults);
}

static bool frame(lua_State *L, int level, lua_Debug *ar)
{
    return lua_getstack(L, level, ar) && lua_getinfo(L, "Sln", ar);
}

static bool is_library(const lua_Debug *ar)
{
    return strncmp(ar->source, library_source, sizeof library_source - 1) == 0;
}

/* Is this frame the library's own, or a C function that it or main.c called? Users are not shown
 * those. */
static bool is_ours(lua_State *L, int level, const lua_Debug *ar)
{
    lua_Debug caller;
    if (*ar->what != 'C')
        return is_library(ar);
    return !*ar->namewhat || !frame(L, level + 1, &caller) || is_library(&caller);
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
        if (*ar.namewhat && !(frame(L, level + 1, &caller) && is_library(&caller)))
            lua_pushfstring(L, " in function '%s'", ar.name); /* what its caller calls it */
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
    call_module(L, "tidepool.show", "error", 1, 1);
    return 1;
}

/* Pushes the text for the error value on the top, which stays. */
static void push_description(lua_State *L)
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

/* The message handler: turns any error value into text, and leaves the traceback in the registry. */
static int on_error(lua_State *L)
{
    push_traceback(L, 1);
    lua_setfield(L, LUA_REGISTRYINDEX, traceback_key);
    lua_settop(L, 1);
    push_description(L);
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

/* Writes an error's text: to a file as it is; to a terminal without bytes that it would obey, and
 * not without end. */
static void print_text(const char *text, size_t len)
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

static bool is_set(const char *variable)
{
    const char *value = getenv(variable);
    return value && *value;
}

static bool has_colours(void)
{
    return tp_term_is_capable(STDERR_FILENO) && !is_set("NO_COLOR");
}

/* Shows the text on the top and, if there is one, the traceback; pops the text. */
static void show_error(lua_State *L, const char *traceback)
{
    size_t len = 0;
    const char *text = lua_tolstring(L, -1, &len);
    if (!the.signal) { /* that story is told by its own line */
        tp_term_show("", 0);
        tp_term_hide();
        tp_term_end_line();
        fflush(stdout);
        if (the.session == TP_NO_SESSION)
            fputs("tidepool: ", stderr);
        const bool coloured = the.session != TP_NO_SESSION && has_colours();
        fputs(coloured ? "\033[31m" : "", stderr);
        print_text(text ? text : "", len);
        fputs(coloured ? "\033[0m" : "", stderr);
        /* A Failure's text has the worker's traceback; ours is where it was raised again. */
        const char *title = text && strstr(text, "\nstack traceback:") ? "called from" : "stack traceback";
        if (traceback && *traceback)
            fprintf(stderr, "\n%s:%s", title, traceback);
        fputc('\n', stderr);
    }
    lua_pop(L, 1);
}

void tp_main_show_error(lua_State *L)
{
    show_error(L, NULL);
}

bool tp_main_call(lua_State *L, int nargs, int nresults)
{
    const int base = lua_gettop(L) - nargs;         // fn args
    lua_pushcfunction(L, on_error);
    lua_insert(L, base);                            // handler fn args
    const int failed = lua_pcall(L, nargs, nresults, base);
    lua_remove(L, base);                            // results, or text
    if (!failed)
        return true;
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

/* (module, name, ...): call_module as a Lua function, so that it can be called protected. */
static int l_call_module(lua_State *L)
{
    const char *module = lua_tostring(L, 1), *name = lua_tostring(L, 2);
    call_module(L, module, name, lua_gettop(L) - 2, LUA_MULTRET);
    return lua_gettop(L) - 2;
}

bool tp_main_call_module(lua_State *L, const char *module, const char *name, int nargs,
                         int nresults)
{
    const int base = lua_gettop(L) - nargs + 1;     // args
    lua_pushcfunction(L, l_call_module);
    lua_insert(L, base);                            // fn args
    lua_pushstring(L, module);
    lua_insert(L, base + 1);                        // fn module args
    lua_pushstring(L, name);
    lua_insert(L, base + 2);                        // fn module name args
    return tp_main_call(L, nargs + 2, nresults);
}

/* ---- options ---- */

/* What the command line asks for. argv is main's; `script` is an index into it. */
typedef struct options {
    int argc;
    char **argv;
    int script; /* of the script, or of what the command is about; argc when there is none */
    enum { SCRIPT, RUN, MAP, HELP, VERSION, BYTECODE, DEVICES } command;
    bool interactive, version, executes, no_env, quiet, tagged;
    int workers; /* 0: the host's default */
    const char *executor; /* NULL: the host's default */
    const char *progress; /* as the option says; NULL: as it suits the terminal */
    bool is_left; /* set by run_main: the user has left, and waits for nothing any more */
    bool failed; /* set by pmain's steps: exit code 1 or `code` */
    int code;
} options;

static int usage(const char *format, const char *what)
{
    fputs("tidepool: ", stderr);
    fprintf(stderr, format, what);
    fputs(" (try: tidepool --help)\n", stderr);
    return EXIT_USAGE;
}

/* How many letters have to be added, dropped or changed to make one word of the other; at most `limit`. */
static int distance(const char *a, const char *b, int limit)
{
    if (*a == *b)
        return *a ? distance(a + 1, b + 1, limit) : 0;
    if (limit == 0)
        return 1;
    int least = limit;
    if (*a && *b && distance(a + 1, b + 1, limit - 1) < least)
        least = distance(a + 1, b + 1, limit - 1);
    if (*a && distance(a + 1, b, limit - 1) < least)
        least = distance(a + 1, b, limit - 1);
    if (*b && distance(a, b + 1, limit - 1) < least)
        least = distance(a, b + 1, limit - 1);
    return least + 1;
}

/* The one of the words, which end with NULL, that is most like this one; NULL when none is. */
static const char *nearest(const char *word, const char *const *words)
{
    const size_t len = strcspn(word, "=");
    char begin[32];
    const char *best = NULL;
    int least = 3;
    if (len >= sizeof begin)
        return NULL;
    memcpy(begin, word, len);
    begin[len] = '\0';
    for (; *words; words++) {
        char other[32];
        snprintf(other, sizeof other, "%.*s", (int)strcspn(*words, "="), *words);
        const int d = distance(begin, other, least);
        if (d < least)
            least = d, best = *words;
    }
    return best;
}

static int unknown_option(const char *word)
{
    static const char *const known[] = { "--workers", "--executor", "--progress", "--no-progress", "--log=tag", "--quiet", "--help",
                                         "--version", NULL };
    const char *near = nearest(word, known);
    if (!near)
        return usage("unknown option %s", word);
    fprintf(stderr, "tidepool: unknown option %s (did you mean %s?)\n", word, near);
    return EXIT_USAGE;
}

static bool is_progress_mode(const char *mode)
{
    static const char *const modes[] = { "line", "plain", "json", "off" };
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (strcmp(mode, modes[i]) == 0)
            return true;
    return false;
}

/* Does the word name this option, alone or as "--name=value"? Then *value is what it is to be, "nothing" when nothing is there. Returns how many
 * words it took, 0 when it is another one. */
static int value_option(const options *o, int i, const char *name, const char **value)
{
    const size_t len = strlen(name);
    const char *rest = o->argv[i] + len; /* "", or "=N" */
    if (strncmp(o->argv[i], name, len) != 0 || (*rest && *rest != '='))
        return 0;
    *value = *rest ? rest + 1 : o->argv[i + 1];
    if (!*value || !**value)
        *value = "nothing";
    return *rest ? 1 : 2;
}

/* Recognises the host's own options at argv[i], which `run` and `map` take anywhere. Returns how many words
 * it took, 0 when it is none, -1 after saying what is wrong. */
static int host_option(options *o, int i)
{
    static const char progress[] = "--progress=";
    const char *word = o->argv[i], *value;
    char *end;
    int n;
    if (strcmp(word, "--quiet") == 0)
        return o->quiet = true, 1;
    if (strcmp(word, "--log=tag") == 0)
        return o->tagged = true, 1;
    if (strcmp(word, "--no-progress") == 0)
        return o->progress = "off", 1;
    if (strcmp(word, "--progress") == 0)
        return o->progress = isatty(STDERR_FILENO) ? "line" : "plain", 1;
    if (strncmp(word, progress, sizeof progress - 1) == 0) {
        o->progress = word + sizeof progress - 1;
        if (is_progress_mode(o->progress))
            return 1;
        usage("--progress is line, plain, json or off, not %s", *o->progress ? o->progress : "nothing");
        return -1;
    }
    n = value_option(o, i, "--executor", &value);
    if (n > 0) {
        o->executor = value;
        if (strcmp(value, "threads") == 0 || strcmp(value, "inline") == 0)
            return n;
        usage("--executor is threads or inline, not %s", value);
        return -1;
    }
    n = value_option(o, i, "--workers", &value);
    if (n > 0) {
        const long workers = strtol(value, &end, 10);
        if (*end || workers < 1 || workers > WORKERS_MAX) {
            usage("--workers needs a number from 1 to 1024, not %s", value);
            return -1;
        }
        o->workers = (int)workers;
    }
    return n;
}

/* Takes the host's options out of the words after `run`, up to a "--". */
static int take_host_options(options *o, int i)
{
    while (i < o->argc && strcmp(o->argv[i], "--") != 0) {
        const int n = host_option(o, i);
        if (n < 0)
            return EXIT_USAGE;
        memmove(o->argv + i, o->argv + i + n, (size_t)(o->argc - i - n + 1) * sizeof *o->argv);
        o->argc -= n;
        i += n == 0;
    }
    return 0;
}

/* Does this option take an argument that is not in its own word? */
static bool takes_next(const char *word)
{
    return strchr("elj", word[1]) && !word[2];
}

/* The word at argv[i] is the first that is no option. */
static int parse_command(options *o, int i)
{
    o->script = i;
    if (i == o->argc)
        return 0;
    if (strcmp(o->argv[i], "run") == 0)
        o->command = RUN;
    else if (strcmp(o->argv[i], "map") == 0)
        o->command = MAP;
    else if (strcmp(o->argv[i], "help") == 0)
        o->command = HELP;
    else if (strcmp(o->argv[i], "devices") == 0)
        o->command = DEVICES;
    else
        return 0;
    o->script = i + 1;
    return o->command != HELP ? take_host_options(o, i + 1) : 0;
}

static int parse_long(options *o, int i)
{
    const int n = host_option(o, i);
    if (n != 0)
        return n;
    if (strcmp(o->argv[i], "--help") == 0)
        o->command = HELP;
    else if (strcmp(o->argv[i], "--version") == 0)
        o->command = VERSION;
    else
        return unknown_option(o->argv[i]), -1;
    return 1;
}

/* Reads the options; runs nothing. Returns 0, or the exit code after saying what is wrong. */
static int parse(options *o)
{
    int i = 1;
    for (; i < o->argc && o->argv[i][0] == '-' && o->argv[i][1]; i++) {
        const char *word = o->argv[i];
        if (strcmp(word, "--") == 0)
            return o->script = i + 1, 0; /* what follows is a script, whatever its name */
        if (word[1] == '-') {
            const int n = parse_long(o, i);
            if (n < 0)
                return EXIT_USAGE;
            if (o->command != SCRIPT)
                return o->script = o->argc, 0;
            i += n - 1;
            continue;
        }
        if (!strchr("eljObivE", word[1]) || (strchr("ivE", word[1]) && word[2]))
            return usage("unknown option %s", word);
        if (takes_next(word) && (++i >= o->argc))
            return usage("%s needs an argument", word);
        o->interactive |= word[1] == 'i';
        o->version |= word[1] == 'v';
        o->executes |= word[1] == 'e';
        o->no_env |= word[1] == 'E';
        if (word[1] == 'b')
            return o->command = BYTECODE, o->script = i, 0;
    }
    return parse_command(o, i);
}

/* ---- running ---- */

static void print_version(bool as_luajit)
{
    if (as_luajit)
        printf("%s -- Tidepool %s, libuv %s\n", LUAJIT_VERSION, TP_VERSION, uv_version_string());
    else {
        char loader[300];
        tp_cl_describe_loader(getenv("TIDEPOOL_OPENCL"), loader, sizeof loader);
        printf("Tidepool %s (%s, libuv %s, OpenCL loader: %s)\n", TP_VERSION, LUAJIT_VERSION, uv_version_string(), loader);
    }
}

/* Calls the chunk that luaL_load... left on the top; `status` is what that returned. */
static bool run_chunk(lua_State *L, int status, int nargs)
{
    if (status != 0) {
        tp_main_show_error(L);
        return false;
    }
    lua_insert(L, -nargs - 1);
    return tp_main_call(L, nargs, 0);
}

/* Pushes the table at a field, made if it is not there. */
static void push_field(lua_State *L, int t, const char *name)
{
    lua_getfield(L, t, name);
    if (lua_istable(L, -1))
        return;
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setfield(L, t, name);
}

/* Loads the text at the top, and leaves the chunk in its place; as luaL_loadbuffer. The text is kept, for who needs that of a function (the translator for
 * devices): registry["tidepool.texts"][name] is a list. */
static int load_text(lua_State *L, const char *name)
{
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);              // text
    push_field(L, LUA_REGISTRYINDEX, "tidepool.texts");         // text texts
    push_field(L, lua_gettop(L), name);                         // text texts list
    lua_pushvalue(L, -3);                                       // text texts list text
    lua_rawseti(L, -2, (int)lua_objlen(L, -2) + 1);             // text texts list
    lua_pop(L, 2);                                              // text
    int status = luaL_loadbuffer(L, text, len, name);           // text chunk or message
    lua_remove(L, -2);                                          // chunk or message
    return status;
}

static bool run_string(lua_State *L, const char *code, const char *name)
{
    lua_pushstring(L, code);
    return run_chunk(L, load_text(L, name), 0);
}

/* Loads all of standard input; as luaL_loadfile(L, NULL), but that its text is kept. */
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

static bool run_init(lua_State *L)
{
    const char *init = getenv("LUA_INIT");
    if (!init)
        return true;
    if (*init == '@')
        return run_chunk(L, luaL_loadfile(L, init + 1), 0);
    return run_string(L, init, "=LUA_INIT");
}

/* Runs -e, -l, -j and -O in their order. Stops at the first error. */
static bool run_options(lua_State *L, const options *o)
{
    for (int i = 1; i < o->script && o->argv[i][0] == '-'; i++) {
        const char *word = o->argv[i], *argument = word + 2, *name;
        bool fine = true;
        if (word[1] == '-') {
            i += strcmp(word, "--workers") == 0 || strcmp(word, "--executor") == 0;
            continue;
        }
        if (takes_next(word))
            argument = o->argv[++i];
        lua_pushstring(L, argument);
        switch (word[1]) {
        case 'e':
            fine = run_string(L, argument, "=(command line)");
            break;
        case 'l':
            lua_getfield(L, LUA_REGISTRYINDEX, require_key);
            lua_pushvalue(L, -2);
            fine = tp_main_call(L, 1, 0);
            break;
        case 'j':
        case 'O':
            name = word[1] == 'j' ? "jit" : "optimise";
            lua_pushvalue(L, -1);
            fine = tp_main_call_module(L, "tidepool.cli", name, 1, 0);
            break;
        }
        if (!fine)
            return false;
        lua_pop(L, 1);
    }
    return true;
}

/* arg[0] is the script, arg[1] its first argument, arg[-1] the word before the script. */
static void set_arg(lua_State *L, const options *o)
{
    lua_createtable(L, o->argc, o->script + 1);
    for (int i = 0; i < o->argc; i++) {
        lua_pushstring(L, o->argv[i]);
        lua_rawseti(L, -2, i - o->script);
    }
    lua_setglobal(L, "arg");
}

/* Pushes the words from argv[first] on; returns how many. */
static int push_words(lua_State *L, const options *o, int first)
{
    const int n = first < o->argc ? o->argc - first : 0;
    luaL_checkstack(L, n, "too many arguments");
    for (int i = first; i < o->argc; i++)
        lua_pushstring(L, o->argv[i]);
    return n;
}

static bool run_script(lua_State *L, const options *o)
{
    const char *name = o->argv[o->script];
    const bool from_stdin = strcmp(name, "-") == 0 && strcmp(o->argv[o->script - 1], "--") != 0;
    static const char *const commands[] = { "run", "map", "devices", "help", NULL };
    const int nargs = push_words(L, o, o->script + 1);
    const int status = from_stdin ? load_stdin(L) : luaL_loadfile(L, name);
    const char *near = status == LUA_ERRFILE && !strpbrk(name, "./") ? nearest(name, commands) : NULL;
    if (near) {
        lua_pushfstring(L, "%s (did you mean tidepool %s?)", lua_tostring(L, -1), near);
        lua_remove(L, -2);
    }
    return run_chunk(L, status, nargs);
}

/* Calls a command's Lua function with the words from argv[first] on. It returns an exit code, and
 * for a wrong use the one line that says what is wrong. */
static bool run_command(lua_State *L, options *o, const char *module, const char *name, int first)
{
    const int nargs = push_words(L, o, first);
    if (!tp_main_call_module(L, module, name, nargs, 2))
        return false;
    o->code = (int)lua_tointeger(L, -2);
    if (lua_isstring(L, -1))
        tp_main_show_error(L);
    return true;
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

/* Calls upvalue 1, a function that writes, with all arguments, without the progress line below it. */
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
    for (int i = first; i <= n; i++) { /* as the function itself would, but that this one has a name in the message */
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

/* Replaces the function in the table on the top. */
static void wrap(lua_State *L, const char *name, lua_CFunction fn, int before)
{
    lua_getfield(L, -1, name);
    lua_pushinteger(L, before);
    lua_pushcclosure(L, fn, 2);
    lua_setfield(L, -2, name);
}

/* Where a progress line, or a line that is typed, may be on the terminal, what the main state writes goes above it. Before the host is opened in the state, which takes
 * these functions for builtins. */
static void guard_output(lua_State *L)
{
    lua_pushvalue(L, LUA_GLOBALSINDEX);
    wrap(L, "print", l_print, 0);
    lua_getglobal(L, "io");
    wrap(L, "write", l_write, 0);
    luaL_getmetatable(L, LUA_FILEHANDLE);
    lua_getfield(L, -1, "__index");
    wrap(L, "write", l_write, 1);
    lua_pop(L, 4);
}

static const char *choose_progress(const options *o)
{
    if (o->quiet)
        return "off";
    if (o->progress)
        return o->progress;
    return tp_term_is_capable(STDERR_FILENO) && !is_set("CI") ? "line" : "off";
}

static void open_progress(lua_State *L, const char *mode)
{
    if (strcmp(mode, "off") == 0)
        return;
    lua_pushstring(L, mode);
    lua_pushcfunction(L, l_term_line);
    lua_pushcfunction(L, l_term_note);
    lua_pushcfunction(L, l_term_width);
    call_module(L, "tidepool.progress", "display", 4, 0);
}

/* Waits for what the script spawned. Failures that it has not asked about are shown, and make the
 * exit code 1. */
static bool run_loop(lua_State *L)
{
    bool fine = true;
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_getfield(L, -1, "tidepool");
    if (!lua_istable(L, -1))
        return true;
    lua_getfield(L, -1, "loop");
    if (!tp_main_call(L, 0, 1))                     // failures
        return false;
    for (int i = 1; lua_istable(L, -1) && i <= (int)lua_objlen(L, -1); i++) {
        lua_rawgeti(L, -1, i);
        push_description(L);
        show_error(L, NULL);
        lua_pop(L, 1);
        fine = false;
    }
    return fine;
}

static bool run_main(lua_State *L, options *o)
{
    const bool has_script = o->script < o->argc, reads_terminal = isatty(STDIN_FILENO);
    switch (o->command) {
    case VERSION:
        print_version(false);
        return true;
    case HELP:
        return run_command(L, o, "tidepool.cli", "help", o->script);
    case BYTECODE:
        return run_command(L, o, "tidepool.cli", "bytecode", o->script);
    case MAP:
        return run_command(L, o, "tidepool.pipe", "main", o->script);
    case DEVICES:
        return run_command(L, o, "tidepool.cli", "devices", o->script);
    case RUN:
        return run_command(L, o, "tidepool.run", "main", o->script);
    case SCRIPT:
        break;
    }
    if (has_script && !run_script(L, o))
        return false;
    if (o->interactive || (!has_script && !o->executes && !o->version && reads_terminal)) {
        if (!o->quiet)
            print_version(true);
        if (!o->quiet && reads_terminal)
            puts("help() tells what there is; Ctrl-D ends the session.");
        o->is_left = tp_repl_run(L);
    } else if (!has_script && !o->executes && !o->version) {
        return run_chunk(L, load_stdin(L), 0);
    }
    return true;
}

/* Makes the state ready and does what the options say. */
static int pmain(lua_State *L)
{
    options *o = lua_touserdata(L, 1);
    tp_error err = { 0 };

    if (o->no_env) {
        lua_pushboolean(L, 1);
        lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
    }
    lua_gc(L, LUA_GCSTOP, 0);
    luaL_openlibs(L);
    lua_gc(L, LUA_GCRESTART, 0);
    lua_getglobal(L, "os");
    lua_pushcfunction(L, l_os_exit);
    lua_setfield(L, -2, "exit");
    lua_getglobal(L, "require");
    lua_setfield(L, LUA_REGISTRYINDEX, require_key);
    const char *progress = choose_progress(o);
    if (strcmp(progress, "line") == 0 || isatty(STDOUT_FILENO))
        guard_output(L);
    if (tp_host_openlibs(the.host, L, &err) != 0)
        return luaL_error(L, "%s", err.message);
    open_progress(L, progress);
    set_arg(L, o);
    lua_settop(L, 0);
    if (o->version && !o->interactive)
        print_version(true);
    o->failed = !((o->no_env || run_init(L)) && run_options(L, o) && run_main(L, o) && (o->is_left || run_loop(L)));
    return 0;
}

/* ---- the process ---- */

/* As PID 1 (of a container) we would have to reap what others leave behind, and the kernel would
 * keep signals from us. So PID 1 only does that: it passes signals on to a child, which goes on as
 * the real program, and ends as it ends. */
static void become_child_of_init(void)
{
    sigset_t all, before;
    siginfo_t info;
    int status = 0;

    if (getpid() != 1)
        return;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    const pid_t child = fork();
    if (child <= 0) { /* a failed fork: better without than not at all */
        sigprocmask(SIG_SETMASK, &before, NULL);
        return;
    }
    for (;;) {
        const int sig = sigwaitinfo(&all, &info);
        if (sig == SIGCHLD) {
            for (pid_t ended; (ended = waitpid(-1, &status, WNOHANG)) > 0;)
                if (ended == child)
                    _exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
        } else if (sig > 0 && info.si_code != SI_KERNEL) { /* from the terminal: both get it */
            kill(child, sig);
        }
    }
}

#ifdef TP_MALLOC_STATE
#include <sanitizer/lsan_interface.h>

static void *allocate(void *user, void *old, size_t old_size, size_t size)
{
    (void)user, (void)old_size;
    void *block = size ? realloc(old, size) : NULL;
    if (!size)
        free(old);
    /* os.exit leaves this state open, and the JIT keeps pointers where LeakSanitizer does not look. Workers' states are closed, and are checked. */
    if (block)
        __lsan_ignore_object(block);
    return block;
}
#endif

/* Not luaL_newstate's: see host/heap.h. Sanitizer builds see the Lua heap only when it comes from malloc. */
static lua_State *new_state(void)
{
#ifdef TP_MALLOC_STATE
    return lua_newstate(allocate, NULL);
#else
    return tp_vm_new_state();
#endif
}

static int cannot_start(const char *why)
{
    fprintf(stderr, "tidepool: cannot start: %s\n", why);
    return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    options o = { .argc = argc, .argv = argv };
    tp_config config = { .size = sizeof config, .write = write_line };
    tp_error err = { 0 };
    char path[4096];

    open_standard_files();
    /* Freed memory is used again instead of being given back and faulted in anew, for blocks up to 32 MiB: see tp_vm_new_state. */
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 32 << 20);
    become_child_of_init();
    const int wrong = argc > 0 ? parse(&o) : EXIT_USAGE;
    if (wrong)
        return wrong;
    the.thread = pthread_self();
    the.pid = getpid();
    the.quiet = o.quiet;
    catch_signals();
    config.workers = o.workers;
    config.tag_lines = o.tagged;
    config.executor = o.executor;
    config.opencl = getenv("TIDEPOOL_OPENCL");
    config.cache_dir = tp_caches_own(path, sizeof path);
    tp_host *host = NULL;
    if (tp_host_open(&host, &config, &err) != 0)
        return cannot_start(err.message);
    the.host = host;
    the.host->before_opencl = tp_caches_prepare;
    if (!o.quiet)
        the.host->after_opencl = tp_caches_tell;
    the.L = new_state();
    if (!the.L)
        return cannot_start("not enough memory");
    if (lua_cpcall(the.L, pmain, &o) != 0) {
        tp_main_show_error(the.L);
        o.failed = true;
    }
    finish(o.failed ? EXIT_FAILURE : o.code, true);
}
