/* decode.c: bytes to Lua values.
 *
 * Bytes may be hostile: nothing is read beyond their end, no size in them is believed before memory
 * is allocated (see `owed`), and code, references and modules that are not loaded yet come from
 * trusted messages only. */
#include "base/array.h"
#include "codec/captured.h"
#include "codec/codec_state.h"
#include "codec/message.h"

#include <lauxlib.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* longest name with a dot: the search takes the square of its length */
enum { BUILTIN_NAME_MAX = 255 };

/* A message that is being read. On the C stack, as the encoder is. */
typedef struct decoder {
    lua_State *L;
    struct work *w;  /* NULL until something shared is met */
    struct codec *c; /* NULL until it is needed */
    const uint8_t *base, *p, *end;
    tp_ref *const *refs;
    uint32_t nrefs;
    unsigned flags, depth;

    /* How many values the tables around this place have announced that were not read yet. Each
     * takes a byte at least, so they may never be more than the bytes that are left; this bounds
     * what a message can make us allocate. */
    int64_t owed;

    /* of an image: gets its tables; otherwise the tables that the message may name, or NULL */
    tp_captured *captured;
    bool is_image;

    int bottom;    /* the stack index below the first value */
    int shared;    /* the stack index, in this frame, of the table of shared objects */
    int root;      /* the stack index of the table that the first table is read into; 0: none */
    const uint8_t *paths; /* where the message has package.path and cpath; NULL: not met yet */
    tp_error *err;
} decoder;

static int get_value(decoder *d);
static int decode(decoder *d);

APART static int malformed(decoder *d, const char *what)
{
    return tp_error_set(d->err, TP_ECODEC, "malformed message: %s at byte %zu of %zu", what,
                        (size_t)(d->p - d->base), (size_t)(d->end - d->base));
}

static struct codec *decoder_codec(decoder *d)
{
    if (!d->c)
        d->c = tp_codec_of(d->L);
    return d->c;
}

/* Enters one more level of nesting; -1 with the error set when it is too deep. */
static int deeper(decoder *d)
{
    if (++d->depth > TP_DEPTH_MAX)
        return tp_error_set(d->err, TP_ECODEC, "malformed message: nested deeper than %d",
                            TP_DEPTH_MAX);
    if (d->depth <= SHALLOW)
        return 0;
    return tp_stack_has(&decoder_codec(d)->stack, C_STACK_NEED)
               ? 0
               : tp_error_set(d->err, TP_ECODEC,
                              "a value is nested too deep for this thread's stack");
}

static inline size_t left(const decoder *d)
{
    return (size_t)(d->end - d->p);
}

static inline uint32_t read_u32(decoder *d)
{
    uint32_t n;
    memcpy(&n, d->p, sizeof n);
    d->p += sizeof n;
    return n;
}

static inline double read_double(decoder *d)
{
    double x;
    memcpy(&x, d->p, sizeof x);
    d->p += sizeof x;
    return x; /* lua_pushnumber makes NaNs canonical */
}

/* Reads a length and that many bytes; NULL when malformed. */
static const char *get_bytes(decoder *d, size_t *len)
{
    if (left(d) >= 4) {
        *len = read_u32(d);
        if (*len <= left(d) && *len <= TP_STRING_MAX) {
            const char *s = (const char *)d->p;
            d->p += *len;
            return s;
        }
    }
    malformed(d, "a string that is longer than the message");
    return NULL;
}

/* ---- shared objects ---- */

/* Makes room for scratch and for the table of shared objects at the bottom of the stack. */
static void acquire_shared(decoder *d)
{
    if (d->w)
        return;
    d->w = tp_codec_push_work(d->L);
    d->w->nshared = 0;
    d->c = d->w->codec;
    lua_insert(d->L, d->bottom + 1);
    lua_newtable(d->L);
    lua_insert(d->L, d->bottom + 2);
    d->shared = d->bottom + 2;
}

/* Registers the object on top, which was read at `tag` and is referred to later. Must be called in
 * the order of the tags. */
APART static int share(decoder *d, const uint8_t *tag, uint32_t upvalue)
{
    acquire_shared(d);
    struct work *w = d->w;
    if (w->nshared == w->shared_room) {
        uint32_t n = w->shared_room ? w->shared_room * 2 : 32;
        struct shared *shared = realloc(w->shared, n * sizeof *shared);
        if (!shared)
            return tp_error_oom(d->err, "message");
        w->shared = shared;
        w->shared_room = n;
    }
    w->shared[w->nshared++] = (struct shared){ (uint32_t)(tag - d->base), upvalue };
    lua_pushvalue(d->L, -1);
    lua_rawseti(d->L, d->shared, (int)w->nshared);
    return 0;
}

/* Reads an offset and pushes the shared object that was read there. Gives its `upvalue`; -1 when
 * malformed. */
static int64_t get_shared(decoder *d)
{
    if (left(d) < 4)
        return malformed(d, "no offset");
    uint32_t offset = read_u32(d);
    uint32_t low = 0, high = d->w ? d->w->nshared : 0;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (d->w->shared[middle].offset < offset)
            low = middle + 1;
        else
            high = middle;
    }
    if (!d->w || low == d->w->nshared || d->w->shared[low].offset != offset)
        return malformed(d, "a reference to nothing");
    lua_rawgeti(d->L, d->shared, (int)low + 1);
    return d->w->shared[low].upvalue;
}

