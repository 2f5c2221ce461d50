/* crash.c: says that the process has crashed, and which input did it.
 *
 * Items on threads run in this process, so an item that crashes (by a wrong pointer of the FFI,
 * say) takes everything with it. Before the process ends, the thread that crashed writes out what
 * was printed but not written yet, and a line with the function, the index and the input. All of
 * that happens in a signal handler: without locks, without allocating, with data that may be
 * broken. A second crash in it ends the process at once. */
#include "program/crash.h"

#include "engine/job.h"
#include "program/last_line.h"
#include "program/process.h"
#include "program/sanitized.h"
#include "runtime/runtime.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <string.h>
#include <unistd.h>

enum { SHOWN_MAX = 60 /* bytes of a string */ };

/* Control characters, which a terminal would obey, are left out. */
static void put_string(tp_last_line *l, const char *bytes, size_t len)
{
    tp_last_line_put_text(l, "\"");
    for (size_t i = 0; i < len && i < SHOWN_MAX; i++)
        tp_last_line_put(l, (unsigned char)bytes[i] < 32 || bytes[i] == 127 ? "?" : bytes + i, 1);
    tp_last_line_put_text(l, len > SHOWN_MAX ? "...\"" : "\"");
}

/* Whole numbers exactly, others with a few digits after the point. */
static void put_double(tp_last_line *l, double x)
{
    if (x != x || x > 1e15 || x < -1e15)
        return tp_last_line_put_text(l, "a number");
    if (x < 0)
        tp_last_line_put_text(l, "-");
    x = x < 0 ? -x : x;
    uint64_t whole = (uint64_t)x, millionths = (uint64_t)((x - (double)whole) * 1e6);
    tp_last_line_put_number(l, whole);
    if (millionths == 0)
        return;
    char digits[7] = ".000000";
    for (int i = 6; i > 0; i--, millionths /= 10)
        digits[i] = (char)('0' + millionths % 10);
    tp_last_line_put(l, digits, sizeof digits);
}

static void put_scalar(tp_last_line *l, const tp_block *b, const tp_scalar *x)
{
    switch (x->kind) {
    case TP_SCALAR_NUMBER: put_double(l, x->as.number); break;
    case TP_SCALAR_STRING:
        put_string(l, b->text.bytes + x->as.string.at, x->as.string.length);
        break;
    case TP_SCALAR_PINNED: put_string(l, x->as.pinned, x->pinned_length); break;
    case TP_SCALAR_TRUE: tp_last_line_put_text(l, "true"); break;
    case TP_SCALAR_FALSE: tp_last_line_put_text(l, "false"); break;
    default: tp_last_line_put_text(l, "nil");
    }
}

/* The arguments, where they are numbers and strings. Others are encoded messages, and are left
 * out. */
static void put_input(tp_last_line *l, const tp_block *b, uint32_t at)
{
    if (b->kind != TP_BLOCK_COLUMNS)
        return;
    tp_last_line_put_text(l, ": ");
    for (uint32_t c = 0; c < b->columns; c++) {
        tp_last_line_put_text(l, c ? ", " : "");
        if (b->type[c] == TP_MIXED)
            put_scalar(l, b, (const tp_scalar *)b->column[c] + at);
        else if (b->type[c] == TP_DOUBLE)
            put_double(l, ((const double *)b->column[c])[at]);
        else
            tp_last_line_put_text(l, "a number");
    }
}

static const char *name_of(int sig)
{
    switch (sig) {
    case SIGSEGV: return "segmentation fault";
    case SIGBUS: return "bus error";
    case SIGFPE: return "arithmetic error";
    case SIGILL: return "illegal instruction";
    default: return "abort";
    }
}

static void write_all(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, bytes, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        bytes += n;
        len -= (size_t)n;
    }
}

static void on_crash(int sig)
{
    const int saved = errno;
    tp_last_line l = { .len = 0 };
    const bool is_ours = tp_process.host &&
                         getpid() == tp_process.pid; /* not in a child that an item has forked */
    const tp_work *w = is_ours ? tp_engine_running_here(tp_process.host->engine) : NULL;
    tp_last_line_put_text(&l, "tidepool: ");
    tp_last_line_put_text(&l, name_of(sig));
    if (w) {
        uint32_t at = (uint32_t)tp_work_running(w);
        tp_last_line_put_text(&l, " in input ");
        tp_last_line_put_number(&l, w->block->first + at + 1);
        tp_last_line_put_text(&l, " of map '");
        tp_last_line_put_text(&l, w->terms->name);
        tp_last_line_put_text(&l, "' (worker ");
        tp_last_line_put_number(&l, (uint64_t)w->worker->index);
        tp_last_line_put_text(&l, ")");
        put_input(&l, w->block, at);
    }
    tp_last_line_put_text(&l, "\n");
    if (is_ours) {
#ifdef __GLIBC__ /* only there the inside of a FILE can be seen */
        write_all(STDOUT_FILENO, stdout->_IO_write_base, __fpending(stdout));
#endif
        write_all(STDERR_FILENO, l.text, l.len);
    }
    errno = saved;
    if (sig == SIGABRT)
        return; /* the default action ends the process when this handler returns */
    /* blocked until this handler returns; SA_RESETHAND has restored the default action */
    raise(sig);
}

void tp_crash_catch(void)
{
    if (TP_IS_SANITIZED) /* a sanitizer's report says more */
        return;
    static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT };
    struct sigaction action = { .sa_handler = on_crash, .sa_flags = (int)SA_RESETHAND }, old;
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
            sigaction(signals[i], &action, NULL);
}
