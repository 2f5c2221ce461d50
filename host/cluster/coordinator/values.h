/* values.h: what an item on a cluster gives while it runs (tp_part), and how much of it its worker
 * is allowed to give. The carrier's. */
#ifndef TP_VALUES_H
#define TP_VALUES_H

#include "cluster/coordinator/fleet.h"

/* A worker says what values there are of an item. May end the flight's slice. */
void tp_values_take(cluster *c, const tp_nats_event *e);

/* Lets items go on whose values were read. May end slices. */
void tp_values_allow_all(cluster *c);

#endif
