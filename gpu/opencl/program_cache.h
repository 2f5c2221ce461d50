/* program_cache.h: programs for devices: compiled once per host, and kept on disk for the next
 * process (program_store.h). Programs of the same device, options, kernel name and source are one. */
#ifndef TP_PROGRAM_CACHE_H
#define TP_PROGRAM_CACHE_H

#include "base/ref.h"
#include "opencl/cl.h"

struct tp_host;
struct tp_program;

/* The programs of a host. Its owner's (exec_opencl.c), whose lock guards it; zeros, but for the
 * host, are one without programs. */
typedef struct tp_program_cache {
    struct tp_host *host;         /* read-only */
    struct tp_program *programs;  /* one owner each */
    _Atomic bool has_told;        /* why nothing is kept; any thread (relaxed) */
} tp_program_cache;

/* A source compiled for one device. Read-only once made, but for the cl_program: what is made of
 * that belongs to the thread that makes it. */
typedef struct tp_program {
    tp_ref ref;
    tp_program_cache *cache;
    struct tp_program *next; /* in the cache; its owner's lock */
    const tp_cl *cl;
    unsigned device; /* index in cl->devices */
    cl_program program;
    char *name;         /* of the kernel */
    char *text;         /* options, name, source, a line each: what it is known by */
    char *stored_name;    /* under which its binary is kept (program_store.h), NULL: it is not */
    _Atomic bool is_kept; /* it is there; set by whoever saves it first (relaxed) */
} tp_program;

extern const tp_ref_type tp_program_type;

/* Finds `source` in the cache, takes it from the disk, or builds it, with one more owner. NULL with
 * err set; *log is the compiler's when that is why, to be freed. Blocks while it compiles. With the
 * lock of the cache's owner held. */
tp_program *tp_program_open(tp_program_cache *cache, const tp_open_device *open, const char *source,
                            const char *options, const char *name, char **log, tp_error *err);

/* Is the program still to be kept? Any thread. */
bool tp_program_is_new(const tp_program *p);

/* Keeps the program on disk, once; any thread. For after its first launch: then PoCL's binary has
 * the code for the local size too, before it would have none. No kernel of it may be running: PoCL
 * 3.1 counts who uses its code by the local size alone, and ends the process
 * (pocl_release_dlhandle_cache) when one is compiled for the binary meanwhile. */
void tp_program_keep(tp_program *p);

/* Drops what is in the cache. Programs that others own stay theirs, but may not be kept any more. */
void tp_program_cache_close(tp_program_cache *cache);

#endif
