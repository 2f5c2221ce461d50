/* standard.c: what the standard libraries have now, and what they had at first. */
#include "codec/standard.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <string.h>

#define countof(a) (sizeof(a) / sizeof *(a))

enum { STACK_NEED = 16 }; /* Lua stack slots */

/* Added to the number of a table in the lists of a worker: it has adopted the change, from a setup
 * or a module. Where the list is applied, in another worker, the same setup or module makes the
 * same change, which stays there, too; but when the values are equal, as numbers are, nothing else
 * would tell. */
enum { ADOPTED = 64 };

/* The tables that are watched; their numbers are the same in all states. */
static const char *const names[] = {
    "_G",    "package", "package.loaders", "package.preload", "jit",   "ffi", "string", "table",
    "math",  "io",      "os",              "coroutine",       "debug", "bit", "file",
    "string metatable",
};

/* Numbers of tables. Changes travel from LIBRARIES on; those to ffi (declaring a type, say) only
 * concern the C types of one state. */
enum { GLOBALS, PACKAGE, LOADERS, PRELOAD, JIT, FFI, LIBRARIES };

static const char *const types[TP_STANDARD_TYPES] = { "nil",      "boolean", "number",  "string",
                                                      "function", "thread",  "userdata" };

static void push(lua_State *L, int ref)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, ref);
}

/* A new table in the registry. */
static int new_table(lua_State *L)
{
    lua_newtable(L);
    return luaL_ref(L, LUA_REGISTRYINDEX);
}

/* Pushes item i + 1 of the table with that reference in the registry. */
static void push_item(lua_State *L, int ref, int i)
{
    push(L, ref);
    lua_rawgeti(L, -1, i + 1);
    lua_remove(L, -2);
}

/* Pops the value on top into item i + 1 of the table with that reference in the registry. */
static void set_item(lua_State *L, int ref, int i)
{
    push(L, ref);
    lua_insert(L, -2);
    lua_rawseti(L, -2, i + 1);
    lua_pop(L, 1);
}

/* Makes s->samples. The values are made in L, where running out of memory is an error. */
static void open_samples(lua_State *L, tp_standard *s)
{
    s->samples = lua_newthread(L);
    s->samples_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushnil(L); /* in the order of `types` */
    lua_pushboolean(L, 1);
    lua_pushnumber(L, 0);
    lua_pushliteral(L, "");
    lua_getglobal(L, "require");
    lua_pushthread(L);
    lua_pushlightuserdata(L, NULL);
    lua_xmove(L, s->samples, TP_STANDARD_TYPES);
}

/* Pushes the sample value of the type. */
static void push_sample(lua_State *L, const tp_standard *s, int type)
{
    lua_pushvalue(s->samples, type + 1);
    lua_xmove(s->samples, L, 1);
}

/* The metatable of a type; NULL when it has none. */
static const void *type_metatable(const tp_standard *s, int type)
{
    if (!lua_getmetatable(s->samples, type + 1))
        return NULL;
    const void *mt = lua_topointer(s->samples, -1);
    lua_pop(s->samples, 1);
    return mt;
}

/* Replaces the table on top by a copy with room for `places` fields in its hash part. */
static void copy_table(lua_State *L, int places)
{
    lua_createtable(L, 0, places); // table copy
    lua_pushnil(L);
    while (lua_next(L, -3)) {    // table copy key value
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_rawset(L, -4);
    }
    lua_remove(L, -2);
}

/* Pushes the metatable of the value at index; false (the value) when it has none. */
static void push_metatable(lua_State *L, int index)
{
    if (!lua_getmetatable(L, index))
        lua_pushboolean(L, 0);
}

static void look_again(tp_standard *s, int i)
{
    tp_snapshot_take(&s->seen[i], s->layout, s->table[i]);
}

static bool is_as_seen(const tp_standard *s, int i)
{
    return tp_snapshot_holds(&s->seen[i], s->layout, s->table[i]);
}

