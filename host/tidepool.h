/* tidepool.h: the public C API, and its manual.
 *
 * Tidepool runs Lua functions, and C functions, in parallel. One tp_host owns everything: the event
 * loop, the worker threads, the running maps, and a Lua state in which your Lua code is loaded.
 * Several hosts in one process do not notice each other.
 *
 *     tp_host *host;
 *     tp_function *square;
 *     tp_map *map;
 *     tp_result r;
 *     tp_error err = { TP_OK, "" };
 *     double x[] = { 1, 2, 3 };
 *     const double *columns[] = { x };
 *     if (tp_host_open(&host, NULL, &err) == 0
 *         && tp_function_from_lua(&square, host, "square",
 *                                 "return function(x) return x * x end", NULL, &err) == 0
 *         && tp_map_doubles(&map, square, columns, 1, 3, NULL, &err) == 0) {
 *         while (tp_map_next(map, &r, &err) == TP_NEXT_RESULT)
 *             printf("%zu: %g\n", r.index, r.values[0].as.number);
 *     }
 *     if (err.code)
 *         fprintf(stderr, "%s\n", err.message);
 *     tp_host_close(host);
 *
 * Errors. A function that can fail returns 0 or -1 (those that read results: a tp_next). What it
 * gives out is its first parameter, a tp_error its last, which may be NULL. Each call sets err
 * anew, to TP_OK and no message when it succeeds; so a chain as above, which stops at the first
 * failure, leaves that failure in err. After a failure, what was to be given out is NULL or empty.
 * NULL for a host, function, map, text, place for what is given out, inputs, or parts of a value is
 * an error (TP_EUSAGE). So is a function or map that has been closed, as long as it is among the
 * last 64 of its kind and its host is open. For errors that Lua code raised there is a tp_failure
 * besides, with a traceback.
 *
 * Inputs. C counts them from 0: `index` in tp_result and tp_failure, and inputs[i] in messages
 * about your arrays. Texts (message, text, traceback) count them from 1, as Lua does: "input 3" is
 * the one with the index 2.
 *
 * Steps. A map makes a step whenever a result is taken from it: in tp_map_next and the like, and
 * before each call of its callback. What a step gives is valid until the map's next step, or until
 * the map is closed.
 *
 * Threads. The thread that calls tp_host_open is the host's owner, until another one calls
 * tp_host_adopt. Every function here must be called on the owner's thread, unless its comment says
 * "any thread"; on another thread it fails with TP_ETHREAD and changes nothing (functions without a
 * tp_error return -1 or NULL, or do nothing). Worker threads run your Lua functions, the C
 * functions that you register, and tp_config.write; nothing else of yours. All callbacks with
 * results come on the owner's thread, from inside tp_host_step or your own uv_run. A child that the
 * process forks cannot use the host (TP_EUSAGE): it may open one of its own.
 *
 * Loops. A program without a loop calls functions that block: tp_map_next, tp_map_read_doubles. A
 * program with a loop never has to block: it opens maps, gives each a callback (tp_map_on_result),
 * and lets its loop drive the host, in one of two ways:
 *   - a libuv loop: set tp_config.loop. The host adds handles to it, and is driven by your uv_run;
 *   - any other (poll, epoll, GLib): wait until tp_host_fd is readable, or tp_host_timeout has
 *     passed, then call tp_host_step.
 * Only tp_map_next (tp_map_next_timeout for a given time), tp_map_read_doubles, tp_host_stop,
 * tp_host_close, and Lua code that you run on the owner's thread (tp_host_run_file and the like)
 * may block.
 *
 * What the library asks of the process: nothing. It never exits, prints, reads the environment,
 * installs signal handlers, or keeps writable statics. Its threads, and those that OpenCL drivers
 * make, block all signals but SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGPIPE, SIGPROF, SIGSEGV, SIGSYS
 * and SIGTRAP, so that no other signal that is meant for the process comes to them. Commands that
 * Lua code starts on such a thread (os.execute, io.popen) get the signal mask of the thread that
 * opened the host; programs that C code starts there inherit the worker's mask. The owner's thread
 * should have a stack of 256 KiB at least. What is nested too deep for it to be encoded or decoded
 * is refused. Lua code that recurses through C functions (string.gsub or table.sort with a function
 * that does so again) gets LuaJIT's "stack overflow" only where there are 64 MiB, as workers have.
 * What Lua code prints, or writes to io.stdout and io.stderr, goes to tp_config.write. The system's
 * OpenCL loader, whose behaviour is not Tidepool's, is opened only when a function asks for a
 * device. Two libraries underneath can end the process: libuv aborts when the kernel refuses what
 * an event loop needs (epoll_ctl fails), and LuaJIT exits when it may not make its machine code
 * executable.
 *
 * C++ exceptions. A tp_map_callback may throw: the exception comes out of the tp_host_step that
 * called it, the host stays usable, and the next step goes on with the next result. (With
 * tp_config.loop it would pass through libuv's uv_run, which is not specified to allow that.) An
 * exception of a tp_c_function is an error of its input with the message "C++ exception", as is an
 * exception of tp_config.write while Lua code prints; in other places write must not throw. None of
 * these functions may longjmp.
 *
 * Memory. Strings and values that Tidepool gives you belong to it; each function says how long they
 * are valid. What you pass is copied, except for the inputs of maps. A failed allocation is
 * TP_EMEMORY. */
