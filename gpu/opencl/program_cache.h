/* program_cache.h: programs for devices: compiled once per host, and stored on disk for the next
 * process (program_store.h). Programs with the same device, options, kernel name and source are
 * one.
 *
 * A program may be promised: it is in the cache, kernels may be made of it, and nothing is compiled
 * until somebody makes it (tp_program_make). */
#ifndef TP_PROGRAM_CACHE_H
#define TP_PROGRAM_CACHE_H

#include "base/ref.h"
#include "base/trace.h"
#include "opencl/life.h"
#include "opencl/widths.h"

struct tp_host;
struct tp_program;

/* The programs of a host. Belongs to exec_opencl.c, whose lock guards it. All zero except `host`:
 * no programs. */
typedef struct tp_program_cache {
    struct tp_host *host;         /* read-only */
    struct tp_program *programs;  /* the cache is one owner of each */
    _Atomic bool has_told;        /* it was said why nothing is stored; any thread (relaxed) */
} tp_program_cache;

/* PROMISED: it was not made yet. FAILED: it could not be. */
typedef enum tp_program_state {
    TP_PROGRAM_PROMISED, TP_PROGRAM_MADE, TP_PROGRAM_FAILED
} tp_program_state;

/* A source that is compiled for one device. Read-only once made, except that kernels made of the
 * cl_program belong to the threads that make them. */
typedef struct tp_program {
    tp_ref ref;
    tp_program_cache *cache;
    struct tp_program *next; /* in the cache; its owner's lock */
    tp_open_device open; /* its life is held */
    cl_program program; /* given back with the life's lock held, once that is over (then NULL) */
    char *name;         /* of the kernel */
    char *function;     /* that it was first made for, for people */
    char *text;         /* what identifies it: options, name and source, a line each */
    char *options;
    const char *source; /* in `text` */
    bool is_stored;     /* a binary of it was on disk when it was first asked for */
    uv_mutex_t making;  /* held by who makes it; taken before the life's lock */
    _Atomic int state;  /* a tp_program_state; set with `making` held (release; read: acquire) */
    char *stored_name;    /* under which its binary is stored (program_store.h); NULL: it is not */
    /* how long the device's thread has taken to make it, as was promised, and how (a
     * tp_build_how), until somebody is told (release, acquire); 0: there is nothing to tell */
    _Atomic uint64_t untold_ns;
    _Atomic int untold_how; /* relaxed: goes with untold_ns */
    _Atomic bool is_kept; /* it has been stored; set by whoever does it first (relaxed) */
    tp_widths *widths;    /* held; of its launches on a processor; NULL elsewhere */
} tp_program;

extern const tp_ref_type tp_program_type;

/* How a program was made that was not there before. */
typedef struct tp_built {
    uint64_t ns; /* how long that took; 0: it was there */
    tp_build_how how;
} tp_built;

/* Who waits for a program, for a trace. */
typedef struct tp_build_for {
    const char *function; /* its name */
    uint32_t worker;      /* whose thread it is; 0: the owner's */
    tp_built *built;      /* zeroed: where it is told, too; NULL: nowhere */
} tp_build_for;

/* Finds the program in the cache, or promises it; the caller becomes an owner. NULL with err set.
 * Called with the lock of the cache's owner held. */
tp_program *tp_program_promise(tp_program_cache *cache, const tp_open_device *open,
                               const char *source, const char *options, const char *name,
                               const char *function, tp_error *err);

/* Makes a promised program, unless somebody has: reads it from the disk, or builds it. -1 with err
 * set; if the compiler failed, *log is its log, to be freed. Blocks while it compiles. Any thread
 * that holds it. */
int tp_program_make(tp_program *p, tp_build_for who, char **log, tp_error *err);

tp_program_state tp_program_state_of(const tp_program *p);

/* Takes a program that could not be made out of the cache, so that it can be tried again. Called
 * with the lock of the cache's owner held. */
void tp_program_forget(tp_program_cache *cache, tp_program *p);

/* tp_program_promise and tp_program_make in one. Blocks while it compiles. Called with the lock of
 * the cache's owner held. */
tp_program *tp_program_open(tp_program_cache *cache, const tp_open_device *open, const char *source,
                            const char *options, const char *name, tp_build_for who, char **log,
                            tp_error *err);

/* Notes in the host's trace that somebody has waited for the program from `begun_ns` to `ended_ns`
 * (uv_hrtime). Any thread that holds the program. */
void tp_program_note_build(const tp_program *p, tp_build_how how, uint32_t worker,
                           uint64_t begun_ns, uint64_t ended_ns);

/* Gives back the programs of a life that is over. Other owners only keep the fact. Called with the
 * lock of the cache's owner held. */
void tp_program_cache_end(tp_program_cache *cache, const tp_life *life);

/* The program, for which the caller calls ReleaseProgram; NULL: its life is over. Any thread. */
cl_program tp_program_take(tp_program *p);

/* CreateKernel. Any thread. */
cl_kernel tp_program_new_kernel(tp_program *p, const char *name, cl_int *rc);

/* Does the program still have to be stored? Any thread. */
bool tp_program_is_new(const tp_program *p);

/* Stores the program on disk, once; any thread. Call it after the program's first launch: only then
 * does PoCL's binary have code for the local size. On a processor it waits until no launch of the
 * program is under way (widths.h). */
void tp_program_keep(tp_program *p);

/* Drops the programs in the cache. Other owners may go on using theirs, but must not store them any
 * more. */
void tp_program_cache_close(tp_program_cache *cache);

#endif
