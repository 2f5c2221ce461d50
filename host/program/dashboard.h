/* dashboard.h: --dashboard: what happens, live, for browsers on this machine.
 * Part of the binary only. */
#ifndef TP_DASHBOARD_H
#define TP_DASHBOARD_H

#include "tidepool.h"

struct tp_host;

/* Serves the page at 127.0.0.1, on that port (0: any that is free), from now on. Gives its address,
 * which has a token that nobody can guess: whoever has it may look, and cancel maps. To be called
 * once, by the host's owner, before it has workers. */
int tp_dashboard_open(struct tp_host *host, unsigned port, const char **address, tp_error *err);

/* Browsers get the last state, and the page ends. While the host still has its jobs. Does nothing
 * when there is no page. */
void tp_dashboard_close(void);

#endif
