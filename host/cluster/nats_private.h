/* nats_private.h: what nats.c and nats_open.c share about a connection. nats.h has the contract. */
#ifndef TP_NATS_PRIVATE_H
#define TP_NATS_PRIVATE_H

#include "base/system.h"
#include "cluster/nats.h"

enum {
    /* when a connection that was lost, or could not be made, is tried again */
    CONNECT_AGAIN_MS = 100,
    /* natsStatus of the library's nats.h */
    ANY_ERROR = 1,
    IO_ERROR = 3,
    WAS_CLOSED = 5,
    NO_SERVER = 6,
    HAS_NO_TLS = 8,
    AUTH_FAILED = 11,
    TLS_FAILED = 29,
    NO_RESPONDERS = 34
};

/* Locked. Wakes the taker, for which there is something to see. */
static inline void tp_nats_rouse_locked(tp_nats *n)
{
    if (n->is_sleeping && tp_bell_ring(n->wake_fd))
        n->is_sleeping = false; /* once is enough */
}

/* Loads the library, unless it is. -1 with err set: it cannot be used. */
int tp_nats_load(tp_nats *n, tp_error *err);

/* Makes a connection (n->url, name, who), when the library is done with the one before. Gives a
 * natsStatus. Blocks for some seconds at most. */
int tp_nats_open_connection(tp_nats *n, natsConnection **connection);

/* The same, again and again for a server that ends the connection before it is made, as when the
 * network has cut it there. */
int tp_nats_open_at_last(tp_nats *n, natsConnection **connection);

/* Says why the engine at `url` cannot be used. Gives -1. */
int tp_nats_say_why(const tp_nats *n, const char *url, int rc, tp_error *err);

#endif
