/* widths.h: which launches of one program may run beside each other on a processor.
 *
 * PoCL (3.1 to 5.0) makes a version of a kernel's code whenever a launch is wider than all before
 * it, that is has more work items in a dimension, and one more when it is asked for the binary. It
 * counts the launches that use a version, but when one ends it takes the newest version for the one
 * that was used: with some launches of an older one under way it counts to below 0, and an
 * assertion ends the process (pocl_release_dlhandle_cache). So what may make a version has the
 * program for itself; after that all others find the widest version, which is the newest. */
#ifndef TP_WIDTHS_H
#define TP_WIDTHS_H

#include "base/ref.h"

#include <stddef.h>

/* Of one source, for all devices of a host: PoCL makes one version for devices of a kind. Any
 * thread. */
typedef struct tp_widths tp_widths;

/* NULL when that fails. To be dropped (tp_ref_drop). */
tp_widths *tp_widths_new(void);

/* A launch is about to start whose widest dimension has `width` work items (SIZE_MAX: the binary is
 * asked for). Waits until it may, but not for launches that began many seconds ago: a process that
 * may end is better than one that hangs. */
void tp_widths_begin(tp_widths *w, size_t width);

/* It has run. */
void tp_widths_end(tp_widths *w);

#endif