/* Pushes the table of that number, as it is when a state is opened; nil where there is none. */
static void push_named(lua_State *L, int i, int loaded)
{
    if (strcmp(names[i], "file") == 0) {
        luaL_getmetatable(L, LUA_FILEHANDLE);
    } else if (strcmp(names[i], "string metatable") == 0) {
        lua_pushliteral(L, "");
        push_metatable(L, -1);
        lua_remove(L, -2);
    } else if (i == LOADERS || i == PRELOAD) {
        push(L, loaded);
        lua_getfield(L, -1, "package");
        if (lua_istable(L, -1))
            lua_getfield(L, -1, i == LOADERS ? "loaders" : "preload");
        lua_replace(L, -3);
        lua_pop(L, 1);
    } else {
        push(L, loaded);
        lua_getfield(L, -1, names[i]);
        lua_remove(L, -2);
    }
}

/* LuaJIT adds table.new to its library when somebody requires it, as our modules do, some of them
 * only when a function is mapped. It is no change of users', so it is added before all. When that
 * fails, require's mark is removed, so that whoever needs it can try again. */
static void add_table_new(lua_State *L, int loaded)
{
    lua_getglobal(L, "require");
    lua_pushliteral(L, "table.new");
    int rc = lua_pcall(L, 1, 0, 0);
    if (!rc)
        return;
    lua_rawgeti(L, LUA_REGISTRYINDEX, loaded); // why loaded
    lua_pushnil(L);
    lua_setfield(L, -2, "table.new");          // why loaded
    lua_pop(L, 1);
    if (rc == LUA_ERRMEM)
        lua_error(L);
    lua_pop(L, 1); /* without it that will be told when it is needed */
}

void tp_standard_open(lua_State *L, tp_standard *s, const tp_layout *layout, int loaded)
{
    luaL_checkstack(L, STACK_NEED, "standard libraries");
    add_table_new(L, loaded);
    s->layout = layout;
    s->tables = new_table(L);
    s->original = new_table(L);
    s->expected = new_table(L);
    s->metatables = new_table(L);
    s->types = new_table(L);
    s->list = s->undo = s->changes = LUA_REFNIL;
    open_samples(L, s);
    for (int i = 0; i < (int)countof(names); i++) {
        push_named(L, i, loaded);              // table
        if (!lua_istable(L, -1)) {
            lua_pop(L, 1);
            /* an empty table takes the place of a missing one: numbers are the same in all
             * states */
            lua_newtable(L);
        }
        s->table[i] = lua_topointer(L, -1);
        push_metatable(L, -1);
        set_item(L, s->metatables, i);
        lua_pushvalue(L, -1);
        set_item(L, s->tables, i);
        look_again(s, i);
        copy_table(L, (int)tp_layout_places(layout, s->table[i])); // copy
        lua_pushvalue(L, -1);
        set_item(L, s->original, i);
        set_item(L, s->expected, i);
    }
    s->n = (int)countof(names);
    for (int t = 0; t < TP_STANDARD_TYPES; t++) {
        push_sample(L, s, t);
        push_metatable(L, -1);                 // sample mt
        s->type[t] = lua_istable(L, -1) ? lua_topointer(L, -1) : NULL;
        push(L, s->types);
        lua_pushvalue(L, -2);
        lua_setfield(L, -2, types[t]);
        lua_pop(L, 1);
        set_item(L, s->types, t);
        lua_pop(L, 1);
    }
}

void tp_standard_close(tp_standard *s)
{
    for (int i = 0; i < TP_STANDARD_TABLES; i++)
        tp_snapshot_free(&s->seen[i]);
    s->n = 0;
}

bool tp_standard_is_changed(const tp_standard *s)
{
    for (int i = 0; i < s->n; i++)
        if (!is_as_seen(s, i))
            return true;
    for (int t = 0; t < TP_STANDARD_TYPES; t++)
        if (type_metatable(s, t) != s->type[t])
            return true;
    return false;
}

/* ---- lists of changes ---- */

