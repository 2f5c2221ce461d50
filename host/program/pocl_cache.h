/* pocl_cache.h: the folders in which compiled device programs are kept, ours and PoCL's, and that of our key. Part of the binary and of the module: it
 * reads the environment, and for the binary sets it. */
#ifndef TP_POCL_CACHE_H
#define TP_POCL_CACHE_H

#include "opencl/cl.h"

/* $XDG_CACHE_HOME/tidepool, or its default; NULL where there is no home. */
const char *tp_caches_own(char *path, size_t size);

/* $XDG_STATE_HOME/tidepool, or its default: where the key is that they are authenticated with, beside the session's history. */
const char *tp_caches_state(char *path, size_t size);

/* PoCL, OpenCL on the processor, takes a folder that it cannot write for "no device", and one that is full for a program that does not compile. Before it
 * is opened this gives it another one then, for which `tp_caches_tell` has a line on standard error if PoCL is there at all. */
void tp_caches_prepare(void);
void tp_caches_tell(const tp_cl *cl);

#endif