APART static int get_back(decoder *d)
{
    int64_t upvalue = get_shared(d);
    return upvalue == 0  ? 0
           : upvalue < 0 ? -1
                         : malformed(d, "a reference to something that is not a value");
}

/* ---- modules and names ---- */

/* Sets package.path and cpath to those of the message, where they differ. */
static void set_paths(decoder *d)
{
    static const char *const fields[] = { "path", "cpath" };
    lua_State *L = d->L;
    int top = lua_gettop(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, d->c->loaded);
    lua_pushliteral(L, "package");
    lua_rawget(L, -2);
    const uint8_t *here = d->p;
    d->p = d->paths;
    for (size_t i = 0; i < countof(fields) && lua_istable(L, top + 2); i++) {
        size_t len = 0;
        /* set_paths is called after they were read once: they are well formed */
        const char *s = get_bytes(d, &len);
        lua_pushstring(L, fields[i]);
        lua_pushlstring(L, s, len);
        lua_rawset(L, top + 2);
    }
    d->p = here;
    lua_settop(L, top);
}

enum { NOT_FOUND = -2 };

static const char in_worker[] = "in a worker";

/* Where this state runs, in words for messages ("in a worker"). */
static const char *place_of(const decoder *d)
{
    lua_getfield(d->L, LUA_REGISTRYINDEX, TP_CODEC_PLACE);
    const char *place = lua_tostring(d->L, -1);
    lua_pop(d->L, 1); /* the registry keeps it */
    return place ? place : in_worker;
}

/* Does require's error say that there is no such module, rather than that it does not load? */
static bool says_not_found(const char *why, size_t why_len, const char *name, size_t len)
{
    static const char before[] = "module '", after[] = "' not found";
    size_t at = sizeof before - 1 + len;
    return why_len >= at + sizeof after - 1 && memcmp(why, before, sizeof before - 1) == 0 &&
           memcmp(why + sizeof before - 1, name, len) == 0 &&
           memcmp(why + at, after, sizeof after - 1) == 0;
}

/* Sets the error: a module of the script is not found in a worker, and what to do about it. */
static void refuse_module(decoder *d, const char *name, size_t len)
{
    static const struct {
        const char *module, *what;
    } of_program[] = { { "vim", "the editor" }, { "love", "the game" }, { "ngx", "nginx" } };
    int n = (int)(len < 100 ? len : 100);
    for (size_t i = 0; i < sizeof of_program / sizeof *of_program; i++) {
        size_t size = strlen(of_program[i].module);
        if (len >= size && memcmp(name, of_program[i].module, size) == 0 &&
            (len == size || name[size] == '.')) {
            tp_error_set(d->err, TP_ECODEC,
                         "%s (module \"%.*s\") is not in workers: use it in the task that runs "
                         "the map",
                         of_program[i].what, n, name);
            return;
        }
    }
    if (place_of(d) != in_worker)
        tp_error_set(d->err, TP_ECODEC,
                     "module \"%.*s\" is not to be found %s: C modules, and what is installed, "
                     "must be on the workers' machines (the script's own Lua files travel; what "
                     "it has put into package.preload and package.loaders does not: do that in "
                     "app:setup, and require it inside of the function)",
                     n, name, place_of(d));
    else
        tp_error_set(d->err, TP_ECODEC,
                     "module \"%.*s\" is not to be found in a worker: package.path and "
                     "package.cpath have no file for it, and what "
                     "the script has put into package.preload and package.loaders is not there (do "
                     "that in app:setup, and require it inside of "
                     "the function)",
                     n, name);
}

/* Pushes the module of that name, loading it where the message is trusted. Below 0 with the error
 * set when there is none: NOT_FOUND when no module has that name. */
static int push_module(decoder *d, const char *name, size_t len)
{
    lua_State *L = d->L;
    struct codec *c = decoder_codec(d);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->loaded);
    lua_pushlstring(L, name, len);
    lua_rawget(L, -2);
    lua_remove(L, -2);
    if (tp_codec_is_object(L, -1))
        return 0;
    lua_pop(L, 1);
    if (!(d->flags & TP_DECODE_TRUSTED))
        return tp_error_set(d->err, TP_ECODEC, "module \"%.*s\" is not loaded here",
                            (int)(len < 100 ? len : 100), name);
    if (d->paths)
        set_paths(d);
    tp_codec_push_loading(L);                          // before
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->require);
    lua_pushlstring(L, name, len);
    int rc = lua_pcall(L, 1, 1, 0);                    // before module
    if (rc)
        tp_codec_forget_loading(L, -2); /* so that the next message can try again */
    lua_remove(L, -2);                                 // module
    if (rc && tp_codec_is_memory_error(L, rc))
        lua_error(L);
    if (rc == 0 && !lua_isnil(L, -1))
        return 0;
    size_t why_len = 0;
    const char *why = rc == 0 ? "it gives nothing" : lua_tolstring(L, -1, &why_len);
    rc = rc && why && says_not_found(why, why_len, name, len) ? NOT_FOUND : -1;
    if (rc == NOT_FOUND)
        refuse_module(d, name, len);
    else
        tp_error_set(d->err, TP_ECODEC, "cannot load module \"%.*s\" %s: %s",
                     (int)(len < 100 ? len : 100), name, place_of(d),
                     why ? why : "(an error that is not a string)");
    lua_pop(L, 1);
    return rc;
}

