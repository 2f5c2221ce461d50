/* main.c: the `tidepool` binary from its start to its end.
 *
 * It is a drop-in for `luajit`, plus the commands `run`, `map`, `devices` and `help`. Only in this
 * folder does the product print, exit, read the environment or take signals.
 *
 * Every way out goes through finish(): it stops the host, closes the state where that is safe,
 * checks that standard output was really written, and dies by the signal that ended the process,
 * if one did. */
#include "base/system.h"
#include "host.h"
#include "program/cluster_worker.h"
#include "program/crash.h"
#include "program/dashboard.h"
#include "program/engine.h"
#include "program/errors.h"
#include "program/jobs.h"
#include "program/options.h"
#include "program/output.h"
#include "program/pocl_cache.h"
#include "program/process.h"
#include "program/profile.h"
#include "program/sanitized.h"
#include "program/script.h"
#include "program/signals.h"
#include "program/term.h"
#include "program/watch.h"
#include "program/worker.h"
#include "runtime/runtime.h"
#include "workers/state.h"
#include "workers/texts.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    /* factor for sanitizer builds, in which opening a Lua state alone may take that long */
    SLOWNESS = TP_IS_SANITIZED ? 20 : 1,
    STOP_MS = 250 * SLOWNESS, /* how long workers may take to come to rest at the end */
    /* then, how long they may take for what they must do before they end */
    LEAVE_MS = 6000 * SLOWNESS,
    /* then, how long for writing compiled programs, which have to be compiled once more for that:
     * a second each, and far more on a machine that has other work */
    KEEP_MS = 30000
};

/* The only way out of the process. close_state is false where Lua code of the state is still
 * running below us on the C stack (os.exit). */
