/* pocl_cache.h: the folders for compiled device programs, ours and PoCL's, and the folder of our
 * key. Part of the binary and of the module; it reads the environment, and the binary's part
 * changes it. */
#ifndef TP_POCL_CACHE_H
#define TP_POCL_CACHE_H

#include "opencl/cl.h"

/* $XDG_CACHE_HOME/tidepool, or its default; NULL where there is no home. */
const char *tp_caches_own(char *path, size_t size);

/* $XDG_STATE_HOME/tidepool, or its default: for the key that authenticates compiled programs, and
 * the session's history. */
const char *tp_caches_state(char *path, size_t size);

/* PoCL (OpenCL on the processor) reports "no device" when it cannot write its folder, and a program
 * that does not compile when the folder is full. `prepare` is called before PoCL is opened, and
 * gives it another folder in these cases; `tell` then writes a line about that to standard error,
 * if PoCL is there at all. */
void tp_caches_prepare(void);
void tp_caches_tell(const tp_cl *cl);

#endif
