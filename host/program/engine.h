/* engine.h: `tidepool engine`: a NATS server of the user's own, for a cluster. */
#ifndef TP_PROGRAM_ENGINE_H
#define TP_PROGRAM_ENGINE_H

#include "cluster/sign.h"
#include "program/options.h"

#include <stddef.h>

/* Does what the words after `engine` say. The exit code. */
int tp_engine_main(const tp_options *o);

/* The folder of the user's engine; false when there can be none. */
bool tp_engine_folder(char *path, size_t size);

/* The token of that role: TIDEPOOL_TOKEN, or what lies in the folder of the user's engine, which
 * `text` gets; NULL when there is none. */
const char *tp_engine_find_token(bool is_coordinator, char text[TP_TOKEN_TEXT]);

/* Takes TIDEPOOL_TOKEN out of the environment, which commands and worker processes would inherit,
 * and overwrites what /proc shows of it. What tp_engine_find_token gave is not to be used then. */
void tp_engine_hide_token(void);

#endif