#ifndef TIDEPOOL_H
#define TIDEPOOL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this header; the first number is that of the ABI. */
#define TP_VERSION "0.1.0"

#if defined(__GNUC__)
#define TP_API __attribute__((visibility("default")))
#else
#define TP_API
#endif

struct lua_State;
struct uv_loop_s;

/* The version of the library that runs. Any thread. */
TP_API const char *tp_version(void);

/* ---- errors ---- */

/* What went wrong. Codes may be added. */
typedef enum tp_code {
    TP_OK = 0,
    TP_EUSAGE,  /* the caller's mistake */
    TP_ECODEC,  /* a value that cannot travel, or bytes that are not a message */
    TP_EMEMORY, /* out of memory */
    TP_ESYS,    /* the system refused: threads, files, locks */
    TP_ELIMIT,  /* a limit of Tidepool's own: nesting, sizes */
    TP_ELUA,    /* Lua code raised an error, or an input of a map failed: there is a tp_failure */
    TP_ETHREAD, /* called on a thread that is not the host's owner */
    /* called from inside a call of the host's that must return first: from a callback, or from Lua
     * code or a C function that it runs */
    TP_EBUSY,
    TP_ETIMEOUT /* the time that was given has passed */
} tp_code;

/* The outcome of one call. It lies in the caller's memory and needs no allocation and no
 * thread-local. */
typedef struct tp_error {
    tp_code code;
    char message[500]; /* NUL-terminated; cut with "..." where it would not fit */
} tp_error;

/* ---- hosts ---- */

typedef struct tp_host tp_host;

