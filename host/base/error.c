/* error.c: filling a tp_error. */
#include "base/error.h"

#include "base/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

int tp_error_set(tp_error *err, tp_code code, const char *format, ...)
{
    if (!err || err->code != TP_OK)
        return -1;
    err->code = code;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    if (n >= (int)sizeof err->message) {
        strcpy(err->message + tp_text_cut(err->message, sizeof err->message - 4), "...");
    }
    return -1;
}

int tp_error_check_given(const void *p, const char *function, const char *name, tp_error *err)
{
    return p ? 0 : tp_error_set(err, TP_EUSAGE, "%s: %s is NULL", function, name);
}

int tp_error_oom(tp_error *err, const char *what)
{
    return tp_error_set(err, TP_EMEMORY, "out of memory: %s", what);
}

int tp_error_system(tp_error *err, tp_code code, const char *what, int why)
{
    struct rlimit files;
    if (why != EMFILE || getrlimit(RLIMIT_NOFILE, &files))
        return tp_error_set(err, code, "%s: %s", what, strerror(why));
    return tp_error_set(err, code, "%s: %s (the limit is %llu, see ulimit -n)", what,
                        strerror(why), (unsigned long long)files.rlim_cur);
}
