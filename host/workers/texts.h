/* texts.h: the source texts of chunks that are in no file. The translator for devices needs them to
 * compile a function's source again.
 *
 * They are stored in the Lua state: registry["tidepool.texts"] is a list of tables, each from a
 * chunk's full name ("=stdin") to a list of texts, the oldest first. lua/tidepool/device reads
 * it. */
#ifndef TP_TEXTS_H
#define TP_TEXTS_H

struct lua_State;

/* Makes the state's `load` and `loadstring` store texts that get a name of their own (without one,
 * the text is the name). Only the last few MiB are kept. Must come before the codec is opened,
 * which registers these functions as builtins. Raises. */
void tp_texts_open(struct lua_State *L);

/* Stores the text on top, which stays there, of a chunk of that name, for as long as the state
 * lives. Raises. */
void tp_texts_keep(struct lua_State *L, const char *name);

#endif
