/* cluster_devices.h: the OpenCL devices of a cluster's worker.
 *
 * A process of their own drives them (`tidepool worker --devices`), which is a worker that runs
 * kernels and nothing else (cluster_worker.c): a driver that crashes, or a kernel that does not
 * end, costs that process, and the worker starts another one. It is started when a coordinator
 * first asks for devices, so that nothing of OpenCL is loaded where nobody needs it. */
#ifndef TP_CLUSTER_DEVICES_H
#define TP_CLUSTER_DEVICES_H

#include "cluster/blobs.h"
#include "opencl/launch.h"
#include "opencl/match.h"
#include "program/options.h"
#include "runtime/runtime.h"

/* ---- the process that drives devices ---- */

typedef struct tp_own_devices {
    tp_cl *cl;
    tp_seen_device seen[TP_DEVICES_MAX]; /* the best first; `number` is that of cl->devices */
    unsigned n;
} tp_own_devices;

/* Lists the devices. -1 with err set: there are none. */
int tp_own_devices_open(tp_own_devices *d, tp_error *err);

/* Adds what the worker tells of them: see tp_crew_see (cluster/coordinator/crew.h). */
int tp_own_devices_tell(const tp_own_devices *d, tp_buf *out);

/* Makes the kernel of a plan (opencl/plan.h) for the devices that it is meant for. Drivers may
 * compile for seconds; `between` is called meanwhile. NULL with err set: it cannot run here. */
tp_kernel *tp_own_devices_make(const tp_own_devices *d, tp_host *host, const tp_image *plan,
                               const tp_between *between, tp_error *err);

/* Does one of the devices run nothing but what nobody wants any more? OpenCL cannot stop it. */
bool tp_own_devices_are_stuck(const tp_own_devices *d, tp_host *host);

/* Is the worker that started this process, `parent`, gone, or will this process end with it? */
bool tp_device_process_is_orphan(long parent);

/* Tells that worker that there is something to do. */
void tp_device_process_tell_busy(void);

/* ---- the worker that starts it ---- */

typedef enum tp_device_news {
    TP_DEVICES_QUIET,
    TP_DEVICES_BUSY,
    TP_DEVICES_NONE, /* it has ended, since there are no devices */
    TP_DEVICES_DEAD  /* it has ended otherwise */
} tp_device_news;

typedef struct tp_device_process {
    pid_t pid;           /* 0: there is none */
    int says;            /* what it is busy is heard here */
    char id[TP_ID_TEXT]; /* its name as a worker */
    int status;          /* how it ended, as waitpid says */
} tp_device_process;

/* The exit code of a process that has found no devices. */
enum { TP_DEVICES_EXIT_NONE = 3 };

/* Starts the process, with a name that nobody else has. */
int tp_device_process_start(tp_device_process *p, const tp_options *o, const char *token,
                            const char *id, long grace_s, tp_error *err);

/* What it has done since the last call. Does not block. */
tp_device_news tp_device_process_look(tp_device_process *p);

/* Sends it a signal; with SIGKILL waits for its end. */
void tp_device_process_kill(tp_device_process *p, int sig);

#endif
