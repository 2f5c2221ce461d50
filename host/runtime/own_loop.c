/* own_loop.c: an agent's own loop. See own_loop.h. */
#include "runtime/own_loop.h"

#include "base/invariant.h"
#include "runtime/runtime.h"

#include <stdlib.h>

int tp_own_loop_open(tp_agent *a, tp_error *err)
{
    if (a->own_loop)
        return 0;
    tp_own_loop *own = calloc(1, sizeof *own);
    if (!own)
        return tp_error_oom(err, "event loop");
    if (tp_loop_init(&own->loop, &own->bell, &own->timer, err)) {
        free(own);
        return -1;
    }
    a->own_loop = own;
    tp_agent_set_bell(a, &own->bell);
    return 0;
}

void tp_own_loop_close(tp_agent *a)
{
    tp_own_loop *own = a->own_loop;
    if (!own)
        return;
    tp_agent_set_bell(a, NULL);
    a->own_loop = NULL;
    tp_loop_end(&own->loop);
    free(own);
}

/* Runs the loop until something happens, but not beyond a time. */
static void run_until(tp_agent *a, uint64_t until_ns)
{
    tp_own_loop *own = a->own_loop;
    uint64_t now = uv_hrtime();
    uv_run_mode mode = until_ns > now ? UV_RUN_ONCE : UV_RUN_NOWAIT;
    TP_ASSERT(!own->is_running);
    own->has_run = true;
    own->is_running = true;
    tp_loop_run(&own->loop, &own->bell, &own->timer, mode,
                until_ns == UINT64_MAX ? UINT64_MAX : until_ns - now);
    own->is_running = false;
}

void tp_own_loop_turn(tp_agent *a, uint64_t deadline_ns)
{
    a->own_loop->has_run = false;
    tp_job_sleep(a, a->watched, a->watched_seen, a->n_watched, deadline_ns, run_until);
    if (!a->own_loop->has_run)
        run_until(a, 0);
}
