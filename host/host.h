/* host.h: the ends of a host that are not the embedder's: for the program and the module. */
#ifndef TP_HOST_H
#define TP_HOST_H

#include "tidepool.h"

#include <stdbool.h>

/* tp_host_close on whatever thread: nobody uses the host any more. In a forked child, whose threads are missing, it does nothing. */
void tp_host_free(tp_host *host);

/* The same if all workers come to rest within that time. False: some run, so that the host, and our code, have to stay where they are. */
bool tp_host_free_within(tp_host *host, unsigned timeout_ms);

/* After tp_host_stop: gives workers up to that many milliseconds that do what they have to at their ends, such as the `exit` of classes. True when all
 * workers have come to rest. Owner. */
bool tp_host_finish_leaving(tp_host *host, unsigned timeout_ms);

/* After tp_host_stop: gives workers that only write compiled programs to disk up to that many milliseconds to do so. True when all workers have come to
 * rest. Owner. */
bool tp_host_finish_keeping(tp_host *host, unsigned timeout_ms);

#endif