/* How a host should run. Zero in a field means its default. */
typedef struct tp_config {
    size_t size; /* sizeof(tp_config) of the caller: versions the struct */
    int workers; /* worker threads, 1 to 1024; default: the processors that this process may use, by
                    affinity and quota */

    /* Receives what Lua code prints and writes, in whole lines, one call each (an item's last line
     * may lack its end; code on the owner's thread is passed on as it writes). Called from any
     * thread of the host's, but only one call at a time. fd is 1 or 2. Must not call back into the
     * host. Default: what is printed is dropped. */
    void (*write)(void *user, int fd, const char *bytes, size_t len);
    void *user;

    /* The caller's libuv loop, which then drives the host; it must belong to the thread that calls
     * tp_host_open. While maps with a callback run it is kept alive (uv_run does not return). After
     * tp_host_close run it once more, so that it lets go of the host's handles. Default: none. */
    struct uv_loop_s *loop;
    int tag_lines; /* not 0: what a worker prints begins with who it was, "w3 #17| " for worker 3 at
                      input 17 */
    /* The path of the OpenCL loader, or of a driver, opened when a function asks for a device;
     * default: libOpenCL.so.1, as the system finds it. Copied. */
    const char *opencl;
    /* A folder where compiled device programs are kept for the next process; made when it is
     * missing. It must belong to the user who runs this process and be writable by nobody else, and
     * so must the files in it: others are ignored, and the programs compiled again. Default:
     * programs are not kept. Copied. */
    const char *cache_dir;
    const char *executor; /* of functions that do not name one, as their option `executor`:
                             "threads", "processes", "inline" or "cluster"; default: "threads" */
    /* A folder of the same kind for the key that authenticates kept programs, so that a program
     * which somebody else has put into cache_dir is not run. Default: cache_dir. Copied. */
    const char *state_dir;
    /* bytes of kept programs at most: those used longest ago are removed; default: 256 MiB */
    uint64_t cache_bytes;
    /* not 0: `write` gets a line (fd 2) about problems that are otherwise passed over, such as why
     * compiled programs are not kept */
    int verbose;
    /* The path of the program that worker processes run: `tidepool`, of the same build. It is
     * started when a function asks for processes. Default: the one that `make install` has put near
     * this library. Copied. */
    const char *worker;
    /* A file to which everything that happens in the host is written, from tp_host_open to
     * tp_host_close, in Chrome's trace format, for Perfetto (https://ui.perfetto.dev); compressed
     * when its name ends in ".gz", which needs zlib. It costs a few percent. When the disk is full
     * the host goes on, and `write` gets a line (fd 2). Default: none. Copied. */
    const char *trace;
    /* The address of a cluster's engine (its NATS server), "nats://127.0.0.1:4222", or over TLS
     * "tls://HOST:4222", and a coordinator's token for it (docs/cluster.md), for functions that the
     * executor "cluster" runs. Default: there is no cluster. Copied. */
    const char *engine, *token;
    /* A file to which tp_host_close writes what has happened as a page of HTML for people: when
     * each worker ran what, which items took longest, and what bounded the run, in words. The page
     * is self-contained and needs no network. The file is made by tp_host_open; costs and a full
     * disk are as for `trace`. Default: none. Copied. */
    const char *report;
} tp_config;

/* Opens a host; the calling thread is its owner from now on. Worker threads start with the first
 * map that needs them, not here. On success *out is the caller's, to be closed with tp_host_close.
 * config may be NULL, and need not outlive the call. */
TP_API int tp_host_open(tp_host **out, const tp_config *config, tp_error *err);

/* Cancels everything that runs, joins the workers and frees the host with all of its functions and
 * maps, without further callbacks. Accepts NULL. Blocks until running functions have ended, however
 * long that takes, since they use the host's memory and yours (of functions in C, of typed arrays):
 * one that never ends makes it wait forever, and so does a device that hangs or runs a kernel
 * without an end. After 3 s tp_config.write gets a line (fd 2) that says what is waited for. A
 * program that runs code of others stops first, and closes when that has worked:
 *
 *     if (tp_host_stop(host, 2000) == 0)
 *         tp_host_close(host);
 *
 * Returns TP_OK; or, without having done anything, TP_EBUSY from inside a callback or a function
 * that the host runs, TP_ETHREAD on another thread than the owner's, or TP_EUSAGE in a forked
 * child. Lua states in which the host was opened (tp_host_openlibs) must be closed before. */
TP_API tp_code tp_host_close(tp_host *host);

/* Any thread: it becomes the host's owner, and Lua states that have the host (tp_host_openlibs)
 * must be used on it from now on. The previous owner must have returned from its last call, and the
 * program must order the two threads, by a lock or by joining, so that this one sees what that one
 * has done. Fails with TP_EBUSY from inside a callback or a function that the host runs, and with
 * TP_EUSAGE where tp_config.loop drives the host, or in a forked child. */
TP_API int tp_host_adopt(tp_host *host, tp_error *err);

/* Cancels everything and waits at most timeout_ms for the workers to come to rest. After it the
 * host runs nothing any more. Returns 0 when all have come to rest: tp_host_close will not block.
 * -1 when some still run: they are left alone, and the host must stay open; call this again later,
 * or let the process end. */