/* Replaces the table on top by its field of that name, raw; false when it isn't a table or has
 * none. */
static bool index_by(lua_State *L, const char *field, size_t len)
{
    if (!lua_istable(L, -1))
        return false;
    lua_pushlstring(L, field, len);
    lua_rawget(L, -2);
    lua_remove(L, -2);
    return !lua_isnil(L, -1);
}

/* Pushes require(the part of the name before the last dot)[the part after it]. -1 when there is no
 * such thing; *why tells the reason if the module exists but does not load. */
static int push_by_require(decoder *d, const char *name, size_t len, tp_error *why)
{
    size_t dot = len;
    while (dot > 0 && name[dot - 1] != '.')
        dot--;
    if (dot != 1 && (d->flags & TP_DECODE_TRUSTED)) {
        tp_error *err = d->err;
        d->err = why;
        int rc = push_module(d, name, dot ? dot - 1 : len); /* a name without a dot is a module's */
        d->err = err;
        if (rc == NOT_FOUND)
            *why = (tp_error){ 0 };
        if (rc == 0) {
            if (dot == 0 || index_by(d->L, name + dot, len - dot))
                return 0;
            lua_pop(d->L, 1);
        }
    }
    return -1;
}

/* Pushes the module of that name, and loads it under its other names, which follow in the message:
 * "md5" and "md5.core" are one table, and each of the two modules fills in a part. A name that only
 * the sender's package.loaded has is no reason to fail, as long as another one gives the module. */
static int push_module_of_names(decoder *d, const char *name, size_t len)
{
    if (left(d) < 4)
        return malformed(d, "no names");
    int top = lua_gettop(d->L);
    tp_error first = { 0 };
    tp_error *err = d->err;
    for (uint32_t n = read_u32(d);; n--) {
        tp_error ignored = { 0 };
        d->err = first.code == TP_OK ? &first : &ignored;
        push_module(d, name, len);
        d->err = err;
        if (lua_gettop(d->L) > top + 1)
            lua_pop(d->L, 1);
        if (n == 0)
            break;
        name = get_bytes(d, &len);
        if (!name)
            return -1;
    }
    return lua_gettop(d->L) > top ? 0 : tp_error_set(d->err, first.code, "%s", first.message);
}

APART static int get_module(decoder *d)
{
    if (left(d) < 1)
        return malformed(d, "no module");
    uint8_t flags = *d->p++;
    size_t len, field_len;
    if (flags & MODULE_PATHS) {
        d->paths = d->p;
        if (!get_bytes(d, &len) || !get_bytes(d, &len))
            return -1;
    }
    const char *name = get_bytes(d, &len);
    if (!name)
        return -1;
    const char *field = NULL;
    if ((flags & MODULE_FIELD) && !(field = get_bytes(d, &field_len)))
        return -1;
    if ((flags & MODULE_ALIASES ? push_module_of_names(d, name, len) : push_module(d, name, len)) <
        0)
        return -1;
    if (field && !index_by(d->L, field, field_len)) {
        lua_pop(d->L, 1);
        return tp_error_set(d->err, TP_ECODEC, "module \"%.*s\" has no \"%.*s\" %s",
                            (int)(len < 100 ? len : 100), name,
                            (int)(field_len < 100 ? field_len : 100), field,
                            place_of(d));
    }
    return 0;
}

APART static int get_builtin(decoder *d)
{
    lua_State *L = d->L;
    size_t len;
    const char *name = get_bytes(d, &len);
    if (!name)
        return -1;
    /* the last dot first, since a field's name may have dots */
    for (size_t dot = len <= BUILTIN_NAME_MAX ? len : 0;; dot--) {
        if (dot > 0 && name[dot - 1] != '.')
            continue;
        if (tp_codec_push_builtin(L, decoder_codec(d), name, dot, len))
            return 0;
        if (dot == 0)
            break;
    }
    tp_error why = { 0 };
    if (push_by_require(d, name, len, &why) == 0)
        return 0;
    return tp_error_set(d->err, TP_ECODEC, "nothing is known as \"%.*s\" %s%s%s",
                        (int)(len < 100 ? len : 100), name, place_of(d), why.code ? ": " : "",
                        why.message);
}

/* ---- classes ---- */

static void push_class(decoder *d, const struct class *k)
{
    lua_rawgeti(d->L, LUA_REGISTRYINDEX, d->c->mts);
    lua_rawgeti(d->L, -1, (int)(k - d->c->classes) + 1);
    lua_remove(d->L, -2);
}

/* Reads a class's name and pushes the class: one of this state, or of a module that is loaded for
 * it, or a field of such a module. */
APART static int get_class(decoder *d)
{
    size_t len;
    const char *name = get_bytes(d, &len);
    if (!name)
        return -1;
    const struct codec *c = decoder_codec(d);
    struct class *k = tp_codec_find_class(c, name, len);
    tp_error why = { 0 };
    if (!k && push_by_require(d, name, len, &why) == 0) {
        k = tp_codec_find_class(c, name, len);
        if (!k && lua_istable(d->L, -1))
            return 0;
        lua_pop(d->L, 1);
    }
    if (!k)
        k = tp_codec_find_class(c, name, len);
    if (!k)
        return tp_error_set(d->err, TP_ECODEC, "class \"%.*s\" is not known %s%s%s",
                            (int)(len < 100 ? len : 100), name, place_of(d), why.code ? ": " : "",
                        why.message);
    push_class(d, k);
    return 0;
}

