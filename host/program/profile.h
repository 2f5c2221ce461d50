/* profile.h: --profile: which functions all Lua states of the program spend their time in.
 * Part of the binary only. */
#ifndef TP_PROFILE_H
#define TP_PROFILE_H

#include "tidepool.h"

#include <stddef.h>

struct lua_State;
struct tp_worker;
struct tp_host;

/* Begins: finds out how samples are taken, and takes over SIGPROF. With a path, that file is
 * written in the end, and it is opened now; a worker process has none, and `send` is called with
 * what is known, now and then, on the thread that runs Lua. Call it once, before there are threads
 * that run Lua. */
int tp_profile_open(const char *path, void (*send)(void *user, const char *bytes, size_t len),
                    void *user, tp_error *err);

/* From now on the states of the host's workers, and what its worker processes send, are taken in.
 * To be called before it has any; does nothing when no profile is open. */
void tp_profile_follow(struct tp_host *host);

/* The state (its main thread), to be run by the calling thread, is sampled from now on, until
 * tp_profile_leave. Without a worker it is the script's own. */
void tp_profile_enter(struct lua_State *L, const struct tp_worker *worker);
void tp_profile_leave(struct lua_State *L);

/* A worker process sends what there is. */
void tp_profile_send(void);

/* Writes the file: once, while no other thread runs Lua, or none that matters. */
void tp_profile_write(void);

#endif
