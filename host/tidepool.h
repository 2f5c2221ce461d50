/* tidepool.h: the public C API, and its manual.
 *
 * Tidepool runs Lua functions, and C functions, in parallel. One tp_host owns everything: the event loop, the worker threads, the running maps, and a
 * Lua state in which your Lua code is loaded. Several hosts in one process do not notice each other.
 *
 *     tp_host *host;
 *     tp_function *square;
 *     tp_map *map;
 *     tp_result r;
 *     tp_error err = { TP_OK, "" };
 *     double x[] = { 1, 2, 3 };
 *     const double *columns[] = { x };
 *     if (tp_host_open(&host, NULL, &err) == 0
 *         && tp_function_from_lua(&square, host, "square", "return function(x) return x * x end", NULL, &err) == 0
 *         && tp_map_doubles(&map, square, columns, 1, 3, NULL, &err) == 0) {
 *         while (tp_map_next(map, &r, &err) > 0)
 *             printf("%zu: %g\n", r.index, r.values[0].as.number);
 *     }
 *     if (err.code)
 *         fprintf(stderr, "%s\n", err.message);
 *     tp_host_close(host);
 *
 * Errors. A function that can fail returns 0 or -1 (tp_map_next: 1, 0 or -1), takes what it gives out first and a tp_error last, which may be
 * NULL. The first error wins: an err that holds one already is left as it is. What was to be given out is NULL, or empty, after a failure, and
 * NULL where a host, function, map, text or inputs are wanted is an error (TP_EUSAGE): a chain as above may also go without its checks, and look at err once.
 * What Lua code raised has a tp_failure besides, with its traceback.
 *
 * Threads. The thread that calls tp_host_open is the host's owner. Every function here must be called on it, except where its comment says "any thread";
 * on another one it fails with TP_ETHREAD and changes nothing (those without a tp_error give -1 or NULL, or do nothing). Worker threads run your Lua functions,
 * the C functions that you register, and tp_config.write; nothing else of yours. All callbacks with results come on the owner's thread, from inside
 * tp_host_step or your own uv_run. A child that the process forks cannot use the host (TP_EUSAGE): it may open one of its own.
 *
 * Loops. A program without a loop calls what blocks: tp_map_next, tp_map_read_doubles. A program with a loop never has to: it opens maps, gives each a
 * callback (tp_map_on_result), and lets its loop drive the host, in one of two ways:
 *   - a libuv loop: set tp_config.loop. The host adds handles to it, and is driven by your uv_run;
 *   - any other (poll, epoll, GLib): wait until tp_host_fd is readable, or tp_host_timeout has passed, then call tp_host_step.
 * Only tp_map_next, tp_map_read_doubles, tp_host_stop, tp_host_close, and the Lua code that you run on the owner's thread (tp_host_run_file and its like) may
 * block.
 *
 * What the library asks of the process: nothing. It never exits, prints, reads the environment, installs signal handlers, or keeps writable statics.
 * What Lua code prints, or writes to io.stdout and io.stderr, goes to tp_config.write. Only when a function asks for an OpenCL device is the system's loader
 * opened, which does as it likes. Of the libraries below, libuv aborts where the kernel takes back what a loop has (epoll_ctl fails), and LuaJIT exits where
 * it may not make its machine code executable.
 *
 * Memory. Strings and values that Tidepool gives you are its own; each function says for how long. What you give is copied, except for the inputs of
 * maps. A failed allocation is TP_EMEMORY. */
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
    TP_ETHREAD  /* called on a thread that is not the host's owner */
} tp_code;

/* In the caller's memory: needs no allocation and no thread-local. Begin with all zero. */
typedef struct tp_error {
    tp_code code;
    char message[500]; /* NUL-terminated; cut with "..." where it would not fit */
} tp_error;

/* ---- hosts ---- */

typedef struct tp_host tp_host;

