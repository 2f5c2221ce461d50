/* jobs.h: scripts that run in the background (`--detach`), and the commands `jobs`, `attach` and
 * `cancel` for them. Part of the binary only. */
#ifndef TP_JOBS_H
#define TP_JOBS_H

#include "program/options.h"

/* Starts the program again in the background with these words, which end with NULL, but without
 * --detach, and prints the job's name. `script` names it. The exit code. */
int tp_jobs_detach(char *const *words, const char *script);

/* Do what the words after the command say. The exit code; that of `attach` is the job's. */
int tp_jobs_list(const tp_options *o);
int tp_jobs_attach(const tp_options *o);
int tp_jobs_cancel(const tp_options *o);

#endif
