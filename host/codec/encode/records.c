/* records.c: what the bytecode of a function says about it: the globals that it reads, and whether
 * it may change what other functions see. */
#include "codec/bytecode.h"
#include "codec/encode/encoder.h"

#include <string.h>

static void add_name(lua_State *L, const uint8_t *name, size_t len)
{
    int n = (int)lua_objlen(L, -1);
    lua_pushlstring(L, (const char *)name, len); /* record name */
    bool is_new = true;
    for (int i = 3; i <= n && is_new; i++) {
        lua_rawgeti(L, -2, i);
        is_new = !lua_rawequal(L, -1, -2);
        lua_pop(L, 1);
    }
    if (is_new)
        lua_rawseti(L, -2, n + 1);
    else
        lua_pop(L, 1);
}

/* The string that is constant number `from_end` of the function, counted from the last one as
 * instructions do; NULL when that is no string. */
static const uint8_t *string_constant(const struct proto *pt, uint32_t from_end, size_t *len)
{
    if (from_end >= pt->nconstants)
        return NULL;
    struct bytecode in = pt->constants;
    const uint8_t *s = NULL;
    for (uint32_t k = 0; k < pt->nconstants - from_end; k++)
        s = tp_bytecode_constant(&in, len);
    return in.is_broken ? NULL : s;
}

static bool is_one_of(const uint8_t *s, size_t len, const char *const *list)
{
    for (; s && *list; list++)
        if (strlen(*list) == len && memcmp(s, *list, len) == 0)
            return true;
    return false;
}

/* Is one of these strings among the function's constants? */
static bool has_string(const struct proto *pt, const char *const *list)
{
    struct bytecode in = pt->constants;
    for (uint32_t k = 0; k < pt->nconstants && !in.is_broken; k++) {
        size_t len;
        const uint8_t *s = tp_bytecode_constant(&in, &len);
        if (!in.is_broken && is_one_of(s, len, list))
            return true;
    }
    return false;
}

static uint32_t instruction(const struct proto *pt, uint32_t i)
{
    uint32_t ins;
    memcpy(&ins, pt->code + (size_t)i * 4, sizeof ins);
    return ins;
}

/* What instruction i, which writes a field of the table in a register, may change, judging by the
 * instruction that loaded the table. */
static unsigned uses_of_store(const struct codec *c, const struct proto *pt, uint32_t i)
{
    static const char *const libraries[] = {
        "_G",        "string", "table", "math", "io",      "os",
        "coroutine", "debug",  "bit",   "jit",  "package", NULL,
    };
    uint32_t table = instruction(pt, i) >> 24;
    while (i-- > 0) {
        uint32_t ins = instruction(pt, i);
        if ((ins >> 8 & 0xff) != table)
            continue;
        uint8_t op = ins & 0xff;
        size_t len = 0;
        if (op == c->op.uget)
            return SETS_UPVALUE;
        const uint8_t *name = op == c->op.gget ? string_constant(pt, ins >> 16, &len) : NULL;
        return is_one_of(name, len, libraries) ? SETS_LIBRARY : 0;
    }
    return 0;
}

/* Adds the names of the globals that one function of a dump reads to the record on top. Gives its
 * USES_*. */
static unsigned add_globals(lua_State *L, const struct codec *c, struct proto *pt)
{
    static const char *const globals[] = { "_G", "getfenv", NULL };
    static const char *const io[] = { "io", NULL }, *const defaults[] = { "output", "input", NULL };
    static const char *const changing[] = { "sethook",    "setlocale",  "setpause",
                                            "setstepmul", "randomseed", NULL };
    unsigned uses = has_string(pt, changing) || (has_string(pt, io) && has_string(pt, defaults))
                        ? SETS_LIBRARY
                        : 0;
    if (has_string(pt, globals))
        uses |= NAMES_GLOBALS;
    for (uint32_t i = 0; i < pt->ncode; i++) {
        uint32_t ins = instruction(pt, i);
        uint8_t op = ins & 0xff;
        if (op == c->op.tsets || op == c->op.tsetv || op == c->op.tsetb)
            uses |= uses_of_store(c, pt, i);
        if (op == c->op.gget || op == c->op.gset)
            uses |= USES_GLOBALS;
        size_t len = 0;
        const uint8_t *name = op == c->op.gget ? string_constant(pt, ins >> 16, &len) : NULL;
        if (name)
            add_name(L, name, len);
    }
    return uses;
}

void tp_encoder_push_record(lua_State *L, const struct codec *c)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->dumps); /* fn dumps */
    lua_pushvalue(L, -2);
    lua_rawget(L, -2);                           /* fn dumps record */
    if (lua_istable(L, -1)) {
        lua_remove(L, -2);
        return;
    }
    lua_pop(L, 1);
    lua_createtable(L, 4, 0);                    /* fn dumps record */
    lua_pushvalue(L, -3);
    tp_codec_dump(L);
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    lua_rawseti(L, -2, 1);
    lua_pushinteger(L, 0);
    lua_rawseti(L, -2, 2);
    struct bytecode b;
    struct proto pt;
    bool stripped;
    unsigned uses = 0;
    if (tp_bytecode_open(&b, text, len, &stripped)) {
        while (tp_bytecode_next(&b, stripped, &pt))
            uses |= add_globals(L, c, &pt);
    }
    lua_pushinteger(L, (lua_Integer)uses);
    lua_rawseti(L, -2, 2);
    lua_pushvalue(L, -3);
    lua_pushvalue(L, -2);
    lua_rawset(L, -4);
    lua_remove(L, -2);                           /* fn record */
}

/* Pushes a list of the strings that are constants in a dump. */
static void push_strings(lua_State *L, const char *text, size_t len)
{
    struct bytecode b;
    struct proto pt;
    bool stripped;
    int count = 0;
    lua_newtable(L);
    if (!tp_bytecode_open(&b, text, len, &stripped))
        return;
    while (tp_bytecode_next(&b, stripped, &pt)) {
        struct bytecode in = pt.constants;
        for (uint32_t k = 0; k < pt.nconstants && !in.is_broken; k++) {
            size_t n;
            const uint8_t *s = tp_bytecode_constant(&in, &n);
            if (!s || in.is_broken)
                continue;
            lua_pushlstring(L, (const char *)s, n);
            lua_rawseti(L, -2, ++count);
        }
    }
}

void tp_codec_inspect(lua_State *L, int index, tp_buf *code)
{
    struct codec *c = tp_codec_of(L);
    int top = lua_gettop(L);
    tp_buf_clear(code);
    lua_pushvalue(L, index);
    tp_encoder_push_record(L, c); /* fn record */
    lua_rawgeti(L, top + 2, 1);                     /* fn record bytecode */
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    uint8_t *to = tp_buf_reserve(code, len + 1);
    struct bytecode_pair *sorting = lua_newuserdata(L, (len / 2 + 1) * sizeof *sorting);
    if (!to)
        tp_codec_raise_memory(L);
    code->len = tp_bytecode_write_identity(text, len, &c->patches, to, sorting);
    if (code->len == 0) {
        memcpy(to, text, len);
        code->len = len;
    }
    int n = (int)lua_objlen(L, top + 2);
    lua_createtable(L, n, 0);                       /* fn record bytecode sorting globals */
    for (int i = 3; i <= n; i++) {
        lua_rawgeti(L, top + 2, i);
        lua_rawseti(L, -2, i - 2);
    }
    lua_replace(L, top + 1);
    push_strings(L, text, len);
    lua_replace(L, top + 2);
    lua_settop(L, top + 2);                         /* globals strings */
}
