/* exec_cluster.h: the executor whose workers are on other machines. */
#ifndef TP_EXEC_CLUSTER_H
#define TP_EXEC_CLUSTER_H

#include "engine/exec.h"

extern const tp_executor_type tp_exec_cluster;

/* Where jobs of kernels run (tp_job_config.sites): at workers with devices that these words of an
 * option `gpu` select, which have line ends between them. The image of such a job is what those
 * workers make a kernel of. 0 with err set: there are too many different ones. Any thread. */
uint64_t tp_cluster_site(tp_executor *ex, const char *words, tp_error *err);

#endif
