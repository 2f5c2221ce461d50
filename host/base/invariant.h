/* invariant.h: TP_ASSERT, which states what must be true whatever users do.
 *
 * Builds for tests (VARIANT=check, asan, tsan and fuzz define TP_ASSERTS) end the process with the
 * place and the condition when it is not. In the build that users run, the condition is compiled
 * but never evaluated: it costs nothing, and names nothing that does not exist. */
#ifndef TP_INVARIANT_H
#define TP_INVARIANT_H

#ifdef TP_ASSERTS
#include <stdio.h>
#include <stdlib.h>

_Noreturn static inline void tp_assert_failed(const char *file, int line, const char *condition)
{
    fprintf(stderr, "%s:%d: this should hold: %s\n", file, line, condition);
    abort();
}

#define TP_ASSERT(condition) \
    ((condition) ? (void)0 : tp_assert_failed(__FILE__, __LINE__, #condition))
#else
#define TP_ASSERT(condition) ((void)sizeof(!(condition)))
#endif

#endif