/* Reads the name of a class whose definition is being read around this, and pushes the class. */
APART static int get_defined(decoder *d)
{
    size_t len;
    const char *name = get_bytes(d, &len);
    if (!name)
        return -1;
    struct class *k = tp_codec_find_class(decoder_codec(d), name, len);
    if (!k)
        return malformed(d, "a class without its definition");
    push_class(d, k);
    return 0;
}

static void clear_table(lua_State *L)
{
    lua_pushnil(L);
    while (lua_next(L, -2)) { /* table key value */
        lua_pop(L, 1);
        lua_pushvalue(L, -1);
        lua_pushnil(L);
        lua_rawset(L, -4);    /* table key */
    }
    lua_pushnil(L);
    lua_setmetatable(L, -2);
}

/* Reads a reference to a class with its definition, and pushes the class. The definition is read
 * once per state and version. A newer version is read into the same table, so that all objects of
 * the class in this state go on sharing one metatable. Where this state has registered a class of
 * that name, that one is taken instead. */
APART static int get_blob(decoder *d)
{
    if (left(d) < 4)
        return malformed(d, "no reference");
    uint32_t i = read_u32(d);
    if (i >= d->nrefs || d->refs[i]->type != &tp_class_blob_type)
        return malformed(d, "a reference to a class that is none");
    class_blob *blob = (class_blob *)d->refs[i];
    lua_State *L = d->L;
    struct codec *c = decoder_codec(d);
    struct class *k = tp_codec_find_class(c, blob->name, strlen(blob->name));
    if (k && (k->blob == blob || k->origin != FOREIGN)) {
        push_class(d, k);
        return 0;
    }
    if (k) {
        push_class(d, k);
        tp_ref_drop(k->blob);
        k->blob = NULL;
        clear_table(L);
    } else {
        lua_newtable(L);
        k = tp_codec_set_class(L, c, blob->name, strlen(blob->name), FOREIGN);
    }
    int index = (int)(k - c->classes);
    decoder in = {
        .L = L,
        .c = c,
        .base = blob->message.data,
        .p = blob->message.data,
        .end = blob->message.data + blob->message.len,
        .refs = blob->message.refs,
        .nrefs = blob->message.nrefs,
        .flags = TP_DECODE_TRUSTED,
        .depth = d->depth,
        .root = lua_gettop(L),
        .bottom = lua_gettop(L),
        .err = d->err,
    };
    if (decode(&in) < 0) {
        lua_pop(L, 1);
        return -1;
    }
    lua_pop(L, 1); /* the table on top, a second time */
    k = &c->classes[index];
    if (k->origin == FOREIGN) {
        tp_ref_drop(k->blob);
        k->blob = tp_ref_hold(blob);
    }
    return 0;
}

APART static int get_ref(decoder *d)
{
    if (left(d) < 4)
        return malformed(d, "no reference");
    uint32_t i = read_u32(d);
    if (i >= d->nrefs || d->refs[i]->type == &tp_class_blob_type)
        return malformed(d, "a reference to an object that is none");
    tp_codec_push_ref(d->L, d->refs[i]);
    return 0;
}

/* ---- tables ---- */

/* Reads the number of a table that the image has, so that both sides have it, and pushes that
 * table. */
APART static int get_captured(decoder *d)
{
    if (left(d) < 4)
        return malformed(d, "no number");
    uint32_t number = read_u32(d);
    bool is_there = d->captured && !d->is_image &&
                    tp_captured_push_table(d->L, d->captured, number);
    return is_there ? 0 : malformed(d, "a captured table that there is not");
}

/* Reads a run of doubles into the table on top, from item i on, at most n of them. Gives how many;
 * 0 when malformed. */
APART static uint32_t get_run(decoder *d, uint32_t i, uint32_t n)
{
    lua_State *L = d->L;
    uint32_t count = left(d) < 4 ? 0 : read_u32(d);
    if (count == 0 || count > n || (uint64_t)count * 8 > left(d)) {
        malformed(d, "a run of numbers that is too long");
        return 0;
    }
    for (uint32_t k = 0; k < count; k++) {
        lua_pushnumber(L, read_double(d));
        lua_rawseti(L, -2, (int)(i + k));
    }
    return count;
}

static int get_items(decoder *d, uint32_t n)
{
    lua_State *L = d->L;
    for (uint32_t i = 1; i <= n;) {
        if (left(d) > 0 && *d->p == T_RUN) {
            d->p++;
            uint32_t count = get_run(d, i, n - i + 1);
            if (count == 0)
                return -1;
            d->owed -= count;
            i += count;
            continue;
        }
        d->owed--;
        if (get_value(d) < 0)
            return -1;
        lua_rawseti(L, -2, (int)i++);
    }
    return 0;
}

static int get_pairs(decoder *d, uint32_t n)
{
    lua_State *L = d->L;
    for (uint32_t i = 0; i < n; i++) {
        d->owed -= 2;
        if (get_value(d) < 0)
            return -1;
        bool is_key = lua_type(L, -1) == LUA_TNUMBER ? !isnan(lua_tonumber(L, -1))
                                                     : !lua_isnil(L, -1);
        if (!is_key)
            return malformed(d, "a key that cannot be one");
        if (get_value(d) < 0)
            return -1;
        lua_rawset(L, -3);
    }
    return 0;
}