/* How a host is to run. Zero in a field means its default. */
typedef struct tp_config {
    size_t size; /* sizeof(tp_config) of the caller: versions the struct */
    int workers; /* worker threads, 1 to 1024; default: the processors that this process may use */

    /* Receives what Lua code prints and writes: whole lines, one call each (but for one that an item leaves without its end; from code on the owner's thread:
     * as it is written), from any thread of the host's, one call at a time. fd is 1 or 2. Must not call back into the host. Default: what is printed is
     * dropped. */
    void (*write)(void *user, int fd, const char *bytes, size_t len);
    void *user;

    /* The caller's libuv loop, to be driven by; must be of the thread that calls tp_host_open. It is kept alive (uv_run returns only then) while maps with
     * a callback run. After tp_host_close run it once more, so that it lets go of the host's handles. Default: none. */
    struct uv_loop_s *loop;
    int tag_lines; /* not 0: what a worker prints begins with who it was, "w3 #17| " for worker 3 at input 17 */
    /* The path of the OpenCL loader, or of a driver, opened when a function asks for a device; default: libOpenCL.so.1, as the system finds it. Copied. */
    const char *opencl;
    /* A folder where compiled device programs are kept for the next process; made when it is missing. Default: they are not kept. Copied. */
    const char *cache_dir;
    const char *executor; /* "threads" or "inline": of functions that do not name one; default: "threads" */
} tp_config;

/* Opens a host; the calling thread is its owner from now on. Worker threads start with the first map that needs them, not here.
 * On success *out is the caller's, to be closed with tp_host_close. config may be NULL, and need not outlive the call. */
TP_API int tp_host_open(tp_host **out, const tp_config *config, tp_error *err);

/* Cancels everything that runs, joins the workers and frees the host with all of its functions and maps, without further callbacks. Accepts NULL.
 * Blocks until running functions have ended: one that never ends makes it wait forever; see tp_host_stop. From inside a callback, a registered C function, or
 * on another thread it does nothing. Lua states that had the host opened (tp_host_openlibs) must be closed before. */
TP_API void tp_host_close(tp_host *host);

/* Cancels everything and waits at most timeout_ms for the workers to come to rest. After it the host runs nothing any more.
 * Returns 0 when all have: tp_host_close will not block. -1 when some still run: their threads are left alone, and the host is to be left as it is; call
 * this again later, or let the process end. */
TP_API int tp_host_stop(tp_host *host, unsigned timeout_ms);

/* Makes `require "tidepool"` work in L, a LuaJIT state of the caller's, bound to this host. L must be of the owner's thread, have its standard libraries
 * open, and be closed before the host. */
TP_API int tp_host_openlibs(tp_host *host, struct lua_State *L, tp_error *err);

/* Any thread, also a signal handler; accepts NULL. Ends what the owner waits for now, or else the next wait: tp_map_next and tp_map_read_doubles fail with
 * kind "cancelled" and the message "interrupted", and their map is over; Lua code that waits has that raised; tp_host_step gives -1. Other maps go on. */
TP_API void tp_host_interrupt(tp_host *host);

/* Any thread. Forgets an interrupt that no wait has noticed, so that what runs next is not taken for what was meant. */
TP_API void tp_host_resume(tp_host *host);

/* Any thread, also a signal handler; accepts NULL. Counts over the maps that are running now: results handed to their readers, and inputs in all (0 when not
 * known, as for an endless generator). */
TP_API void tp_host_counts(const tp_host *host, uint64_t *delivered, uint64_t *total);

/* ---- the host in a loop of the caller's ---- */

/* A descriptor that is readable when tp_host_step has something to do; always the same. The host's own: only wait for it, until tp_host_close. */
TP_API int tp_host_fd(tp_host *host);

/* Milliseconds after which tp_host_step is to be called although the descriptor is not readable: 0 is now, -1 is never. Ask anew before each wait. */
TP_API int tp_host_timeout(tp_host *host);

/* Does what there is to do, without waiting: lets tasks go on (tidepool.async in Lua code that was run), and calls back with results that have come.
 * What fails in a task, and is not read by anybody, is a line for tp_config.write. -1 for TP_ETHREAD and TP_EUSAGE (called from inside itself), and where
 * tp_host_interrupt was called. With tp_config.loop it need not be called. */
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

