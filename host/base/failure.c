/* failure.c: the kinds of failures. */
#include "base/failure.h"

#include <string.h>

static const struct {
    const char *name;
    bool may_retry;
} kinds[] = {
#define ROW(kind, name, may_retry) { name, may_retry },
    TP_FAILURE_KINDS(ROW)
#undef ROW
};

const char *tp_failure_kind_name(tp_failure_kind kind)
{
    return kinds[kind].name;
}

tp_failure_kind tp_failure_kind_named(const char *name)
{
    for (tp_failure_kind k = 0; k < TP_FAILURE_KINDS_N; k++)
        if (strcmp(kinds[k].name, name) == 0)
            return k;
    return TP_KIND_ERROR;
}

bool tp_failure_kind_may_retry(tp_failure_kind kind)
{
    return kinds[kind].may_retry;
}

tp_failure_kind tp_failure_kind_of(tp_code code, tp_failure_kind otherwise)
{
    return code == TP_EMEMORY ? TP_KIND_MEMORY : otherwise;
}