/* Stack: where key value. Appends the three to the list at that index, and pops them. */
static void append(lua_State *L, int list)
{
    int n = (int)lua_objlen(L, list);
    for (int i = 3; i > 0; i--)
        lua_rawseti(L, list, n + i);
}

/* Adds how table i differs from its copy at the index `base` to the list at index `list`: each
 * changed field, with nil for one that is gone. New globals do not count. */
static void add_differences(lua_State *L, const tp_standard *s, int i, int base, int list)
{
    luaL_checkstack(L, STACK_NEED, "changes");
    push_item(L, s->tables, i);
    int table = lua_gettop(L);
    lua_pushnil(L);
    while (lua_next(L, table)) {                     // table key value
        lua_pushvalue(L, -2);
        lua_rawget(L, base);                         // table key value was
        bool is_new = lua_isnil(L, -1), is_same = lua_rawequal(L, -1, -2);
        lua_pop(L, 1);
        if (is_same || (is_new && i == GLOBALS)) {
            lua_pop(L, 1);
            continue;
        }
        lua_pushinteger(L, i);
        lua_pushvalue(L, -3);
        lua_pushvalue(L, -3);                        // table key value where key value
        append(L, list);
        lua_pop(L, 1);
    }
    lua_pushnil(L);
    while (lua_next(L, base)) {                      // table key was
        lua_pop(L, 1);
        lua_pushvalue(L, -1);
        lua_rawget(L, table);
        bool is_gone = lua_isnil(L, -1);
        lua_pop(L, 1);
        if (is_gone) {
            lua_pushinteger(L, i);
            lua_pushvalue(L, -2);
            lua_pushvalue(L, list);
            append(L, list);
        }
    }
    lua_settop(L, table - 1);
}

/* Adds the types whose metatables differ from those in s->types to the list, under the types'
 * numbers, or with `originals` under their names. */
static void add_types(lua_State *L, const tp_standard *s, bool originals, int list)
{
    push(L, s->types);
    int expected = lua_gettop(L);
    for (int t = 0; t < TP_STANDARD_TYPES; t++) {
        if (originals)
            lua_getfield(L, expected, types[t]);
        else
            lua_rawgeti(L, expected, t + 1);
        push_sample(L, s, t);
        push_metatable(L, -1);                       // expected was sample mt
        if (!lua_rawequal(L, -1, -3)) {
            lua_pushstring(L, types[t]);
            lua_pushboolean(L, 1);
            lua_pushvalue(L, lua_istable(L, -3) ? -3 : list);
            append(L, list);
        }
        lua_settop(L, expected);
    }
    lua_pop(L, 1);
}

/* The number of a table in a list's triple, whose `where` is at the index. */
static int table_number(lua_State *L, int where)
{
    int i = (int)lua_tointeger(L, where);
    return i >= ADOPTED ? i - ADOPTED : i;
}

/* Is the `where` at the index that of a change which a worker has adopted? */
static bool is_adopted(lua_State *L, int where)
{
    return lua_type(L, where) == LUA_TNUMBER && lua_tointeger(L, where) >= ADOPTED;
}

static int type_number(const char *name)
{
    for (int t = 0; t < TP_STANDARD_TYPES; t++)
        if (strcmp(types[t], name) == 0)
            return t;
    return -1;
}

/* Stack: where key. Pushes the value that is there now; for a type's metatable false when there is
 * none. */
static void push_current(lua_State *L, const tp_standard *s)
{
    int where = lua_gettop(L) - 1;
    if (lua_type(L, where) == LUA_TSTRING) {
        push_sample(L, s, type_number(lua_tostring(L, where)));
        push_metatable(L, -1);
        lua_remove(L, -2);
        return;
    }
    if (lua_istable(L, where))
        lua_pushvalue(L, where);
    else
        push_item(L, s->tables, table_number(L, where));
    lua_pushvalue(L, where + 1);
    lua_rawget(L, -2);
    lua_remove(L, -2);
}

