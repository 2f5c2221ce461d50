/* attach.c: the host in the caller's loop: a libuv loop, or any other (poll, epoll, GLib) by a
 * descriptor.
 *
 * The caller's loop waits for the backend descriptor of the host's own loop, which is readable when
 * something has happened there. It then calls tp_host_step, which makes one turn of the host's loop
 * without waiting. So nothing of the host's runs in the caller's loop except inside a call that the
 * caller made. */
#include "embed/api.h"

#include "base/error.h"
#include "lua/core.h"

#include <limits.h>
#include <stdlib.h>

/* Handles on the caller's loop; freed when the loop has closed all of them. */
struct tp_attachment {
    tp_host *host;
    uv_poll_t poll;       /* the host's descriptor; keeps the loop alive while it is held */
    uv_prepare_t prepare; /* sets how long the loop may wait */
    uv_timer_t timer;
    int n_open;
};

int tp_host_timeout(tp_host *host)
{
    if (!host || tp_host_check_owner(host, NULL))
        return -1;
    /* uv_backend_timeout of a loop that nothing keeps alive is 0, which means now */
    uv_ref((uv_handle_t *)&host->wake_up);
    uv_update_time(&host->loop);
    int ms = uv_backend_timeout(&host->loop);
    uv_unref((uv_handle_t *)&host->wake_up);
    uint64_t due_ns = tp_api_due(host->api), states_ns = tp_lua_core_due(host);
    due_ns = states_ns < due_ns ? states_ns : due_ns;
    /* what tp_host_step does then, too: who waits sees to slices that keep something back */
    uint64_t share_ns = tp_engine_share(host->engine);
    due_ns = share_ns && share_ns < due_ns ? share_ns : due_ns;
    if (due_ns == UINT64_MAX)
        return ms;
    uint64_t now = uv_hrtime(), due_ms = due_ns > now ? (due_ns - now + 999999) / 1000000 : 0;
    return ms >= 0 && (uint64_t)ms < due_ms ? ms : due_ms < INT_MAX ? (int)due_ms : INT_MAX;
}

static void end_step(tp_host **host)
{
    (*host)->is_stepping = false;
}

int tp_host_step(tp_host *host, tp_error *err)
{
    tp_error_begin(err);
    if (tp_error_check_given(host, __func__, "host", err) || tp_host_check_owner(host, err))
        return -1;
    if (host->is_stepping)
        return tp_error_set(err, TP_EBUSY, "tp_host_step is called from inside itself");
    if (host->is_running)
        return tp_error_set(err, TP_EBUSY, "tp_host_step is called from inside the host's loop");
    /* runs end_step also when a callback of a C++ program throws */
    __attribute__((cleanup(end_step))) tp_host *stepping = host;
    stepping->is_stepping = true;
    int rc = 0;
    if (host->api)
        rc = tp_api_step(host->api, err);
    else
        tp_host_turn(host, 0, false);
    if (tp_lua_core_step(host))
        rc = -1;
    return rc;
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    (void)status, (void)events;
    tp_attachment *a = poll->data;
    tp_host_step(a->host, NULL);
}

static void on_timer(uv_timer_t *timer)
{
    tp_attachment *a = timer->data;
    tp_host_step(a->host, NULL);
}

static void on_prepare(uv_prepare_t *prepare)
{
    tp_attachment *a = prepare->data;
    int ms = tp_host_timeout(a->host);
    if (ms < 0)
        uv_timer_stop(&a->timer);
    else
        uv_timer_start(&a->timer, on_timer, (uint64_t)ms, 0);
}

static void on_closed(uv_handle_t *handle)
{
    tp_attachment *a = handle->data;
    if (--a->n_open == 0)
        free(a);
}

int tp_attach(tp_attachment **out, tp_host *host, uv_loop_t *loop, tp_error *err)
{
    tp_attachment *a = calloc(1, sizeof *a);
    if (!a)
        return tp_error_oom(err, "host");
    a->host = host;
    a->poll.data = a->prepare.data = a->timer.data = a;
    int status = uv_poll_init(loop, &a->poll, tp_host_fd(host));
    if (status) {
        free(a);
        return tp_error_set(err, TP_ESYS, "cannot watch the host in tp_config.loop: %s",
                            uv_strerror(status));
    }
    uv_prepare_init(loop, &a->prepare);
    uv_timer_init(loop, &a->timer);
    a->n_open = 3;
    uv_unref((uv_handle_t *)&a->poll);
    uv_unref((uv_handle_t *)&a->prepare);
    uv_unref((uv_handle_t *)&a->timer);
    status = uv_poll_start(&a->poll, UV_READABLE, on_poll);
    if (status) {
        tp_detach(a);
        return tp_error_set(err, TP_ESYS, "cannot watch the host in tp_config.loop: %s",
                            uv_strerror(status));
    }
    uv_prepare_start(&a->prepare, on_prepare);
    host->attached = (uv_handle_t *)&a->poll;
    *out = a;
    return 0;
}

void tp_detach(tp_attachment *a)
{
    if (!a)
        return;
    a->host->attached = NULL;
    uv_close((uv_handle_t *)&a->poll, on_closed);
    uv_close((uv_handle_t *)&a->prepare, on_closed);
    uv_close((uv_handle_t *)&a->timer, on_closed);
}
