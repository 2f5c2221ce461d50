/* hosts.h: `tidepool worker --hosts a,b,c`: workers on other machines, which ssh starts. */
#ifndef TP_PROGRAM_HOSTS_H
#define TP_PROGRAM_HOSTS_H

#include "program/options.h"

/* Starts `tidepool worker` on each of the hosts (names separated by commas), and waits until all
 * have ended; what they print comes out with their names. Nothing is installed there. A signal has
 * them leave, a second one cuts the connections. grace_s -1 and idle_s 0: the default. The exit
 * code: 0 when all have ended well. */
int tp_hosts_main(const tp_options *o, const char *hosts, long grace_s, long idle_s);

#endif