/* Pushes the copy of table i as it is expected; makes it first if it still is the original's. */
static void push_own_expected(lua_State *L, tp_standard *s, int i)
{
    push_item(L, s->expected, i);
    push_item(L, s->original, i);
    bool is_original = lua_rawequal(L, -1, -2);
    lua_pop(L, 1);
    if (!is_original)
        return;
    copy_table(L, 0);
    lua_pushvalue(L, -1);
    set_item(L, s->expected, i);
}

/* Stack: where key value. Makes the change and pops them. With `is_expected` it is expected from
 * now on. */
static void set_one(lua_State *L, tp_standard *s, bool is_expected)
{
    int where = lua_gettop(L) - 2;
    if (lua_type(L, where) == LUA_TSTRING) {
        int t = type_number(lua_tostring(L, where));
        push_sample(L, s, t);
        if (lua_istable(L, where + 2))
            lua_pushvalue(L, where + 2);
        else
            lua_pushnil(L);
        lua_setmetatable(L, -2);
        if (is_expected) {
            s->type[t] = type_metatable(s, t);
            if (lua_istable(L, where + 2))
                lua_pushvalue(L, where + 2);
            else
                lua_pushboolean(L, 0);
            set_item(L, s->types, t);
        }
    } else if (lua_istable(L, where)) {
        lua_rawset(L, where);
    } else {
        int i = table_number(L, where);
        push_item(L, s->original, i);
        lua_pushvalue(L, where + 1);
        lua_rawget(L, -2);
        bool is_known = i != GLOBALS || !lua_isnil(L, -1);
        lua_settop(L, where + 2);
        if (is_expected && is_known) {
            push_own_expected(L, s, i);
            lua_pushvalue(L, where + 1);
            lua_pushvalue(L, where + 2);
            lua_rawset(L, -3);
            lua_pop(L, 1);
        }
        push_item(L, s->tables, i);
        lua_insert(L, where + 1);                    // where table key value
        lua_rawset(L, where + 1);
    }
    lua_settop(L, where - 1);
}

/* Stack: list -> list where key value: triple i of the list, from 0. The list itself stands for
 * nil. */
static void push_triple(lua_State *L, int list, int i)
{
    for (int k = 1; k <= 3; k++)
        lua_rawgeti(L, list, 3 * i + k);
    if (lua_rawequal(L, -1, list)) {
        lua_pop(L, 1);
        lua_pushnil(L);
    }
}

/* Stack: where key value. Is it a change that can be made? */
static bool is_triple(lua_State *L, const tp_standard *s)
{
    lua_Number i = lua_type(L, -3) == LUA_TNUMBER ? lua_tonumber(L, -3) : -1;
    bool is_number = (i >= 0 && i < s->n) || (i >= ADOPTED && i < ADOPTED + s->n);
    bool is_type = lua_type(L, -3) == LUA_TSTRING && type_number(lua_tostring(L, -3)) >= 0;
    return (is_number || is_type || lua_istable(L, -3)) && !lua_isnil(L, -2);
}

/* Makes all changes of the list at the index; `backwards`: the last one first. */
static void set_all(lua_State *L, tp_standard *s, int list, bool backwards, bool is_expected)
{
    luaL_checkstack(L, STACK_NEED, "changes");
    int n = (int)lua_objlen(L, list) / 3;
    for (int i = 0; i < n; i++) {
        push_triple(L, list, backwards ? n - 1 - i : i);
        if (is_triple(L, s))
            set_one(L, s, is_expected);
        else
            lua_pop(L, 3);
    }
}

/* ---- for workers ---- */

