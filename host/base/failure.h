/* failure.h: the kinds of failures that an input can have, with their names. */
#ifndef TP_FAILURE_H
#define TP_FAILURE_H

#include "tidepool.h"

#include <stdbool.h>

/* What fails, in the order of their numbers; `name` is what users see. What each means to them stands in lua/tidepool/failure.lua. Is an attempt that ended
 * so repeated under `retries`? What comes out the same the next time is not. */
#define TP_FAILURE_KINDS(X) \
    X(ERROR, "error", true) X(CODEC, "codec", false) X(MEMORY, "memory", true) X(CANCELLED, "cancelled", false) X(CRASH, "crash", false) \
    X(TIMEOUT, "timeout", true) X(DEVICE, "device", true) X(USAGE, "usage", false) X(RESOURCE, "resource", false) \
    X(HALTED, "halted", false)

typedef enum tp_failure_kind {
#define TP_FAILURE_KIND_ENUM(kind, name, may_retry) TP_KIND_##kind,
    TP_FAILURE_KINDS(TP_FAILURE_KIND_ENUM)
#undef TP_FAILURE_KIND_ENUM
    TP_FAILURE_KINDS_N
} tp_failure_kind;

/* What Lua raises where it has no memory, and what we do (tp_codec_raise_memory): this string, without a place. LuaJIT has it in each state, so that raising it
 * takes none. */
#define TP_NO_MEMORY "not enough memory"

const char *tp_failure_kind_name(tp_failure_kind kind);

/* The kind of that name; TP_KIND_ERROR for one that is none. */
tp_failure_kind tp_failure_kind_named(const char *name);

bool tp_failure_kind_may_retry(tp_failure_kind kind);

/* What it is for an input or a map to have failed with such an error of ours, which is not for want of memory but `otherwise`. */
tp_failure_kind tp_failure_kind_of(tp_code code, tp_failure_kind otherwise);

#endif
