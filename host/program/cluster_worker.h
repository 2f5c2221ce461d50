/* cluster_worker.h: `tidepool worker`: this machine's part of a cluster. */
#ifndef TP_CLUSTER_WORKER_H
#define TP_CLUSTER_WORKER_H

#include "program/options.h"

/* Serves the engine that the options name until a signal ends it, or the engine refuses it. The
 * exit code. */
int tp_cluster_worker_main(const tp_options *o);

#endif