TP_API int tp_host_stop(tp_host *host, unsigned timeout_ms);

/* Makes `require "tidepool"` work in L, a LuaJIT state of the caller's, bound to this host. L must
 * be of the owner's thread, have its standard libraries open, and be closed before the host. Each
 * state that has the host has its own tasks and its own luv handles: its uv.run and uv.walk see
 * only those, and closing the state closes them. */
TP_API int tp_host_openlibs(tp_host *host, struct lua_State *L, tp_error *err);

/* Any thread, also a signal handler; accepts NULL. Ends the wait that the owner is in, or else its
 * next one: tp_map_next and the like and tp_map_read_doubles fail with kind "cancelled" and the
 * message "interrupted", and their map is over; in Lua code that waits, that is raised;
 * tp_host_step gives -1. Other maps go on. */
TP_API void tp_host_interrupt(tp_host *host);

/* Any thread. Forgets an interrupt that no wait has noticed, so that it does not hit what runs
 * next. */
TP_API void tp_host_resume(tp_host *host);

/* Any thread, also a signal handler; accepts NULL. Counts over the maps that are running now:
 * results handed to their readers, and inputs in all (0 when not known, as for an endless
 * generator). */
TP_API void tp_host_counts(const tp_host *host, uint64_t *delivered, uint64_t *total);

/* ---- the host in a loop of the caller's ---- */

/* A descriptor that is readable when tp_host_step has something to do; always the same one. It
 * belongs to the host: only wait for it, and not after tp_host_close. */
TP_API int tp_host_fd(tp_host *host);

/* Milliseconds after which tp_host_step must be called even if the descriptor is not readable: 0 is
 * now, -1 is never. Ask again before each wait. */
TP_API int tp_host_timeout(tp_host *host);

/* Does what there is to do, without waiting: lets tasks go on (tidepool.async in Lua code that was
 * run, also in states with tp_host_openlibs), and calls callbacks with results that have come. A
 * task's failure that nobody reads is written as a line to tp_config.write. -1 for TP_ETHREAD and
 * TP_EBUSY (called from inside itself), and when tp_host_interrupt was called. With tp_config.loop
 * it need not be called. */
TP_API int tp_host_step(tp_host *host, tp_error *err);

/* ---- values ---- */

typedef enum tp_kind {
    TP_NIL = 0,
    TP_BOOLEAN,
    TP_NUMBER,
    TP_BYTES, /* a Lua string */
    TP_LIST,  /* a table with the keys 1 to n */
    TP_TABLE  /* any other table, as pairs */
} tp_kind;

struct tp_pair;

/* A Lua value. Functions, userdata and 64-bit integers do not reach C: a result that contains one
 * is a failure that says so. */
typedef struct tp_value {
    tp_kind kind;
    size_t n; /* TP_BYTES: how many; TP_LIST: items; TP_TABLE: pairs */
    union {
        int boolean;
        double number;
        const char *bytes; /* with a NUL behind them where they come from Tidepool */
        const struct tp_value *items;
        const struct tp_pair *pairs;
    } as;
} tp_value;

typedef struct tp_pair {
    tp_value key, value;
} tp_pair;

/* Makers of values. They copy nothing. */
static inline tp_value tp_nil(void)
{
    tp_value v;
    v.kind = TP_NIL;
    v.n = 0;
    v.as.bytes = NULL;
    return v;
}

static inline tp_value tp_boolean(int is_true)
{
    tp_value v = tp_nil();
    v.kind = TP_BOOLEAN;
    v.as.boolean = is_true != 0;
    return v;
}

static inline tp_value tp_number(double number)
{
    tp_value v = tp_nil();
    v.kind = TP_NUMBER;
    v.as.number = number;
    return v;
}

static inline tp_value tp_bytes(const char *bytes, size_t n)
{
    tp_value v = tp_nil();
    v.kind = TP_BYTES;
    v.n = n;
    v.as.bytes = bytes;
    return v;
}

