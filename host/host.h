/* host.h: ways to end a host that embedders do not have, for the program and the module. */
#ifndef TP_HOST_H
#define TP_HOST_H

#include "tidepool.h"

#include <stdbool.h>

/* tp_host_close from any thread, when nobody uses the host any more. In a forked child, which has
 * none of its threads, it does nothing. */
void tp_host_free(tp_host *host);

/* The same if all workers come to rest within that time. False: some still run, so the host and our
 * code must stay in memory. */
bool tp_host_free_within(tp_host *host, unsigned timeout_ms);

/* After tp_host_stop: gives workers that still have something to do before they end (the `exit`
 * methods of classes) up to that many milliseconds. True when all workers have come to rest.
 * Owner. */
bool tp_host_finish_leaving(tp_host *host, unsigned timeout_ms);

/* After tp_host_stop: gives workers that are only writing compiled programs to disk up to that many
 * milliseconds. True when all workers have come to rest. Owner. */
bool tp_host_finish_keeping(tp_host *host, unsigned timeout_ms);

/* Ends the files of tp_config.trace, tidepool.trace and tp_config.report that are being written.
 * Owner. */
void tp_host_end_trace(tp_host *host);

#endif