/* Reads the metatable of the table, or the userdata with fields, on top. Bytes from outside may
 * only name metatables; our own messages may bring them along. */
APART static int get_metatable(decoder *d)
{
    uint8_t tag = left(d) ? *d->p & ~SHARED : T_NIL;
    bool is_named = tag == T_BUILTIN || tag == T_MODULE || tag == T_CLASS || tag == T_BLOB ||
                    tag == T_DEFINED || (left(d) && *d->p == T_BACK);
    if (!is_named && !(d->flags & TP_DECODE_TRUSTED))
        return malformed(d, "a metatable");
    if (get_value(d) < 0)
        return -1;
    if (!lua_istable(d->L, -1))
        return malformed(d, "a metatable that is not a table");
    if (lua_type(d->L, -2) == LUA_TUSERDATA && !tp_codec_has_fields(d->L, decoder_codec(d)))
        return malformed(d, "a metatable of no userdata");
    lua_setmetatable(d->L, -2);
    return 0;
}

/* Reads a userdata with fields. */
APART static int get_fields(decoder *d, uint8_t tag)
{
    lua_State *L = d->L;
    const uint8_t *at = d->p - 1;
    if (deeper(d) < 0)
        return -1;
    lua_newuserdata(L, 0);
    if (((tag & SHARED) && share(d, at, 0) < 0) || get_metatable(d) < 0 || get_value(d) < 0)
        return -1;
    if (!lua_istable(L, -1))
        return malformed(d, "fields that are no table");
    lua_setfenv(L, -2);
    d->depth--;
    return 0;
}

static int get_table(decoder *d, uint8_t tag)
{
    lua_State *L = d->L;
    const uint8_t *at = d->p - 1;
    if (left(d) < 8)
        return malformed(d, "no table");
    uint32_t items = read_u32(d), pairs = read_u32(d);
    int64_t announced = (int64_t)items + 2 * (int64_t)pairs;
    if (announced > (int64_t)left(d) - d->owed || items > INT_MAX)
        return malformed(d, "a table of more values than the message has");
    if (deeper(d) < 0)
        return -1;
    d->owed += announced;
    if (d->root) {
        lua_pushvalue(L, d->root);
        d->root = 0;
    } else {
        /* A pair takes 24 to 48 bytes of memory, but perhaps only two bytes of the message. So for
         * bytes from outside, room is made for half of the pairs that they announce. */
        bool is_trusted = d->flags & TP_DECODE_TRUSTED;
        lua_createtable(L, (int)items, (int)(is_trusted ? pairs : pairs / 2));
    }
    if (d->is_image && tp_captured_add(L, d->captured, false) < 0)
        return tp_error_oom(d->err, "message");
    if ((tag & SHARED) && share(d, at, 0) < 0)
        return -1;
    if ((tag & ~SHARED) == T_OBJECT && get_metatable(d) < 0)
        return -1;
    if (get_items(d, items) < 0 || get_pairs(d, pairs) < 0)
        return -1;
    d->depth--;
    return 0;
}

/* ---- functions ---- */

/* Reads the environment of the function on top, and sets it. */
static int get_globals(decoder *d)
{
    lua_State *L = d->L;
    const uint8_t *at = d->p;
    uint8_t tag = left(d) ? *d->p++ : 0xff;
    if (tag == T_NIL)
        return 0;
    if ((tag & ~SHARED) == T_ENV) {
        lua_newtable(L);                                               /* fn env */
        lua_rawgeti(L, LUA_REGISTRYINDEX, decoder_codec(d)->env_mt);
        lua_setmetatable(L, -2);
        if ((tag & SHARED) && share(d, at, IS_ENV) < 0)
            return -1;
    } else if (tag != T_BACK || get_shared(d) != IS_ENV) {
        return malformed(d, "no environment");
    }
    if (left(d) < 4)
        return malformed(d, "no globals");
    for (uint32_t n = read_u32(d); n > 0; n--) {
        if (get_value(d) < 0)
            return -1;
        if (lua_type(L, -1) != LUA_TSTRING)
            return malformed(d, "a global without a name");
        if (get_value(d) < 0)
            return -1;
        lua_rawset(L, -3);
    }
    lua_setfenv(L, -2);
    return 0;
}

/* Reads upvalue i of the function on top, and sets it. */
static int get_upvalue(decoder *d, int i)
{
    lua_State *L = d->L;
    const uint8_t *at = d->p;
    uint8_t tag = left(d) ? *d->p++ : 0xff;
    if (tag == T_UPBACK) {
        int64_t n = get_shared(d);
        if (n <= 0 || n == IS_ENV)
            return malformed(d, "a reference to an upvalue that is none");
        lua_upvaluejoin(L, -2, i, -1, (int)n);
        lua_pop(L, 1);
        return 0;
    }
    if ((tag & ~SHARED) != T_UPVAL)
        return malformed(d, "no upvalue");
    if ((tag & SHARED) && share(d, at, (uint32_t)i) < 0)
        return -1;
    if (get_value(d) < 0)
        return -1;
    lua_setupvalue(L, -2, i);
    return 0;
}