/* A NUL-terminated string; of NULL a value that is refused where it is used. */
static inline tp_value tp_string(const char *text)
{
    size_t n = !text;
    while (text && text[n])
        n++;
    return tp_bytes(text, n);
}

static inline tp_value tp_list(const tp_value *items, size_t n)
{
    tp_value v = tp_nil();
    v.kind = TP_LIST;
    v.n = n;
    v.as.items = items;
    return v;
}

static inline tp_value tp_table(const tp_pair *pairs, size_t n)
{
    tp_value v = tp_nil();
    v.kind = TP_TABLE;
    v.n = n;
    v.as.pairs = pairs;
    return v;
}

/* ---- options ---- */

enum { TP_OPTIONS_MAX = 32 };

/* Options by their names, a line each; docs/functions.md has them:
 *
 *     tp_option_list o = tp_no_options();
 *     tp_option_number(&o, "retries", 3);
 *     tp_option_string(&o, "executor", "processes");
 *     tp_function_from_lua(&f, host, "f", source, tp_option_table(&o), &err);
 *
 * Names and strings are not copied: they are read when the table is used. More than TP_OPTIONS_MAX
 * are refused there. */
typedef struct tp_option_list {
    tp_pair pairs[TP_OPTIONS_MAX];
    size_t n; /* how many were set */
    tp_value table;
} tp_option_list;

static inline tp_option_list tp_no_options(void)
{
    tp_option_list o;
    o.n = 0;
    o.table = tp_nil();
    return o;
}

static inline void tp_option_value(tp_option_list *options, const char *name, tp_value value)
{
    if (options->n < TP_OPTIONS_MAX) {
        options->pairs[options->n].key = tp_string(name);
        options->pairs[options->n].value = value;
    }
    options->n++;
}

static inline void tp_option_number(tp_option_list *options, const char *name, double number)
{
    tp_option_value(options, name, tp_number(number));
}

static inline void tp_option_string(tp_option_list *options, const char *name, const char *text)
{
    tp_option_value(options, name, tp_string(text));
}

static inline void tp_option_boolean(tp_option_list *options, const char *name, int is_true)
{
    tp_option_value(options, name, tp_boolean(is_true));
}

/* The options as a table value, for functions that take one: a part of *options, as it is now. */
static inline const tp_value *tp_option_table(tp_option_list *options)
{
    options->table = tp_table(options->n <= TP_OPTIONS_MAX ? options->pairs : NULL, options->n);
    return &options->table;
}

/* The value of the field of that name in a table value, of which it is a part; NULL when there is
 * none. Any thread. */
TP_API const tp_value *tp_value_field(const tp_value *table, const char *name);

/* ---- failures ---- */

#define TP_NO_INDEX ((size_t)-1)

/* What an input of a map, or Lua code that was run, failed with. */
typedef struct tp_failure {
    const char *kind;      /* "error": Lua code raised, or a C function failed; "codec", "memory",
                              "timeout", "crash", "cancelled", ...: see docs/errors.md */
    const char *message;   /* with the user's file and line in front where there is one */
    const char *traceback; /* the user's frames; "" when there is none */
    const char *text;      /* all of it as one readable text, of several lines */
    size_t index; /* which input, from 0 (the texts count from 1, as Lua does); TP_NO_INDEX when it
                     is no input's */
    unsigned attempts;     /* how often it was tried */
    tp_value value; /* the error value itself: error { code = 7 } gives a table; nil where C could
                       not read it */
} tp_failure;

/* The failure behind the last TP_ELUA of a function that takes the host; valid until the next call
 * of such a function. NULL when there was none. */
TP_API const tp_failure *tp_host_failure(tp_host *host);

/* ---- Lua code on the owner's thread ---- */

/* Runs a Lua file, or `len` bytes of Lua code, in the host's own Lua state, here and now: blocks
 * for as long as that takes. Functions that it decorates (app:func) can be mapped from C
 * afterwards: tp_function_find. When what has the same path, name, or, without one, the same code
 * is run again, the Apps that it makes take the place of those from before. `name` is Lua's chunk
 * name, which messages begin with: "@file" or "=text"; NULL: the code itself, shortened. os.exit
 * raises an error in there. LUA_PATH is not read: set package.path. */
