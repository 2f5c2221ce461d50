/* api.h: the C API's part of a host: a Lua state with the embedder's code, functions and maps. For
 * host.c and attach.c; the public header is tidepool.h. */
#ifndef TP_API_H
#define TP_API_H

#include "runtime/runtime.h"

typedef struct tp_api tp_api;

/* The first result of embed.step, see lua/tidepool/host/embed.lua. */
typedef enum tp_step { TP_STEP_END, TP_STEP_RESULT, TP_STEP_FAILURE, TP_STEP_LATER } tp_step;

/* Frees the state with everything in it. Accepts NULL. Called before the executors are stopped. */
void tp_api_close(tp_api *api);

/* Is Lua code, or a C function that it calls, running on the owner's thread? Accepts NULL.
 * Owner. */
bool tp_api_is_inside(const tp_api *api);

/* One step: lets tasks and the loop go on, and gives results that have come to their callbacks.
 * Owner. */
int tp_api_step(tp_api *api, tp_error *err);

/* When the next step is due even if nothing happens (uv_hrtime); UINT64_MAX: never. Accepts NULL.
 * Owner. */
uint64_t tp_api_due(const tp_api *api);

/* ---- attach.c: the host in the caller's loop ---- */

typedef struct tp_attachment tp_attachment;

/* Makes the loop drive the host. */
int tp_attach(tp_attachment **out, tp_host *host, uv_loop_t *loop, tp_error *err);

/* Ends that. The memory is freed in the loop's next turn. Accepts NULL. */
void tp_detach(tp_attachment *a);

#endif
