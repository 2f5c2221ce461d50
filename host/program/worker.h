/* worker.h: the program as a worker process, `tidepool --worker`. */
#ifndef TP_PROGRAM_WORKER_H
#define TP_PROGRAM_WORKER_H

/* Serves the host that has started this process until that is gone. Gives the exit code. */
int tp_worker_main(void);

#endif