TP_API int tp_host_run_file(tp_host *host, const char *path, tp_error *err);
TP_API int tp_host_run_string(tp_host *host, const char *code, size_t len, const char *name,
                              tp_error *err);

/* What a call has returned. */
typedef struct tp_values {
    /* the host's; valid until the next function that takes the host is called */
    const tp_value *items;
    size_t n;
} tp_values;

/* Calls a Lua function by its name, here and now, as Lua code would: an entry (app:main) of that
 * name, a decorated function, or a global function (also "table.concat"). With name NULL: the only
 * entry; an error when there are several. args are read before it returns; out may be NULL. Blocks
 * for as long as the function takes. */
TP_API int tp_host_call(tp_values *out, tp_host *host, const char *name, const tp_value *args,
                        size_t n, tp_error *err);

/* ---- functions ---- */

/* A function that can be mapped. Belongs to its host, which frees it at the latest in
 * tp_host_close. */
typedef struct tp_function tp_function;

/* A function from Lua source: a chunk that returns it, as "return function(x) return x * x end".
 * The chunk is run at once; everything that is passed is copied. `options` is NULL or a table value
 * with options of app:func: concurrency_limit, retries, ...: see docs/functions.md. */
TP_API int tp_function_from_lua(tp_function **out, tp_host *host, const char *name,
                                const char *source, const tp_value *options, tp_error *err);

/* A function by its name: one that Lua code has decorated (or "app.name" where several apps have
 * one), or one that was made by the functions here, until that handle is closed. *out is a new
 * handle, to be closed on its own. */
TP_API int tp_function_find(tp_function **out, tp_host *host, const char *name, tp_error *err);

/* One call of a registered C function, which takes its results. */
typedef struct tp_call tp_call;

/* A registered C function. Runs on worker threads, several at once, so that it must be thread-safe
 * (with executor = "inline" on the owner's); `in` are the n arguments of one input, valid while it
 * runs. Returns 0; what is not 0, or tp_call_fail, is a failure of the input. It may call
 * tp_call_return, tp_call_fail and the functions marked "any thread", and nothing else of
 * Tidepool's; it must not longjmp out. For C++ exceptions see the top of this file. */
typedef int (*tp_c_function)(void *user, tp_call *call, const tp_value *in, size_t n);

/* Sets the results of the call, which are copied. 0, or -1 when that is not possible (out of
 * memory, NULL in them): the call has failed then. Called again, it replaces the results, and
 * undoes a tp_call_fail. */
TP_API int tp_call_return(tp_call *call, const tp_value *results, size_t n);

/* Makes the call fail with that message, whatever the function returns; gives -1, to be
 * returned. */
TP_API int tp_call_fail(tp_call *call, const char *message);

/* Makes a C function that can be mapped. `user` is passed on to it, and must stay valid until the
 * host is closed. */
TP_API int tp_function_from_c(tp_function **out, tp_host *host, const char *name, tp_c_function fn,
                              void *user, const tp_value *options, tp_error *err);

/* Frees the handle; maps of the function go on. Accepts NULL. From inside a C function that the
 * host runs it does nothing: tp_host_close will. */
TP_API void tp_function_close(tp_function *function);

/* ---- maps ---- */

/* A function running over inputs. The inputs stay the caller's: they are read while the map runs,
 * and must stay as they are until it is over or closed; a map of one input has read it when this
 * returns. `options` is NULL or a table value with what f:map takes: return_exceptions, ordered,
 * window. On success *out is the caller's, to be closed with tp_map_close. Does not block: this
 * reads inputs for some milliseconds, and later steps of the loop read the rest, for some
 * milliseconds each. (A single input is read in one piece, however long that takes.) Work starts
 * now. */
typedef struct tp_map tp_map;

/* n inputs of `width` numbers each (1 to 8): input i is columns[0][i], columns[1][i], ... The array
 * of columns itself is copied. */
TP_API int tp_map_doubles(tp_map **out, tp_function *function, const double *const *columns,
                          size_t width, size_t n, const tp_value *options, tp_error *err);

