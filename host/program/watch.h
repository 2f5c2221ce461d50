/* watch.h: --watch: a script runs again when one of its files has changed. */
#ifndef TP_WATCH_H
#define TP_WATCH_H

#include "program/options.h"

/* Starts a child, in which it returns: from there on everything goes as without --watch. The
 * process that calls it starts another one whenever the script, or a file that it has required, has
 * changed, and ends when a signal ends it. Call it before there are threads. Sets o->watch_fd, to
 * which the child writes what it requires. -1 after saying why it cannot. */
int tp_watch_start(tp_options *o);

/* In the child: it is about to read this file. */
void tp_watch_report(int fd, const char *path);

#endif
