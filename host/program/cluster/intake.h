/* intake.h: what comes in at a worker. Work is looked at only after its signature and digest were
 * verified, and of a session only once that has shown that it lives. */
#ifndef TP_INTAKE_H
#define TP_INTAKE_H

#include "program/cluster/node.h"

/* Handles an event, which stays the caller's. */
void tp_intake_take(node *n, const tp_nats_event *e);

#endif