void tp_standard_restore(lua_State *L, tp_standard *s)
{
    int top = lua_gettop(L);
    luaL_checkstack(L, STACK_NEED, "standard libraries");
    for (int i = 0; i < s->n; i++) {
        if (is_as_seen(s, i))
            continue;
        lua_newtable(L);
        push_item(L, s->expected, i);                // list base
        add_differences(L, s, i, top + 2, top + 1);
        push_item(L, s->tables, i);                  // list base table
        int n = (int)lua_objlen(L, top + 1) / 3;
        for (int k = 0; k < n; k++) {
            lua_rawgeti(L, top + 1, 3 * k + 2);
            lua_pushvalue(L, -1);
            lua_rawget(L, top + 2);
            lua_rawset(L, top + 3);
        }
        push_item(L, s->metatables, i);
        if (!lua_istable(L, -1)) {
            lua_pop(L, 1);
            lua_pushnil(L);
        }
        lua_setmetatable(L, top + 3);
        lua_settop(L, top);
        look_again(s, i);
    }
    lua_newtable(L);
    add_types(L, s, false, top + 1);
    for (int k = 0, n = (int)lua_objlen(L, top + 1) / 3; k < n; k++) {
        push_triple(L, top + 1, k);
        int t = type_number(lua_tostring(L, -3));
        lua_pop(L, 1);
        push_item(L, s->types, t);
        set_one(L, s, false);
    }
    lua_settop(L, top);
}

/* Stack: list where key. The number, from 0, of the triple of that place in the list; -1 when it
 * has none. */
static int find_place(lua_State *L)
{
    int list = lua_gettop(L) - 2, n = (int)lua_objlen(L, list) / 3, found = -1;
    for (int k = 0; k < n && found < 0; k++) {
        lua_rawgeti(L, list, 3 * k + 1);
        lua_rawgeti(L, list, 3 * k + 2);             // list where key where key
        bool are_numbers = lua_type(L, list + 1) == LUA_TNUMBER &&
                           lua_type(L, list + 3) == LUA_TNUMBER;
        bool is_table = are_numbers ? table_number(L, list + 1) == table_number(L, list + 3)
                                    : lua_rawequal(L, list + 1, list + 3);
        if (is_table && lua_rawequal(L, list + 2, list + 4))
            found = k;
        lua_settop(L, list + 2);
    }
    return found;
}

/* The changes in the list at the index stay: when the list that is applied is undone, their places
 * get what they have now, not what they had before it was applied. With `adopted` only those count
 * that other workers have adopted. */
static void keep_in_undo(lua_State *L, tp_standard *s, int list, bool adopted)
{
    if (!s->applied)
        return;
    int top = lua_gettop(L);
    push(L, s->undo);
    for (int i = 0, n = (int)lua_objlen(L, list) / 3; i < n; i++) {
        push_triple(L, list, i);                     // undo where key value
        lua_pop(L, 1);
        int k = !adopted || is_adopted(L, -2) ? find_place(L) : -1;
        if (k >= 0) {
            push_current(L, s);
            if (lua_isnil(L, -1))
                lua_pushvalue(L, top + 1);
            lua_rawseti(L, top + 1, 3 * k + 3);
            s->has_adopted = true;
        }
        lua_settop(L, top + 1);
    }
    lua_settop(L, top);
}

void tp_standard_adopt(lua_State *L, tp_standard *s)
{
    if (!s->applied && !tp_standard_is_changed(s))
        return; /* without need of memory: `require` could not be told that there was none */
    int top = lua_gettop(L);
    luaL_checkstack(L, STACK_NEED, "standard libraries");
    for (int i = 0; i < s->n; i++) {
        if (is_as_seen(s, i))
            continue;
        lua_newtable(L);
        push_own_expected(L, s, i);                  // list base
        add_differences(L, s, i, top + 2, top + 1);
        keep_in_undo(L, s, top + 1, false);
        for (int k = 0, n = (int)lua_objlen(L, top + 1) / 3; k < n; k++) {
            push_triple(L, top + 1, k);              // list base where key value
            lua_rawset(L, top + 2);
            lua_pop(L, 1);
        }
        push_item(L, s->tables, i);
        push_metatable(L, -1);
        set_item(L, s->metatables, i);
        lua_settop(L, top);
        look_again(s, i);
        s->has_adopted |= i >= LIBRARIES;
    }
    lua_newtable(L);
    add_types(L, s, false, top + 1);
    s->has_adopted |= lua_objlen(L, -1) > 0;
    keep_in_undo(L, s, top + 1, false);
    set_all(L, s, top + 1, false, true);
    push(L, s->list);
    keep_in_undo(L, s, lua_gettop(L), true);
    lua_settop(L, top);
}

