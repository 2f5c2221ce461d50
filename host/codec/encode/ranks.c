/* ranks.c: the keys of a table in a fixed order, for identities: equal tables give equal bytes, in
 * whatever order they were filled. */
#include "base/blake2b.h"
#include "codec/encode/encoder.h"
#include "codec/identity.h"

#include <stdlib.h>
#include <string.h>

/* What orders the keys of a table: numbers, then strings, then other keys by their identities. */
struct rank {
    int type, key; /* the Lua type, and the key's place in the list of all */
    double number;
    const char *bytes; /* of a string, which the table keeps alive */
    size_t len;
    uint8_t identity[TP_IDENTITY]; /* of other keys */
};

enum { RANKING_MAX = 4 };

static int compare_ranks(const void *a, const void *b)
{
    const struct rank *x = a, *y = b;
    if (x->type != y->type)
        return x->type < y->type ? -1 : 1;
    if (x->type == LUA_TNUMBER)
        return (x->number > y->number) - (x->number < y->number);
    if (x->type != LUA_TSTRING)
        return memcmp(x->identity, y->identity, sizeof x->identity);
    int order = memcmp(x->bytes, y->bytes, x->len < y->len ? x->len : y->len);
    return order ? order : (x->len > y->len) - (x->len < y->len);
}

/* Fills in the rank of the key on top. A table or a function is ranked by its own identity. */
static int rank_of(encoder *e, struct rank *to)
{
    lua_State *L = e->L;
    to->type = lua_type(L, -1);
    if (to->type == LUA_TNUMBER) {
        to->number = lua_tonumber(L, -1);
    } else if (to->type == LUA_TSTRING) {
        to->bytes = lua_tolstring(L, -1, &to->len);
    } else {
        if (e->ranking == RANKING_MAX)
            return tp_encoder_refuse(
                e, TP_ECODEC,
                "a table whose keys are tables with such keys, %d deep, cannot be compared",
                RANKING_MAX);
        int top = lua_gettop(L);
        encoder in;
        tp_encoder_start(&in, e->top, L, tp_codec_push_buf(L), TP_ENCODE_IDENTITY);
        in.ranking = e->ranking + 1;
        in.depth = e->depth;
        lua_pushvalue(L, top);
        int rc = in.top->run(&in, top + 2, 1);
        if (rc == 0)
            tp_blake2b_hash(to->identity, TP_IDENTITY, in.out->data, in.out->len);
        tp_buf_free(in.out);
        lua_settop(L, top);
        if (rc < 0)
            return tp_encoder_refuse(e, in.code, "%s", in.why);
    }
    return 0;
}

int tp_encoder_push_ranked_keys(encoder *e, size_t n)
{
    lua_State *L = e->L;
    int table = lua_gettop(L), count = 0;
    lua_newtable(L);                                /* table keys */
    lua_pushnil(L);
    while (lua_next(L, table)) {                    /* table keys key value */
        lua_pop(L, 1);
        if (is_item(L, -1, n))
            continue;
        lua_pushvalue(L, -1);
        lua_rawseti(L, table + 1, ++count);
    }
    struct rank *ranks =
        lua_newuserdata(L, (size_t)(count + 1) * sizeof *ranks); /* table keys ranks */
    memset(ranks, 0, (size_t)(count + 1) * sizeof *ranks);
    for (int i = 0; i < count; i++) {
        ranks[i].key = i + 1;
        lua_rawgeti(L, table + 1, i + 1);
        if (rank_of(e, &ranks[i]) < 0)
            return tp_encoder_at(e, " (key)", 6);
        lua_pop(L, 1);
    }
    qsort(ranks, (size_t)count, sizeof *ranks, compare_ranks);
    lua_createtable(L, count, 0);                   /* table keys ranks ranked */
    for (int i = 0; i < count; i++) {
        lua_rawgeti(L, table + 1, ranks[i].key);
        lua_rawseti(L, -2, i + 1);
    }
    lua_replace(L, table + 1);
    lua_settop(L, table + 1);
    return count;
}
