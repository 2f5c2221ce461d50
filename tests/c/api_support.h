/* api_support.h: what tests of the C API share. */
#ifndef TP_API_SUPPORT_H
#define TP_API_SUPPORT_H

#include "harness.h"
#include "tidepool.h"

#include <poll.h>

/* Fails a test with the library's message. */
#define OK(call)                   \
    do {                           \
        tp_error ok_err_ = { 0 };  \
        tp_error *e = &ok_err_;    \
        int ok_rc_ = (call);       \
        CHECK_STR("", e->message); \
        CHECK_INT(0, ok_rc_);      \
    } while (0)

__attribute__((unused)) static tp_host *open_host(void)
{
    tp_host *host;
    tp_config config = { .size = sizeof config, .workers = 3 };
    OK(tp_host_open(&host, &config, e));
    return host;
}

__attribute__((unused)) static tp_function *from_lua(tp_host *host, const char *source)
{
    tp_function *f;
    OK(tp_function_from_lua(&f, host, "f", source, NULL, e));
    return f;
}

/* Waits as a program with a loop of its own does, at most some milliseconds. */
__attribute__((unused)) static void wait_for_host(tp_host *host, int most_ms)
{
    struct pollfd p = { .fd = tp_host_fd(host), .events = POLLIN };
    int ms = tp_host_timeout(host);
    poll(&p, 1, ms < 0 || ms > most_ms ? most_ms : ms);
}

__attribute__((unused)) static const char square[] = "return function(x) return x * x end";

__attribute__((unused)) static tp_value option(const char *name, tp_value value, tp_pair *pair)
{
    *pair = (tp_pair){ tp_string(name), value };
    return tp_table(pair, 1);
}

#endif
