/* own_loop.c: an agent's own loop. See own_loop.h. */
#include "runtime/own_loop.h"

#include "base/invariant.h"
#include "runtime/runtime.h"

#include <stdlib.h>

static void on_bell(uv_async_t *handle)
{
    (void)handle; /* all it has to do is make uv_run return */
}

/* As in loop.c: a timer that is due already does not end UV_RUN_ONCE by itself. */
static void on_timer(uv_timer_t *handle)
{
    uv_stop(handle->loop);
}

static void close_handle(uv_handle_t *handle, void *unused)
{
    (void)unused;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

int tp_own_loop_open(tp_agent *a, tp_error *err)
{
    if (a->own_loop)
        return 0;
    if (tp_loop_check_descriptors(err))
        return -1;
    tp_own_loop *own = calloc(1, sizeof *own);
    if (!own)
        return tp_error_oom(err, "event loop");
    int status = uv_loop_init(&own->loop);
    if (status == 0) {
        status = uv_async_init(&own->loop, &own->bell, on_bell);
        if (status)
            uv_loop_close(&own->loop);
    }
    if (status) {
        free(own);
        return tp_error_set(err, TP_ESYS, "cannot create an event loop: %s", uv_strerror(status));
    }
    uv_timer_init(&own->loop, &own->timer);
    uv_unref((uv_handle_t *)&own->bell);
    uv_unref((uv_handle_t *)&own->timer);
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
    uv_walk(&own->loop, close_handle, NULL);
    uv_run(&own->loop, UV_RUN_DEFAULT);
    uv_loop_close(&own->loop);
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
    if (mode == UV_RUN_ONCE && until_ns != UINT64_MAX) {
        uv_update_time(&own->loop);
        uv_timer_start(&own->timer, on_timer, (until_ns - now + 999999) / 1000000, 0);
    }
    uv_ref((uv_handle_t *)&own->bell); /* a loop that nothing keeps alive would not wait */
    own->is_running = true;
    uv_run(&own->loop, mode);
    own->is_running = false;
    uv_unref((uv_handle_t *)&own->bell);
    uv_timer_stop(&own->timer);
}

void tp_own_loop_turn(tp_agent *a, uint64_t deadline_ns)
{
    a->own_loop->has_run = false;
    tp_job_sleep(a, a->watched, a->watched_seen, a->n_watched, deadline_ns, run_until);
    if (!a->own_loop->has_run)
        run_until(a, 0);
}
