/* sanitized.h: is this a build with a sanitizer? */
#ifndef TP_SANITIZED_H
#define TP_SANITIZED_H

#if defined(TP_MALLOC_STATE) || defined(__SANITIZE_THREAD__)
enum { TP_IS_SANITIZED = 1 };
#else
enum { TP_IS_SANITIZED = 0 };
#endif

#endif
