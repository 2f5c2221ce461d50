/* cpus.h: how many processors this process may use. */
#ifndef TP_CPUS_H
#define TP_CPUS_H

/* Those of its affinity mask, or fewer where a control group (version 1 or 2) has a quota of processor time: as many as that is worth, rounded up. At
 * least 1. Reads files of /proc and /sys. */
unsigned tp_cpus(void);

/* What the quotas that the control groups of a process set are worth in processors; 0: there is none. `groups` is the path of its /proc/self/cgroup,
 * `root` where the groups' file systems are mounted: /sys/fs/cgroup. For tests. */
double tp_cpus_quota(const char *groups, const char *root);

#endif
