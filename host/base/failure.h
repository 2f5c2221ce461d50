/* failure.h: the kinds of failures that an input can have, with their names. */
#ifndef TP_FAILURE_H
#define TP_FAILURE_H

#include "tidepool.h"

#include <stdbool.h>

/* The kinds, in the order of their numbers: enumerator, the name that users see (what it means to
 * them stands in lua/tidepool/failure.lua), and whether `retries` repeat an attempt that failed so.
 * A failure that would come out the same again is not repeated. */
#define TP_FAILURE_KINDS(X)                                                             \
    X(ERROR, "error", true)                                                             \
    X(CODEC, "codec", false) X(MEMORY, "memory", true) X(CANCELLED, "cancelled", false) \
        X(CRASH, "crash", false) X(TIMEOUT, "timeout", true) X(DEVICE, "device", true)  \
            X(USAGE, "usage", false) X(RESOURCE, "resource", false) X(HALTED, "halted", false)

typedef enum tp_failure_kind {
#define TP_FAILURE_KIND_ENUM(kind, name, may_retry) TP_KIND_##kind,
    TP_FAILURE_KINDS(TP_FAILURE_KIND_ENUM)
#undef TP_FAILURE_KIND_ENUM
    TP_FAILURE_KINDS_N
} tp_failure_kind;

/* What Lua raises when it is out of memory, and what we raise then (tp_codec_raise_memory): this
 * string, without a file and line. LuaJIT has interned it in each state, so that raising it
 * allocates nothing. */
#define TP_NO_MEMORY "not enough memory"

const char *tp_failure_kind_name(tp_failure_kind kind);

/* The kind of that name; TP_KIND_ERROR when no kind is called so. */
tp_failure_kind tp_failure_kind_named(const char *name);

bool tp_failure_kind_may_retry(tp_failure_kind kind);

/* The failure kind for an error of ours: TP_KIND_MEMORY when it was for want of memory, else
 * `otherwise`. */
tp_failure_kind tp_failure_kind_of(tp_code code, tp_failure_kind otherwise);

#endif