/* n inputs of one byte string each. */
typedef struct tp_span {
    const void *bytes;
    size_t len;
} tp_span;
TP_API int tp_map_bytes(tp_map **out, tp_function *function, const tp_span *inputs, size_t n,
                        const tp_value *options, tp_error *err);

/* n inputs of `width` values each: input i is values[i * width], ..., values[i * width + width -
 * 1]. */
TP_API int tp_map_values(tp_map **out, tp_function *function, const tp_value *values, size_t width,
                         size_t n, const tp_value *options, tp_error *err);

/* One input's outcome. */
typedef struct tp_result {
    size_t index;              /* which input, from 0 */
    const tp_value
        *values; /* what the function returned; the map's, until its next step (see above) */
    size_t n;
    const tp_failure *failure; /* with return_exceptions: why there are no values; else NULL */
} tp_result;

/* The outcome of reading a map. Negative: err says more. */
typedef enum tp_next {
    TP_NEXT_RESULT = 1,   /* there is a result */
    TP_NEXT_END = 0,      /* there are no more */
    TP_NEXT_FAILED = -1,  /* the map has failed, and is over: tp_map_failure says more */
    /* the call was wrong (TP_EUSAGE, TP_ETHREAD, TP_EBUSY): the map is unchanged */
    TP_NEXT_REFUSED = -2,
    TP_NEXT_TIMEOUT = -3  /* there is no result yet (TP_ETIMEOUT): the map goes on */
} tp_next;

/* The next result, in the order of the inputs unless the map was opened with ordered = false: waits
 * for it. With TP_NEXT_RESULT *out is filled in. */
TP_API tp_next tp_map_next(tp_map *map, tp_result *out, tp_error *err);

/* The same, but waits at most timeout_ms milliseconds. 0: does not wait; then a function with
 * executor = "inline" makes no progress, since it only runs while somebody waits. */
TP_API tp_next tp_map_next_timeout(tp_map *map, tp_result *out, unsigned timeout_ms, tp_error *err);

/* Waits for all (remaining) results, which must be numbers: out[i] is that of input i. TP_NEXT_END
 * when all are there. Fails, and ends the map, when a result is not one number, or an index is not
 * below n; earlier results are in out then. */
TP_API tp_next tp_map_read_doubles(tp_map *map, double *out, size_t n, tp_error *err);

/* Called with each result, on the owner's thread: TP_NEXT_RESULT and a result, as tp_map_next gives
 * them; then once with TP_NEXT_END or TP_NEXT_FAILED (see tp_map_failure) and a result that is
 * NULL. It may call anything but tp_host_close and tp_host_step, also tp_map_close for this map. */
typedef void (*tp_map_callback)(void *user, tp_map *map, tp_next status, const tp_result *result);

/* From now on results go to the callback instead of being read. Its first call comes from the next
 * step of the loop, not from here. Does not block; `user` is passed on to it. */
TP_API int tp_map_on_result(tp_map *map, tp_map_callback callback, void *user, tp_error *err);

/* Why the map has failed; NULL when it has not. The map's, until it is closed. */
TP_API const tp_failure *tp_map_failure(const tp_map *map);

/* Drops what is queued and asks running items to stop; their results are dropped. The map then
 * fails with kind "cancelled", unless it was over. Does not block. */
TP_API int tp_map_cancel(tp_map *map, tp_error *err);

typedef struct tp_progress {
    uint64_t total;   /* inputs */
    uint64_t done;    /* have a result or a failure */
    uint64_t failed;  /* of those */
    uint64_t taken;   /* results that were read */
    uint64_t retried; /* attempts that were repeated */
} tp_progress;

/* How far the map is. Does not block. */
TP_API int tp_map_progress(tp_map *map, tp_progress *out, tp_error *err);

/* Cancels what is not finished and frees the map, without waiting for running items: the inputs are
 * the caller's again at once. Accepts NULL; does nothing inside a C function that the host runs. */
TP_API void tp_map_close(tp_map *map);

#ifdef __cplusplus
}
#endif
#endif
