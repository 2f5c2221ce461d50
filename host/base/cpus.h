/* cpus.h: how many processors this process may use. */
#ifndef TP_CPUS_H
#define TP_CPUS_H

/* The processors of the affinity mask, or fewer where a control group (version 1 or 2) has a quota
 * of processor time: the quota, rounded up. At least 1. Reads files of /proc and /sys. Any
 * thread. */
unsigned tp_cpus(void);

/* The least quota, in processors, of the control groups in the file `groups` (as
 * /proc/self/cgroup); 0: there is none. `root` is where the groups' file systems are mounted
 * (/sys/fs/cgroup). Public for tests. */
double tp_cpus_quota(const char *groups, const char *root);

#endif