APART static int get_function(decoder *d, uint8_t tag)
{
    lua_State *L = d->L;
    const uint8_t *at = d->p - 1;
    if (!(d->flags & TP_DECODE_TRUSTED))
        return malformed(d, "a function, in bytes from outside,");
    if (deeper(d) < 0)
        return -1;
    /* The bytecode, which comes next, may be a shared object too. Objects are numbered in the order
     * of their tags, so the function must get its number before it. */
    uint32_t number = 0;
    if (tag & SHARED) {
        lua_pushboolean(L, false);
        if (share(d, at, 0) < 0)
            return -1;
        lua_pop(L, 1);
        number = d->w->nshared;
    }
    if (get_value(d) < 0)
        return -1;
    size_t len;
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &len) : NULL;
    int rc = text ? luaL_loadbufferx(L, text, len, "=function", "b") : LUA_ERRSYNTAX;
    if (rc == LUA_ERRMEM)
        lua_error(L);
    if (rc)
        return malformed(d, "bytecode that cannot be loaded");
    lua_remove(L, -2);                                   /* fn */
    if (number) {
        lua_pushvalue(L, -1);
        lua_rawseti(L, d->shared, (int)number);
    }
    if (get_globals(d) < 0)
        return -1;
    int n = left(d) ? *d->p++ : 0;
    for (int i = 1; i <= n; i++) {
        if (!lua_getupvalue(L, -1, i))
            return malformed(d, "more upvalues than the function has");
        lua_pop(L, 1);
        if (get_upvalue(d, i) < 0)
            return -1;
    }
    d->depth--;
    return 0;
}

/* ---- values ---- */

/* Reads a cdata of the kind that the tag says. */
APART static int get_cdata(decoder *d, int tag)
{
    lua_State *L = d->L;
    size_t size = tag == T_COMPLEX ? 16 : 8;
    if (left(d) < size)
        return malformed(d, "no number");
    tp_codec_push_ffi(L, decoder_codec(d), "make");
    if (lua_isnil(L, -1))
        return tp_error_set(d->err, TP_ECODEC,
                            "a cdata cannot be made here: there is no ffi library");
    lua_pushinteger(L, tag);
    if (tag == T_COMPLEX) {
        lua_pushnumber(L, read_double(d));
        lua_pushnumber(L, read_double(d));
        lua_call(L, 3, 1);
    } else {
        lua_call(L, 1, 1);
        memcpy((void *)(uintptr_t)lua_topointer(L, -1), d->p, size);
        d->p += size;
    }
    return 0;
}

/* Calls a function of cdata.lua with the n values on top. If the first result is not nil it
 * replaces them; else the second says why. */
static int call_ffi(decoder *d, const char *name, int n)
{
    lua_State *L = d->L;
    tp_codec_push_ffi(L, decoder_codec(d), name);
    if (lua_isnil(L, -1))
        return tp_error_set(d->err, TP_ECODEC,
                            "a cdata cannot be made here: there is no ffi library");
    lua_insert(L, -n - 1);
    lua_call(L, n, 2); // value why
    if (lua_isnil(L, -2))
        return tp_error_set(d->err, TP_ECODEC, "%s", lua_tostring(L, -1));
    lua_pop(L, 1);
    return 0;
}

/* Reads what the FFI made, which consists of two values: tags from T_CTYPE to T_LIBRARY. */
APART static int get_ffi(decoder *d, uint8_t tag)
{
    if (!(d->flags & TP_DECODE_TRUSTED))
        return malformed(d, "something of the FFI, in bytes from outside,");
    if (get_value(d) < 0 || get_value(d) < 0)
        return -1;
    if (call_ffi(d,
                 tag == T_CTYPE    ? "ctype"
                 : tag == T_BYTES  ? "value"
                 : tag == T_SYMBOL ? "symbol"
                                   : "open_library",
                 2) < 0)
        return -1;
    size_t len;
    const char *bytes = tag == T_BYTES ? get_bytes(d, &len) : "";
    if (!bytes)
        return -1;
    if (tag == T_BYTES && len > 0)
        memcpy((void *)(uintptr_t)lua_topointer(d->L, -1), bytes, len);
    return 0;
}

/* Pushes the array if it was read lately and is still alive. */
static bool push_got(lua_State *L, const struct codec *c, const struct lately *a)
{
    for (int i = 0; i < LATELY; i++) {
        const struct lately *b = &c->got[i];
        if (b->memory != a->memory || b->type != a->type || b->offset != a->offset ||
            b->elements != a->elements || b->shape != a->shape)
            continue;
        tp_codec_push_lately(L);
        lua_rawgeti(L, -1, LATELY + i + 1);
        lua_remove(L, -2);
        if (!lua_isnil(L, -1))
            return true;
        lua_pop(L, 1);
    }
    return false;
}

/* Loads the module that makes arrays, if it is not loaded. */
static int open_arrays(decoder *d)
{
    if (decoder_codec(d)->array_new != LUA_REFNIL)
        return 0;
    if (push_module(d, "tidepool.array", strlen("tidepool.array")) < 0)
        return -1;
    lua_pop(d->L, 1);
    return 0;
}

