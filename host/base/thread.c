/* thread.c: how all threads of ours begin. */
#include "base/thread.h"

#include "base/sigmask.h"

int tp_thread_create(uv_thread_t *thread, size_t stack_bytes, void (*body)(void *), void *arg)
{
    uv_thread_options_t options = { .flags = UV_THREAD_HAS_STACK_SIZE, .stack_size = stack_bytes };
    sigset_t before;
    tp_sigmask_block(&before); /* the new thread begins with what its maker has */
    int rc = uv_thread_create_ex(thread, &options, body, arg);
    tp_sigmask_set(&before, NULL);
    return rc;
}

int tp_lock_open(uv_mutex_t *lock, uv_cond_t *changed, tp_error *err)
{
    if (uv_mutex_init(lock))
        return tp_error_set(err, TP_ESYS, "cannot create a lock");
    if (uv_cond_init(changed) == 0)
        return 0;
    uv_mutex_destroy(lock);
    return tp_error_set(err, TP_ESYS, "cannot create a condition variable");
}

void tp_lock_close(uv_mutex_t *lock, uv_cond_t *changed)
{
    uv_cond_destroy(changed);
    uv_mutex_destroy(lock);
}
