/* sessions.h: the coordinators whose work is here. Each has a host of its own, opened with its
 * first chunk, and is asked now and then whether it lives. */
#ifndef TP_SESSIONS_H
#define TP_SESSIONS_H

#include "program/cluster/node.h"

session *tp_session_find(const node *n, const char *hex); /* NULL: there is none */

/* A new one, which is asked whether it lives. NULL: there is no memory. */
session *tp_session_open(node *n, const uint8_t *id, const char *hex);

/* Asks whether it lives. */
void tp_session_ask(node *n, session *s);

/* Opens its host. */
int tp_session_open_host(node *n, session *s, bool tags_lines, tp_error *err);

/* The session's coordinator is gone: frees all that there is of it. Blocks until its processes have
 * ended. */
void tp_session_close(node *n, session *s);

/* A device runs on and on what nobody wants, which nothing but the end of this process stops: it
 * ends, and another one is started. What it had of others is run there. Does not return. */
void tp_session_give_devices_up(node *n);

#endif
