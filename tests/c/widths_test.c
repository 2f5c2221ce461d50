/* widths_test.c: launches of one program wait for the one that makes a version of its code, but not
 * for one that began long ago.
 *
 * The linker puts the functions below in the place of those that tell the time, and wait (see the
 * Makefile). */
#include "harness.h"
#include "opencl/widths.h"

#include <uv.h>

static uint64_t now = 1000 * 1000 * 1000, waited;

uint64_t __wrap_uv_hrtime(void);
int __wrap_uv_cond_timedwait(uv_cond_t *c, uv_mutex_t *m, uint64_t ns);

uint64_t __wrap_uv_hrtime(void)
{
    return now;
}

/* Nobody wakes. */
int __wrap_uv_cond_timedwait(uv_cond_t *c, uv_mutex_t *m, uint64_t ns)
{
    (void)c, (void)m;
    now += ns;
    waited += ns;
    return UV_ETIMEDOUT;
}

static const uint64_t SECOND = 1000 * 1000 * 1000;

TEST(a_launch_that_never_ends_is_waited_for_once)
{
    tp_widths *w = tp_widths_new();
    tp_widths_begin(w, 8);
    CHECK(waited == 0);
    now += 3 * SECOND;
    tp_widths_begin(w, 8);
    CHECK(waited > 0 && waited < 60 * SECOND);
    waited = 0;
    for (int i = 0; i < 10; i++) {
        tp_widths_end(w);
        tp_widths_begin(w, 8);
        now += SECOND;
    }
    CHECK(waited == 0);
    tp_widths_begin(w, 9); /* wider: it has to be alone, but for what began long ago */
    CHECK(waited < 60 * SECOND);
    tp_ref_drop(w);
}

TEST(a_launch_that_began_long_ago_is_not_waited_for)
{
    tp_widths *w = tp_widths_new();
    tp_widths_begin(w, 8);
    now += 60 * SECOND;
    tp_widths_begin(w, 8);
    CHECK(waited == 0);
    now += 60 * SECOND;
    tp_widths_begin(w, 16);
    CHECK(waited == 0);
    tp_ref_drop(w);
}

TEST(launches_of_the_same_width_run_beside_each_other)
{
    tp_widths *w = tp_widths_new();
    tp_widths_begin(w, 8);
    tp_widths_end(w);
    for (int i = 0; i < 3; i++)
        tp_widths_begin(w, 4 + (size_t)i);
    CHECK(waited == 0);
    tp_widths_begin(w, 9);
    CHECK(waited > 0);
    tp_ref_drop(w);
}