void tp_standard_settle(lua_State *L, tp_standard *s)
{
    tp_standard_adopt(L, s);
    for (int i = 0; i < s->n; i++) {
        push_item(L, s->expected, i);
        set_item(L, s->original, i);
    }
    push(L, s->types);
    for (int t = 0; t < TP_STANDARD_TYPES; t++) {
        lua_rawgeti(L, -1, t + 1);
        lua_setfield(L, -2, types[t]);
    }
    lua_pop(L, 1);
    s->has_adopted = false;
}

/* Stack: list -> undo: the values that the places in the list have now. */
static void push_undo(lua_State *L, const tp_standard *s, int list)
{
    lua_newtable(L);
    int undo = lua_gettop(L);
    for (int i = 0, n = (int)lua_objlen(L, list) / 3; i < n; i++) {
        push_triple(L, list, i);
        if (!is_triple(L, s)) {
            lua_pop(L, 3);
            continue;
        }
        lua_pop(L, 1);
        push_current(L, s);
        if (lua_isnil(L, -1)) {
            lua_pop(L, 1);
            lua_pushvalue(L, undo);
        }
        append(L, undo);
    }
}

static void keep(lua_State *L, int *ref)
{
    luaL_unref(L, LUA_REGISTRYINDEX, *ref);
    *ref = LUA_REFNIL;
    *ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

void tp_standard_apply(lua_State *L, tp_standard *s)
{
    int list = lua_gettop(L);
    const void *wanted = lua_topointer(L, list);
    if (wanted != s->applied) {
        if (s->applied) {
            push(L, s->undo);
            set_all(L, s, list + 1, true, true);
            lua_pop(L, 1);
            s->applied = NULL;
        }
        if (wanted) {
            push_undo(L, s, list);
            keep(L, &s->undo);
            lua_pushvalue(L, list);
            keep(L, &s->list);
            s->applied = wanted; /* first, so that a list that was applied in part can be undone */
            set_all(L, s, list, false, true);
        }
        for (int i = 0; i < s->n; i++)
            look_again(s, i);
    }
    lua_settop(L, list - 1);
}

/* Pushes the list of what differs from what is expected; nil when nothing does. */
static void push_differences(lua_State *L, const tp_standard *s)
{
    lua_newtable(L);
    int list = lua_gettop(L);
    for (int i = 0; i < s->n; i++) {
        if (is_as_seen(s, i))
            continue;
        push_item(L, s->expected, i);
        add_differences(L, s, i, list + 1, list);
        lua_settop(L, list);
    }
    add_types(L, s, false, list);
    if (lua_objlen(L, list) > 0)
        return;
    lua_pop(L, 1);
    lua_pushnil(L);
}

void tp_standard_pause(lua_State *L, tp_standard *s)
{
    if (tp_standard_is_changed(s)) {
        push_differences(L, s);
        tp_standard_restore(L, s);
    } else {
        lua_pushnil(L);
    }
    if (s->applied)
        push(L, s->list);
    else
        lua_pushnil(L);
    lua_pushnil(L);
    tp_standard_apply(L, s);
}

void tp_standard_resume(lua_State *L, tp_standard *s)
{
    tp_standard_apply(L, s);
    if (!lua_isnil(L, -1))
        set_all(L, s, lua_gettop(L), false, false);
    lua_pop(L, 1);
}

/* ---- what travels ---- */

/* Stack: list. Marks in it what this state, or the one that its applied list is from, has
 * adopted. */
static void mark_adopted(lua_State *L, const tp_standard *s)
{
    int list = lua_gettop(L), n = (int)lua_objlen(L, list) / 3;
    for (int i = 0; i < n; i++) {
        push_triple(L, list, i);                     // list where key value
        push(L, s->list);
        lua_pushvalue(L, list + 1);
        lua_pushvalue(L, list + 2);                  // list where key value applied where key
        int k = s->applied ? find_place(L) : -1;
        bool is = false;
        if (k >= 0) {
            lua_rawgeti(L, list + 4, 3 * k + 1);
            is = is_adopted(L, -1);
        } else if (lua_type(L, list + 1) == LUA_TNUMBER) {
            push_item(L, s->expected, table_number(L, list + 1));
            lua_pushvalue(L, list + 2);
            lua_rawget(L, -2);
            is = lua_rawequal(L, -1, list + 3);
        }
        if (is) {
            lua_pushinteger(L, ADOPTED + table_number(L, list + 1));
            lua_rawseti(L, list, 3 * i + 1);
        }
        lua_settop(L, list);
    }
}

void tp_standard_push_changes(lua_State *L, tp_standard *s)
{
    bool is_as_before = !s->applied && !s->has_adopted;
    for (int i = LIBRARIES; i < s->n; i++)
        is_as_before &= is_as_seen(s, i);
    for (int t = 0; t < TP_STANDARD_TYPES; t++)
        is_as_before &= type_metatable(s, t) == s->type[t];
    if (is_as_before) {
        push(L, s->changes);
        return;
    }
    int top = lua_gettop(L);
    lua_newtable(L);
    for (int i = LIBRARIES; i < s->n; i++) {
        push_item(L, s->original, i);
        add_differences(L, s, i, top + 2, top + 1);
        lua_settop(L, top + 1);
    }
    add_types(L, s, true, top + 1);
    if (s->is_workers)
        mark_adopted(L, s);
    if (lua_objlen(L, -1) == 0) {
        lua_pop(L, 1);
        lua_pushnil(L);
    }
    if (s->is_workers)
        return;
    lua_pushvalue(L, -1);
    keep(L, &s->changes); /* it keeps the objects alive whose addresses the snapshots have */
    for (int i = LIBRARIES; i < s->n; i++)
        look_again(s, i);
    for (int t = 0; t < TP_STANDARD_TYPES; t++)
        s->type[t] = type_metatable(s, t);
}

void tp_standard_add_globals(lua_State *L, const tp_standard *s)
{
    int list = lua_gettop(L);
    push_item(L, s->original, GLOBALS);
    lua_pushnil(L);
    while (lua_next(L, LUA_GLOBALSINDEX)) {          // list original key value
        lua_pushvalue(L, -2);
        lua_rawget(L, list + 1);
        bool is_same = lua_rawequal(L, -1, -2);
        lua_pop(L, 1);
        if (is_same) {
            lua_pop(L, 1);
            continue;
        }
        lua_pushinteger(L, GLOBALS);
        lua_pushvalue(L, -3);
        lua_pushvalue(L, -3);
        append(L, list);
        lua_pop(L, 1);
    }
    lua_settop(L, list);
}

bool tp_standard_has(lua_State *L, const tp_standard *s, int where, int key)
{
    if (lua_type(L, where) != LUA_TNUMBER)
        return false;
    push_item(L, s->original, table_number(L, where));
    lua_pushvalue(L, key);
    lua_rawget(L, -2);
    bool has = !lua_isnil(L, -1);
    lua_pop(L, 2);
    return has;
}

int tp_standard_number(const tp_standard *s, const void *table)
{
    for (int i = 0; i < s->n; i++)
        if (s->table[i] == table)
            return i;
    return -1;
}

void tp_standard_push_name(lua_State *L, int where, int key)
{
    int i = lua_type(L, where) == LUA_TNUMBER ? table_number(L, where) : -1;
    const char *name = lua_type(L, key) == LUA_TSTRING ? lua_tostring(L, key)
                                                       : luaL_typename(L, key);
    if (i == GLOBALS)
        lua_pushfstring(L, "global \"%s\"", name);
    else if (i >= 0 && i < (int)countof(names))
        lua_pushfstring(L, "%s.%s", names[i], name);
    else if (lua_type(L, where) == LUA_TSTRING)
        lua_pushfstring(L, "the metatable of type %s", lua_tostring(L, where));
    else
        lua_pushstring(L, name);
}