/* Is there such an array, with its elements inside the memory? */
static bool is_array(const decoder *d, uint32_t index, int type, const uint64_t numbers[3])
{
    if (index >= d->nrefs || d->refs[index]->type != &tp_array_type || type >= TP_TYPES)
        return false;
    const tp_array *memory = (const tp_array *)(const void *)d->refs[index];
    size_t size = tp_type_size((tp_type)type);
    return numbers[0] <= memory->size && numbers[0] % size == 0 &&
           numbers[1] <= (memory->size - numbers[0]) / size &&
           fits_shape(numbers[2], numbers[1]);
}

APART static int get_array(decoder *d)
{
    lua_State *L = d->L;
    struct codec *c = decoder_codec(d);
    uint64_t numbers[3];
    if (left(d) < 5 + sizeof numbers)
        return malformed(d, "no array");
    uint32_t index = read_u32(d);
    int type = *d->p++;
    memcpy(numbers, d->p, sizeof numbers);
    d->p += sizeof numbers;
    if (!is_array(d, index, type, numbers))
        return malformed(d, "an array of nothing");
    if (open_arrays(d) < 0)
        return -1;
    struct lately a = { .memory = d->refs[index],
                        .type = (uint8_t)type,
                        .offset = numbers[0],
                        .elements = numbers[1],
                        .shape = numbers[2] };
    if (push_got(L, c, &a))
        return 0;
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->array_new);
    lua_pushlightuserdata(L, d->refs[index]);
    lua_pushinteger(L, type);
    lua_pushnumber(L, (double)numbers[0]);
    lua_pushnumber(L, (double)numbers[1]);
    lua_pushnumber(L, (double)columns_of_shape(numbers[2]));
    lua_pushnumber(L, (double)planes_of_shape(numbers[2]));
    lua_call(L, 6, 1);
    int at = (int)(c->next_got++ % LATELY);
    c->got[at] = (struct lately){ 0 };
    tp_codec_push_lately(L);
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, LATELY + at + 1);
    lua_pop(L, 1);
    c->got[at] = a; /* last, since the calls above may raise */
    return 0;
}

/* Reads an array that was sent as a copy. */
APART static int get_elements(decoder *d)
{
    lua_State *L = d->L;
    struct codec *c = decoder_codec(d);
    uint64_t numbers[2];
    if (left(d) < 1 + sizeof numbers || *d->p >= TP_TYPES)
        return malformed(d, "no array");
    int type = *d->p++;
    memcpy(numbers, d->p, sizeof numbers);
    d->p += sizeof numbers;
    size_t size = tp_type_size((tp_type)type);
    if (numbers[0] > left(d) / size || !fits_shape(numbers[1], numbers[0]))
        return malformed(d, "an array that is longer than all");
    if (open_arrays(d) < 0)
        return -1;
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->array_new);
    lua_pushnil(L);
    lua_pushinteger(L, type);
    lua_pushinteger(L, 0);
    lua_pushnumber(L, (double)numbers[0]);
    lua_pushnumber(L, (double)columns_of_shape(numbers[1]));
    lua_pushnumber(L, (double)planes_of_shape(numbers[1]));
    lua_call(L, 6, 1);
    const tp_array_view *view = lua_topointer(L, -1);
    size *= numbers[0];
    if (size)
        memcpy(view->data, d->p, size);
    d->p += size;
    if (!(d->flags & TP_DECODE_TRUSTED))
        tp_make_canonical((tp_type)type, view->data, numbers[0]);
    return 0;
}

static int get_in_frame(lua_State *L)
{
    decoder *d = lua_touserdata(L, 1);
    int shared = d->shared;
    d->shared = 2;
    bool failed = get_value(d) < 0;
    d->shared = shared;
    if (failed)
        return 0;
    return 1;
}

/* Reads a value whose tag can be shared. Most of these nest. */
static int get_nested(decoder *d, uint8_t tag)
{
    lua_State *L = d->L;
    /* the rest goes on in a C function with a stack of its own */
    if (!lua_checkstack(L, STACK_NEED)) {
        d->p--;
        acquire_shared(d);
        int top = lua_gettop(L);
        lua_pushcfunction(L, get_in_frame);
        lua_pushlightuserdata(L, d);
        lua_pushvalue(L, d->shared);
        lua_call(L, 2, LUA_MULTRET);
        return lua_gettop(L) > top ? 0 : -1;
    }
    const uint8_t *at = d->p - 1;
    int rc;
    size_t len;
    const char *s;
    switch (tag & ~SHARED) {
    case T_TABLE:
    case T_OBJECT:
        return get_table(d, tag);
    case T_FIELDS:
        return get_fields(d, tag);
    case T_FUNC:
        return get_function(d, tag);
    case T_STRING:
        s = get_bytes(d, &len);
        rc = s ? 0 : -1;
        if (s)
            lua_pushlstring(L, s, len);
        break;
    case T_BUILTIN:
        rc = get_builtin(d);
        break;
    case T_MODULE:
        rc = get_module(d);
        break;
    case T_CLASS:
        rc = get_class(d);
        break;
    case T_BLOB:
        rc = get_blob(d);
        break;
    case T_DEFINED:
        rc = get_defined(d);
        break;
    case T_REF:
        rc = get_ref(d);
        break;
    case T_CAPTURED:
        rc = get_captured(d);
        break;
    case T_CTYPE:
    case T_BYTES:
    case T_SYMBOL:
    case T_LIBRARY:
        rc = get_ffi(d, tag & ~SHARED);
        break;
    case T_ELEMENTS:
        rc = get_elements(d);
        break;
    case T_REFUSED:
        s = get_bytes(d, &len);
        rc = s ? 0 : -1;
        if (s)
            tp_codec_push_refused(L, s, len);
        break;
    default:
        return malformed(d, "an unknown tag");
    }
    return rc == 0 && (tag & SHARED) ? share(d, at, 0) : rc;
}