/* A Lua value. Other things that Lua has (functions, userdata, 64-bit integers) do not reach C: a result with one in it is a failure that says so. */
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

/* A NUL-terminated string. */
static inline tp_value tp_string(const char *text)
{
    size_t n = 0;
    while (text[n])
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

/* The value of the field of that name in a table, of which it is a part; NULL when it has none. Any thread. */
TP_API const tp_value *tp_value_field(const tp_value *table, const char *name);

/* ---- failures ---- */

#define TP_NO_INDEX ((size_t)-1)

/* What an input of a map, or Lua code that was run, failed with. */
typedef struct tp_failure {
    const char *kind;      /* "error": Lua code raised, or a C function failed; "codec", "memory", "timeout", "crash", "cancelled", ...: see README.md */
    const char *message;   /* with the user's file and line in front where there is one */
    const char *traceback; /* the user's frames; "" when there is none */
    const char *text;      /* all of it as one readable text, of several lines */
    size_t index;          /* which input, from 0 (the texts count from 1, as Lua does); TP_NO_INDEX when it is no input's */
    unsigned attempts;     /* how often it was tried */
    tp_value value;        /* the error value itself: error { code = 7 } gives a table; nil where C could not read it */
} tp_failure;

/* The failure behind the last TP_ELUA of a function that takes the host: valid until the next call of one. NULL when there was none. */
TP_API const tp_failure *tp_host_failure(tp_host *host);

/* ---- Lua code on the owner's thread ---- */

/* Runs a Lua file, or `len` bytes of Lua code, in the host's own Lua state, here and now: blocks for as long as that takes. Functions that it decorates
 * (app:func) can be mapped from C afterwards: tp_function_find. `name` is Lua's chunk name, which messages begin with: "@file" or "=text"; NULL: the code
 * itself, shortened. os.exit raises an error in there. LUA_PATH is not read: set package.path. */
TP_API int tp_host_run_file(tp_host *host, const char *path, tp_error *err);
TP_API int tp_host_run_string(tp_host *host, const char *code, size_t len, const char *name, tp_error *err);

/* What a call has returned. */
typedef struct tp_values {
    const tp_value *items; /* the host's, until the next function that takes the host */
    size_t n;
} tp_values;

/* Calls a Lua function by its name, here and now, as Lua code would: an entry (app:main) of that name, a decorated function, or a global function
 * (also "table.concat"). NULL is the only entry there is. args are read before it returns; out may be NULL. Blocks for as long as the function takes. */
TP_API int tp_host_call(tp_values *out, tp_host *host, const char *name, const tp_value *args, size_t n, tp_error *err);

/* ---- functions ---- */

/* A function that can be mapped. Belongs to its host, which frees it at the latest in tp_host_close. */
typedef struct tp_function tp_function;

/* A function from Lua source: a chunk that returns it, as "return function(x) return x * x end". The chunk runs here and now; all that is given is copied.
 * `options` is NULL or a table value with what app:func takes: concurrency_limit, retries, executor, window, ...; see README.md. */
TP_API int tp_function_from_lua(tp_function **out, tp_host *host, const char *name, const char *source, const tp_value *options,
                                tp_error *err);

/* A function that Lua code has decorated, by its name, or "app.name" where several apps have one. */
TP_API int tp_function_find(tp_function **out, tp_host *host, const char *name, tp_error *err);

/* One call of a registered C function: what it gives its results to. */
typedef struct tp_call tp_call;

/* A registered C function. Runs on worker threads, several at once, so that it must be thread-safe (with executor = "inline" on the owner's); `in` are the n
 * arguments of one input, valid while it runs.
 * Returns 0, or what tp_call_fail gives. It may not call anything of Tidepool but tp_call_return, tp_call_fail and what is for any thread; it may not
 * throw or jump out. */
typedef int (*tp_c_function)(void *user, tp_call *call, const tp_value *in, size_t n);

/* Sets the results of the call: copies them. 0, or -1 when out of memory, which the function then should return. Called again, it replaces them. */
TP_API int tp_call_return(tp_call *call, const tp_value *results, size_t n);

/* The call has failed, with that message; gives -1, to be returned. */
TP_API int tp_call_fail(tp_call *call, const char *message);

/* Makes a C function mappable. `user` is passed on to it, and must stay valid until the host is closed. */
TP_API int tp_function_from_c(tp_function **out, tp_host *host, const char *name, tp_c_function fn, void *user, const tp_value *options,
                              tp_error *err);

/* Frees the handle; maps of the function go on. Accepts NULL. From inside a C function that the host runs it does nothing: tp_host_close will. */
TP_API void tp_function_close(tp_function *function);

/* ---- maps ---- */

/* A function running over inputs. The inputs stay the caller's: they are read while the map runs, and must stay as they are until it is over or
 * closed; a map of one input has read it when this returns. `options` is NULL or a table value with what f:map takes: return_exceptions, ordered,
 * window. On success *out is the caller's, to be closed with tp_map_close. Does not block; work starts now. */
typedef struct tp_map tp_map;

/* n inputs of `width` numbers each (1 to 8): input i is columns[0][i], columns[1][i], ... The array of columns itself is copied. */
TP_API int tp_map_doubles(tp_map **out, tp_function *function, const double *const *columns, size_t width, size_t n, const tp_value *options,
                          tp_error *err);

/* n inputs of one byte string each. */
typedef struct tp_span {
    const void *bytes;
    size_t len;
} tp_span;
TP_API int tp_map_bytes(tp_map **out, tp_function *function, const tp_span *inputs, size_t n, const tp_value *options, tp_error *err);

/* n inputs of `width` values each: input i is values[i * width], ..., values[i * width + width - 1]. */
TP_API int tp_map_values(tp_map **out, tp_function *function, const tp_value *values, size_t width, size_t n, const tp_value *options,
                         tp_error *err);

/* One input's outcome. */
typedef struct tp_result {
    size_t index;              /* which input, from 0 */
    const tp_value *values;    /* what the function returned; the map's, until its next step */
    size_t n;
    const tp_failure *failure; /* with return_exceptions: why there are no values; else NULL */
} tp_result;

/* The next result, in the order of the inputs unless the map was opened with ordered = false: waits for it. 1: *out is filled in; 0: there are no more;
 * -1: the map has failed with err, and is over: tp_map_failure says more. Also -1 where it was not called as it should be (TP_EUSAGE, TP_ETHREAD), which
 * leaves the map as it was. */
TP_API int tp_map_next(tp_map *map, tp_result *out, tp_error *err);

/* All (remaining) results as numbers: out[i] is that of input i; waits for them. Fails, and ends the map, when a result is not one number, or an index
 * is not below n; what came before is in out then. */
TP_API int tp_map_read_doubles(tp_map *map, double *out, size_t n, tp_error *err);

/* Called with each result, on the owner's thread: status 1 and a result, as tp_map_next gives them; then once with 0 (over) or -1 (failed; see
 * tp_map_failure) and a result that is NULL. It may call anything but tp_host_close and tp_host_step, also tp_map_close for this map. */
typedef void (*tp_map_callback)(void *user, tp_map *map, int status, const tp_result *result);

/* From now on results go to the callback instead of being read. The first call comes from the next step of the loop, not from here. Does not block; `user` is
 * passed on. */
TP_API int tp_map_on_result(tp_map *map, tp_map_callback callback, void *user, tp_error *err);

/* Why the map has failed; NULL when it has not. The map's, until it is closed. */
TP_API const tp_failure *tp_map_failure(const tp_map *map);

/* Drops what is queued; what runs is asked to stop, and its results are dropped. The map then fails with kind "cancelled", unless it was over. Does not
 * block. */
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

/* Cancels what is not finished and frees the map, without waiting for what runs: the inputs are the caller's again at once. Accepts NULL; does nothing inside a
 * C function that the host runs. */
TP_API void tp_map_close(tp_map *map);

#ifdef __cplusplus
}
#endif
#endif
