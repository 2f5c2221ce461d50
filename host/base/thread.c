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
