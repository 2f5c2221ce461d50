/* stack.c: where a thread's C stack lies. Code that recurses asks, since a program's own threads
 * may have small ones. */
#define _GNU_SOURCE
#include "base/stack.h"

#include <pthread.h>

/* Finds the stack of the thread. */
static void look(tp_stack *known)
{
    pthread_attr_t attributes;
    void *low = NULL;
    size_t size = 0;
    *known = (tp_stack){ 0, 0 };
    if (pthread_getattr_np(pthread_self(), &attributes))
        return;
    size_t guard = 0;
    if (pthread_attr_getstack(&attributes, &low, &size) == 0 &&
        pthread_attr_getguardsize(&attributes, &guard) == 0 && guard < size)
        *known = (tp_stack){ (uintptr_t)low + guard, (uintptr_t)low + size };
    pthread_attr_destroy(&attributes);
}

bool tp_stack_has(tp_stack *known, uintptr_t bytes)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    if (here < known->low || here >= known->high)
        look(known);
    if (here < known->low || here >= known->high)
        return true;
    return here - known->low >= bytes;
}
