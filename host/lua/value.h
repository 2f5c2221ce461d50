/* value.h: tp_value of the C API to Lua and back, and C functions that Lua calls. */
#ifndef TP_VALUE_H
#define TP_VALUE_H

#include "base/ref.h"
#include "tidepool.h"

struct lua_State;

/* Memory that is freed all at once. Zero-initialised is empty. */
typedef struct tp_arena {
    struct tp_page *pages;
} tp_arena;

void *tp_arena_take(tp_arena *arena, size_t n); /* aligned for anything; NULL when out of memory */
char *tp_arena_copy(tp_arena *arena, const char *bytes, size_t n); /* with a NUL behind it */
void tp_arena_reset(tp_arena *arena);           /* empty again; some memory is kept */
void tp_arena_free(tp_arena *arena);

/* Pushes a value, which is element i of the program's array of that name (NULL: of none). Raises
 * out of memory, and where it is nested too deep or no value. */
void tp_value_push(struct lua_State *L, const tp_value *value, const char *array, size_t i);

/* Reads the value at index into *out; strings are copied into the arena. Raises nothing. -1 on
 * failure: *why says what cannot be read ("a function", for example), or is NULL when out of
 * memory. */
int tp_value_read(struct lua_State *L, int index, tp_value *out, tp_arena *arena, const char **why);

/* A registered C function. Travels to workers by reference. */
typedef struct tp_callee {
    tp_ref ref;
    /* Read-only. */
    tp_c_function fn;
    void *user;
    char name[];
} tp_callee;

extern const tp_ref_type tp_callee_type;

/* A new one with one owner; NULL when out of memory. */
tp_callee *tp_callee_new(const char *name, tp_c_function fn, void *user);

/* Pushes the Lua function invoke(callee, ...), which calls the C function; for the state's module
 * tidepool.core. Raises out of memory. */
void tp_value_push_invoke(struct lua_State *L);

#endif
