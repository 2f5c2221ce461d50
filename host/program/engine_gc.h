/* engine_gc.h: `tidepool engine gc`. */
#ifndef TP_PROGRAM_ENGINE_GC_H
#define TP_PROGRAM_ENGINE_GC_H

#include "cluster/nats.h"
#include "cluster/sign.h"

/* Removes what scripts that are gone have left on the server, and says what that was. The
 * connection is a coordinator's. The exit code. */
int tp_engine_gc(tp_nats *n, const tp_signer *s);

#endif