/* Reads the next value and pushes it. -1 when malformed, with anything on the stack. */
static int get_value(decoder *d)
{
    lua_State *L = d->L;
    if (left(d) == 0)
        return malformed(d, "no value");
    uint8_t tag = *d->p++;
    if (tag < T_SHORT) {
        lua_pushnumber(L, tag - T_INT);
        return 0;
    }
    if (tag < T_NIL) {
        size_t len = tag - T_SHORT;
        if (left(d) < len)
            return malformed(d, "a string that is longer than the message");
        lua_pushlstring(L, (const char *)d->p, len);
        d->p += len;
        return 0;
    }
    int32_t i;
    switch (tag) {
    case T_NIL:
        lua_pushnil(L);
        return 0;
    case T_FALSE:
    case T_TRUE:
        lua_pushboolean(L, tag == T_TRUE);
        return 0;
    case T_NULL:
        lua_pushlightuserdata(L, NULL);
        return 0;
    case T_INT8:
        if (left(d) < 1)
            return malformed(d, "no number");
        lua_pushnumber(L, (int8_t)*d->p++);
        return 0;
    case T_INT32:
        if (left(d) < 4)
            return malformed(d, "no number");
        memcpy(&i, d->p, sizeof i);
        d->p += sizeof i;
        lua_pushnumber(L, i);
        return 0;
    case T_DOUBLE:
        if (left(d) < 8)
            return malformed(d, "no number");
        lua_pushnumber(L, read_double(d));
        return 0;
    case T_INT64:
    case T_UINT64:
    case T_COMPLEX:
        return get_cdata(d, tag);
    case T_ARRAY:
        return get_array(d);
    case T_BACK:
        return get_back(d);
    default:
        return get_nested(d, tag);
    }
}

/* ---- messages ---- */

/* Declares the text on top to the FFI, as the sender has done. */
static void declare(decoder *d)
{
    tp_codec_push_ffi(d->L, decoder_codec(d), "declare");
    lua_pushvalue(d->L, -2);
    lua_call(d->L, 1, 0);
}

/* Pushes the values of the message above d->bottom; gives how many, or -1 with the stack as it
 * was. */
static int decode(decoder *d)
{
    lua_State *L = d->L;
    uint32_t n = left(d) ? *d->p++ : 0;
    int rc = 0;
    if (d->p == d->base)
        rc = malformed(d, "nothing");
    else if (n == 255)
        rc = left(d) < 4 ? malformed(d, "no count") : (n = read_u32(d), 0);
    if (rc == 0 && n > left(d))
        rc = malformed(d, "more values than the message has");
    if (rc == 0 && (n > INT_MAX - 64 || !lua_checkstack(L, (int)n + STACK_NEED / 2)))
        rc = malformed(d, "too many values at once");
    d->owed = n;
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        d->owed--;
        rc = get_value(d);
        if (rc == 0 && d->is_image && i == 0 && lua_isstring(L, -1))
            declare(d);
    }
    if (d->w)
        d->w->busy = false;
    if (rc < 0) {
        lua_settop(L, d->bottom);
        return -1;
    }
    if (d->w) {
        lua_remove(L, d->bottom + 2);
        lua_remove(L, d->bottom + 1);
    }
    return (int)n;
}

static decoder decoder_of(lua_State *L, const uint8_t *bytes, size_t len, tp_ref *const *refs,
                          uint32_t nrefs, unsigned flags, tp_error *err)
{
    return (decoder){
        .L = L,
        .base = bytes,
        .p = bytes,
        .end = bytes + len,
        .refs = refs,
        .nrefs = nrefs,
        .flags = flags,
        .bottom = lua_gettop(L),
        .err = err,
    };
}

int tp_decode(lua_State *L, const uint8_t *bytes, size_t len, tp_ref *const *refs, uint32_t nrefs,
              unsigned flags, size_t *used, tp_error *err)
{
    decoder d = decoder_of(L, bytes, len, refs, nrefs, flags, err);
    int n = decode(&d);
    if (n >= 0 && used)
        *used = (size_t)(d.p - bytes);
    return n;
}

int tp_decode_with(lua_State *L, const uint8_t *bytes, size_t len, tp_ref *const *refs,
                   uint32_t nrefs, unsigned flags, tp_captured *captured, tp_error *err)
{
    decoder d = decoder_of(L, bytes, len, refs, nrefs, flags, err);
    d.captured = captured;
    return decode(&d);
}

int tp_decode_image(lua_State *L, const uint8_t *bytes, size_t len, tp_ref *const *refs,
                    uint32_t nrefs, tp_captured *captured, tp_error *err)
{
    decoder d = decoder_of(L, bytes, len, refs, nrefs, TP_DECODE_TRUSTED, err);
    d.captured = captured;
    d.is_image = true;
    int n = decode(&d);
    if (n >= 0)
        tp_captured_seal(L, captured);
    return n;
}
