/* exec_cluster.h: the executor whose workers are on other machines. */
#ifndef TP_EXEC_CLUSTER_H
#define TP_EXEC_CLUSTER_H

#include "engine/exec.h"

extern const tp_executor_type tp_exec_cluster;

#endif
