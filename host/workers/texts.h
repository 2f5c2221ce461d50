/* texts.h: the texts of chunks that are in no file, for who needs that of a function: the translator for devices compiles it again.
 *
 * They are in the Lua state: registry["tidepool.texts"] is a list of tables, each from a chunk's full name ("=stdin") to a list of texts, the oldest
 * first. The Lua module that has the devices reads it. */
#ifndef TP_TEXTS_H
#define TP_TEXTS_H

struct lua_State;

/* Has `load` and `loadstring` of the state keep texts that are given with a name of their own (one without a name has its text as its name). Before the
 * codec is opened, which takes these functions for builtins. Of all that is kept like this only the last few MiB are. Raises. */
void tp_texts_open(struct lua_State *L);

/* Keeps the text on the top, which stays there, of a chunk of that name, for as long as the state lives. Raises. */
void tp_texts_keep(struct lua_State *L, const char *name);

#endif