static _Noreturn void finish(int code, bool close_state)
{
    lua_State *L = tp_process.L;
    bool at_rest = true, is_loading = false;

    if (getpid() != tp_process.pid) /* a forked child has no threads to wait for */
        exit(tp_output_flush(code));
    if (!tp_process.signal)
        tp_signals_be_patient(0); /* cancels the timer of an interrupted line of the session */
    tp_process.session = TP_NO_SESSION;
    tp_term_show("", 0);
    if (tp_process.signal) /* what was printed: patience may end while workers come to rest */
        code = tp_output_flush(code);
    if (close_state && L)
        tp_script_leave(L);
    if (tp_process.host)
        at_rest = tp_host_stop(tp_process.host, STOP_MS) == 0 ||
                  tp_host_finish_leaving(tp_process.host, LEAVE_MS) ||
                  (!tp_process.signal && tp_host_finish_keeping(tp_process.host, KEEP_MS));
    tp_dashboard_close();
    if (tp_process.host)
        tp_host_end_trace(tp_process.host);
    tp_profile_write();
    /* exit() would call destructors of the libraries which that thread loads */
    is_loading = tp_process.host && tp_host_is_loading_opencl(tp_process.host);
    if (close_state && at_rest && L && !tp_process.host->is_running) {
        tp_process.L = NULL;
        tp_profile_leave(L);
        lua_close(L);
        tp_host *host = tp_process.host;
        tp_signals_note_records();
        tp_process.host = NULL;
        tp_host_close(host);
    }
    code = tp_output_flush(code);
    if (tp_process.signal) {
        tp_signals_say_interrupted();
        tp_signals_die_by(tp_process.signal);
    }
    if (at_rest && !is_loading)
        exit(code);
    /* exit() flushes stdio, which may block for ever when a worker holds the lock of a FILE: end
     * the process after TP_PATIENCE_MS */
    tp_process.code = code;
    tp_signals_be_patient(TP_PATIENCE_MS);
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

/* Tells our Lua code the options about journals, if there are any. */
static void open_journal(lua_State *L, const tp_options *o)
{
    if (!o->journal && !o->explains && !o->quiet)
        return;
    lua_pushstring(L, o->journal); /* nil for NULL */
    lua_pushboolean(L, o->explains);
    lua_pushboolean(L, o->quiet);
    tp_errors_require(L, "tidepool.engine.journal", "configure", 3, 0);
}

/* Prepares the state and does what the options ask for. */
static int pmain(lua_State *L)
{
    tp_options *o = lua_touserdata(L, 1);
    tp_error err = { 0 };

    if (o->no_env) {
        lua_pushboolean(L, 1);
        lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
    }
    lua_gc(L, LUA_GCSTOP, 0);
    luaL_openlibs(L);
    lua_gc(L, LUA_GCRESTART, -1);
    lua_getglobal(L, "os");
    lua_pushcfunction(L, l_os_exit);
    lua_setfield(L, -2, "exit");
    lua_getglobal(L, "require");
    lua_setfield(L, LUA_REGISTRYINDEX, TP_REQUIRE_KEY);
    tp_texts_open(L);
    const char *progress = tp_output_choose_progress(o->progress, o->quiet);
    tp_process.speaks_json = strcmp(progress, "json") == 0;
    tp_output_guard(L, progress);
    if (tp_host_openlibs(tp_process.host, L, &err) != 0)
        return luaL_error(L, "%s", err.message);
    tp_output_open_progress(L, progress);
    open_journal(L, o);
    tp_script_set_arg(L, o);
    tp_script_report_modules(L, o);
    lua_settop(L, 0);
    const bool is_fine = (o->no_env || tp_script_run_init(L)) && tp_script_greet(o) &&
                         tp_script_run_options(L, o) && tp_script_run_main(L, o);
    o->failed = !is_fine || !(o->is_left || tp_script_run_loop(L, o));
    return 0;
}

/* ---- the process ---- */

/* As PID 1 of a container the process would have to reap orphans, and the kernel would not deliver
 * it signals that have no handler. So PID 1 does only this: it passes signals on to a child, which
 * is the real program, and ends as the child ends. */
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
    if (child <= 0) { /* fork failed: the program runs as PID 1 after all */
        sigprocmask(SIG_SETMASK, &before, NULL);
        return;
    }
    for (;;) {
        const int sig = sigwaitinfo(&all, &info);
        if (sig == SIGCHLD) {
            for (pid_t ended; (ended = waitpid(-1, &status, WNOHANG)) > 0;)
                if (ended == child)
                    _exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
        /* a signal from the terminal (SI_KERNEL) reaches the child by itself */
        } else if (sig > 0 && info.si_code != SI_KERNEL) {
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
    /* os.exit leaves the state open, and compiled code holds pointers where LeakSanitizer does not
     * look: so this block must not be reported. Workers' states are closed and checked. */
    if (block)
        __lsan_ignore_object(block);
    return block;
}
#endif

/* A state with our allocator, see host/base/heap.h. Sanitizers see the Lua heap only when it comes
 * from malloc. */
static lua_State *new_state(void)
{
#ifdef TP_MALLOC_STATE
    return lua_newstate(allocate, NULL);
#else
    return tp_state_new();
#endif
}

/* $TIDEPOOL_CACHE_SIZE: "64M", or 0 for no cache. False after saying what is wrong. */
static bool read_cache_size(tp_config *config)
{
    static const char units[] = "KMG";
    const char *text = getenv("TIDEPOOL_CACHE_SIZE");
    if (!text || !*text)
        return true;
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    const char *unit = *end ? strchr(units, *end) : NULL;
    unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
    if (*text < '0' || *text > '9' || errno || (*end && (!unit || end[1])) ||
        n << shift >> shift != n) {
        fprintf(stderr,
                "tidepool: TIDEPOOL_CACHE_SIZE is a size as 64M or 1G, or 0 for no cache, not %s\n",
                text);
        return false;
    }
    config->cache_bytes = n << shift;
    if (n == 0)
        config->cache_dir = NULL;
    return true;
}

static int cannot_start(const char *why)
{
    fprintf(stderr, "tidepool: cannot start: %s\n", why);
    return EXIT_FAILURE;
}

/* Opens the dashboard and prints its address, even with --quiet: without the address it is of no
 * use. */
static int open_dashboard(tp_host *host, unsigned port, tp_error *err)
{
    const char *address;
    if (tp_dashboard_open(host, port, &address, err))
        return -1;
    fprintf(stderr, "tidepool: the dashboard is at %s\n", address);
    return 0;
}

int main(int argc, char **argv)
{
    tp_options o = { .argc = argc, .argv = argv };
    tp_config config = { .size = sizeof config, .write = tp_output_write };
    tp_error err = { 0 };
    char path[4096], state[4096];

    tp_output_open();
    const bool is_worker = argc == 2 && strcmp(argv[1], "--worker") == 0;
    /* Freed memory is used again instead of being given back and faulted in anew, for blocks up to
     * 32 MiB: see tp_state_new. */
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 32 << 20);
#endif
    if (is_worker)
        return tp_worker_main();
    become_child_of_init();
    /* a copy: parsing removes words from argv */
    char **words = calloc((size_t)argc + 1, sizeof *words);
    if (!words)
        return cannot_start("not enough memory");
    memcpy(words, argv, (size_t)argc * sizeof *words);
    const int wrong = argc > 0 ? tp_options_parse(&o) : TP_EXIT_USAGE;
    if (!wrong && o.detaches)
        return tp_jobs_detach(words, o.argv[o.script]);
    free(words);
    if (wrong)
        return wrong;
    const char *workers = getenv("TIDEPOOL_WORKERS");
    if (workers && *workers && !o.workers &&
        tp_options_read_workers(&o, "TIDEPOOL_WORKERS", workers))
        return TP_EXIT_USAGE;
    const char *engine = getenv("TIDEPOOL_ENGINE");
    if (engine && *engine && !o.engine &&
        tp_options_read_engine(&o, "TIDEPOOL_ENGINE", engine))
        return TP_EXIT_USAGE;
    char token[TP_TOKEN_TEXT];
    o.token = o.engine ? tp_engine_find_token(o.command != WORKER, token) : NULL;
    if (o.command == ENGINE)
        return tp_engine_main(&o);
    if (o.command == WORKER)
        return tp_cluster_worker_main(&o);
    if (o.command == JOBS)
        return tp_jobs_list(&o);
    if (o.command == ATTACH)
        return tp_jobs_attach(&o);
    if (o.command == CANCEL)
        return tp_jobs_cancel(&o);
    if (o.watches && tp_watch_start(&o))
        return EXIT_FAILURE;
    tp_process.thread = pthread_self();
    tp_process.pid = getpid();
    tp_process.quiet = o.quiet;
    tp_process.colours = o.colours;
    tp_process.has_journal = o.journal != NULL;
    tp_process.session = tp_options_begin_with_session(&o) ? TP_SESSION_PROMPT : TP_NO_SESSION;
    tp_signals_catch();
    tp_crash_catch();
    config.workers = o.workers;
    config.tag_lines = o.tagged;
    config.executor = o.executor;
    config.engine = o.engine;
    config.token = o.token;
    config.opencl = getenv("TIDEPOOL_OPENCL");
    config.cache_dir = tp_caches_own(path, sizeof path);
    config.state_dir = tp_caches_state(state, sizeof state);
    config.verbose = o.verbose;
    config.trace = o.trace;
    config.report = o.report;
    config.worker = tp_is_set("TIDEPOOL_WORKER") ? getenv("TIDEPOOL_WORKER") : TP_SYSTEM_PROGRAM;
    if (!read_cache_size(&config))
        return TP_EXIT_USAGE;
    if (o.profile && tp_profile_open(o.profile, NULL, NULL, &err))
        return cannot_start(err.message);
    tp_host *host = NULL;
    if (tp_host_open(&host, &config, &err) != 0)
        return cannot_start(err.message);
    tp_process.host = host;
    if (o.dashboard && open_dashboard(host, o.port, &err))
        return cannot_start(err.message);
    tp_process.host->before_opencl = tp_caches_prepare;
    tp_process.host->loads_beside = true;
    if (!o.quiet)
        tp_process.host->after_opencl = tp_caches_tell;
    tp_process.L = new_state();
    if (!tp_process.L)
        return cannot_start("not enough memory");
    tp_profile_follow(host);
    tp_profile_enter(tp_process.L, NULL);
    if (lua_cpcall(tp_process.L, pmain, &o) != 0) {
        tp_errors_show(tp_process.L);
        o.failed = true;
    }
    finish(o.failed ? EXIT_FAILURE : o.code, true);
}
