/* tidepool.h: the public C API, and its manual.
 *
 * Tidepool runs Lua functions in parallel. One tp_host owns everything: the event loop, the worker
 * threads, the running maps. Several hosts in one process do not notice each other.
 *
 * Threads. The thread that calls tp_host_open is the host's owner. Every function here must be called
 * on it, except where its comment says "any thread".
 *
 * What the library asks of the process: nothing. It never exits, prints, reads the environment,
 * installs signal handlers, or keeps writable statics. What Lua code prints in a worker goes to
 * tp_config.write. Every failure is a return code (0 is success, -1 is failure) and a tp_error. */
#ifndef TIDEPOOL_H
#define TIDEPOOL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TP_VERSION "0.1.0"

#if defined(__GNUC__)
#define TP_API __attribute__((visibility("default")))
#else
#define TP_API
#endif

struct lua_State;

/* What went wrong, in the caller's memory: needs no allocation and no thread-local.
 * The first error wins; setting a second one changes nothing. */
typedef enum tp_code {
    TP_OK = 0,
    TP_EUSAGE,  /* the caller's mistake */
    TP_ECODEC,  /* a value that cannot travel, or bytes that are not a message */
    TP_EMEMORY, /* out of memory */
    TP_ESYS,    /* the system refused: threads, files, locks */
    TP_ELIMIT   /* a limit of Tidepool's own: nesting, sizes */
} tp_code;

typedef struct tp_error {
    tp_code code;
    char message[500]; /* NUL-terminated; cut with "..." where it would not fit */
} tp_error;

typedef struct tp_host tp_host;

/* How a host is to run. Zero in a field means its default. */
typedef struct tp_config {
    size_t size; /* sizeof(tp_config) of the caller: versions the struct */
    int workers; /* worker threads, 1 to 1024; default: the processors that this process may use */

    /* Receives what Lua code prints in a worker: whole lines, one call each, from any worker thread,
     * one call at a time. fd is 1 or 2. Default: printed lines are dropped. */
    void (*write)(void *user, int fd, const char *bytes, size_t len);
    void *user;
} tp_config;

/* Opens a host. Worker threads start with the first map that needs them, not here.
 * On success *out is the caller's, to be closed with tp_host_close. config may be NULL. */
TP_API int tp_host_open(tp_host **out, const tp_config *config, tp_error *err);

/* Cancels everything that runs, joins the workers and frees the host. Accepts NULL.
 * Blocks until running Lua functions have ended: one that never ends makes it wait forever; see
 * tp_host_stop. Lua states that had the host opened must be closed before. */
TP_API void tp_host_close(tp_host *host);

/* Cancels everything and waits at most timeout_ms for the workers to come to rest.
 * Returns 0 when all have, -1 when some still run (their threads are left alone; the process may still
 * _exit). After it the host runs nothing any more. */
TP_API int tp_host_stop(tp_host *host, unsigned timeout_ms);

/* Makes `require "tidepool"` work in L, bound to this host. L must be of the owner's thread and must
 * be closed before the host. */
TP_API int tp_host_openlibs(tp_host *host, struct lua_State *L, tp_error *err);

/* Any thread, also a signal handler. Makes the owner's waits raise "interrupted" (once), and starts no
 * further inputs. */
TP_API void tp_host_interrupt(tp_host *host);

/* Any thread, also a signal handler. Counts over the maps that are running now: results handed to
 * their readers, and inputs in all (0 when not known, as for an endless generator). */
TP_API void tp_host_counts(const tp_host *host, uint64_t *delivered, uint64_t *total);

#ifdef __cplusplus
}
#endif
#endif
