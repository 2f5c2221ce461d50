/* encoder.h: a message in the making, for the files of this folder only.
 *
 * One pass over the values, with the encoder on the C stack. Functions that write give 0, or -1
 * when the value is refused: the encoder then says why and where. Its path is put together from the
 * inside to the outside on the way back. Some refusals only restart the message: a module that was
 * just found may have been written already as a plain table.
 *
 * encode.c is the door: messages, and what is public. values.c writes any value and tables, cdata.c
 * those of the FFI and typed arrays, functions.c functions (records.c: what their bytecode says,
 * globals.c: what they read of their environments), userdata.c host objects, names.c what travels
 * by its name, classes.c classes with their definitions, image.c what only an image has; ranks.c
 * orders keys for identities. */
#ifndef TP_CODEC_ENCODE_ENCODER_H
#define TP_CODEC_ENCODE_ENCODER_H

#include "codec/captured.h"
#include "codec/codec_state.h"

#include <math.h>
#include <string.h>

struct encoder;

/* What the other rooms need of those above them, because values nest and definitions of classes are
 * messages. */
typedef struct encoder_top {
    /* Writes the value on top, and leaves the stack as it was. -1 when refused. */
    int (*put_value)(struct encoder *e);
    /* Writes the message of the values first, first + 1, ... at the end of e->out. On failure e
     * says why. */
    int (*run)(struct encoder *e, int first, int n);
} encoder_top;

/* A message in the making. On the C stack: an error that jumps over it must not leak anything, so
 * it owns nothing. */
typedef struct encoder {
    const encoder_top *top;
    lua_State *L;
    struct work *w;  /* NULL until it is needed, which numbers do not do */
    struct codec *c; /* the same */
    tp_buf *out;
    uint8_t *base; /* where the message starts: out->data + out->len, which stays as it was until
                      the end */
    uint8_t *p, *end;
    uint32_t nrefs; /* of out, at the start */
    unsigned flags, depth;
    uint32_t found; /* the offset of what see() found */

    /* the message in which this definition of a class is needed; NULL: this is no definition */
    struct encoder *outer;
    int defining;          /* the class that is being defined; -1: none */
    bool is_partial;       /* refers to a class whose definition is being made around this one */
    bool scanned;          /* package.loaded has been looked through for this message */
    bool restart; /* something that is now known by name may have been written by value already */
    bool has_paths;
    unsigned ranking; /* how deep calls of rank_of are nested (tables as keys of tables) */

    /* of an image: the tables that it is expected to have, or gets; otherwise the tables that both
     * sides have, or NULL */
    tp_captured *captured;

    /* ---- of an image ---- */
    bool is_image;
    /* its tables are not the expected ones: `captured` is new, and they are added to it */
    bool adds_tables;
    uint32_t ntables;     /* how many captured tables were met so far */
    unsigned inside;      /* how many captured tables the encoder is inside of */
    /* of an outline (tp_encode_outline): tables that are written as their numbers */
    const tp_captured *outline;
    bool reaches_globals; /* its functions may reach globals that they do not name */
    /* that was found out, so all globals are taken along, and functions get the state's own
     * environment */
    bool wants_globals;
    /* something that may not be needed cannot travel: each such value is tried before it is
     * written */
    bool is_careful;
    bool has_library;     /* a standard library is in it as a value */
    unsigned uses;        /* USES_* of its functions together */

    /* ---- what is refused; set from the inside to the outside ---- */
    tp_code code;
    bool is_cut, is_deep;
    int failed; /* the number of the value that was refused, from 0 */
    size_t npath;
    char path[160], why[200];
} encoder;

/* ---- refusals ---- */

/* Refuses the value that is being written. Gives -1. */
__attribute__((format(printf, 3, 4)))
int tp_encoder_refuse(encoder *e, tp_code code, const char *format, ...);

/* Refuses it for want of memory. */
int tp_encoder_refuse_memory(encoder *e);

/* Refuses a value of a type that never travels. */
int tp_encoder_refuse_type(encoder *e, const char *what);

/* Puts a step in front of the path. A path that gets too long loses its inner end. */
int tp_encoder_at(encoder *e, const char *step, size_t n);

/* The same for a step like `: upvalue "name"`. */
int tp_encoder_at_name(encoder *e, const char *what, const char *name);

/* The same for an item of a list. */
int tp_encoder_at_index(encoder *e, size_t i);

/* The same for the key at the index. */
int tp_encoder_at_key(encoder *e, int index);

/* ---- the message as bytes ---- */

/* Begins a message at the end of `out`; flags: TP_ENCODE_*. */
void tp_encoder_start(encoder *e, const encoder_top *top, lua_State *L, tp_buf *out,
                      unsigned flags);

/* Gets scratch memory when it is first needed: at the first table, function or long string, which
 * is the value on top of the outermost frame. The scratch stays on the stack below it. */
void tp_encoder_acquire(encoder *e);

/* Keeps the value on top alive until the message is made: until then its address must not be
 * reused. */
void tp_encoder_anchor(encoder *e);

/* Gives back what tp_encoder_acquire() got. */
void tp_encoder_release(encoder *e);

/* Was the object met before in this message? 1: yes, at e->found; 0: no, and it is written next;
 * -1: refused. */
int tp_encoder_see(encoder *e, const void *object);

/* Goes one level down: e->depth is one more, also when that is refused. */
int tp_encoder_deeper(encoder *e);

/* Room for n more bytes at e->p, the slow way. */
int tp_encoder_grow(encoder *e, size_t n);

static inline bool is_identity(const encoder *e)
{
    return e->flags & TP_ENCODE_IDENTITY;
}

static inline int room(encoder *e, size_t n)
{
    return (size_t)(e->end - e->p) >= n ? 0 : tp_encoder_grow(e, n);
}

static inline void write_u32(uint8_t *p, uint32_t n)
{
    memcpy(p, &n, sizeof n);
}

static inline uint32_t offset(const encoder *e)
{
    return (uint32_t)(e->p - e->base);
}

static inline int put_tag(encoder *e, uint8_t tag)
{
    if (room(e, 1) < 0)
        return -1;
    *e->p++ = tag;
    return 0;
}

static inline int put_tag_u32(encoder *e, uint8_t tag, uint32_t n)
{
    if (room(e, 5) < 0)
        return -1;
    e->p[0] = tag;
    write_u32(e->p + 1, n);
    e->p += 5;
    return 0;
}

/* A length and bytes, without a tag. */
static inline int put_bytes(encoder *e, const char *s, size_t len)
{
    if (room(e, len + 4) < 0)
        return -1;
    write_u32(e->p, (uint32_t)len);
    memcpy(e->p + 4, s, len);
    e->p += 4 + len;
    return 0;
}

/* Writes a reference to what tp_encoder_see() found. */
static inline int put_back(encoder *e, uint8_t tag)
{
    e->base[e->found] |= SHARED;
    return put_tag_u32(e, tag, e->found);
}

static inline int put_number(encoder *e, double x)
{
    if (room(e, 9) < 0)
        return -1;
    e->p = tp_write_number(e->p, isnan(x) && is_identity(e) ? (double)NAN : x);
    return 0;
}

/* Writes a string that is on top, or that stays alive otherwise while scratch is acquired (a long
 * string that is a key is not the first object). */
int tp_encoder_put_long_string(encoder *e, const char *s, size_t len);

static inline int put_string(encoder *e, int index)
{
    size_t len;
    const char *s = lua_tolstring(e->L, index, &len);
    if (len >= SHORT_MAX)
        return tp_encoder_put_long_string(e, s, len);
    if (room(e, SHORT_MAX) < 0)
        return -1;
    *e->p++ = (uint8_t)(T_SHORT + len);
    memcpy(e->p, s, len);
    e->p += len;
    return 0;
}

/* ---- values ---- */

/* The same as put_value(), for encode.c only. */
int tp_encoder_put_value(encoder *e);

static inline int put_value(encoder *e)
{
    return e->top->put_value(e);
}

/* Write the value on top: a cdata, a function, a userdata. */
int tp_encoder_put_cdata(encoder *e);
int tp_encoder_put_function(encoder *e);
int tp_encoder_put_userdata(encoder *e);

static inline bool is_item(lua_State *L, int index, size_t n)
{
    if (n == 0 || lua_type(L, index) != LUA_TNUMBER)
        return false;
    double x = lua_tonumber(L, index);
    return x >= 1 && x <= (double)n && x == floor(x);
}

/* Stack: table -> table keys: those of the table but for 1 to n, in a fixed order. Gives their
 * number, or -1. */
int tp_encoder_push_ranked_keys(encoder *e, size_t n);

/* ---- what travels by name ---- */

/* Makes known what is new in package.loaded, with all names that it has there, and restarts the
 * message, which may already have the new module as a plain value. Takes about 20 ns a module when
 * package.loaded has changed. It is called once in an epoch, and once in a message that has a
 * function or an unknown object; so a plain table that became a module within an epoch may still
 * travel by value. */
int tp_encoder_scan_modules(encoder *e);

/* Looks through the fields of all modules for the object (a C function or a metatable) and makes it
 * known when it is there. Globals do not count: a worker's _G does not have what the program put
 * there. */
struct known *tp_encoder_find_field(encoder *e, const void *object);

/* The object on top has been refused. If it is a field of a module, it is known by that name from
 * now on, and the message restarts. (A field of a standard library that is not known was put there
 * by the script, as were functions of the script in modules.) */
int tp_encoder_take_by_name(encoder *e);

/* Stack: module -> module names. Gives how many names the module has in package.loaded now. */
int tp_encoder_push_aliases(encoder *e);

/* Can a function reach all globals through this builtin? */
bool tp_encoder_is_reaching(const struct codec *c, const struct known *k);

/* Writes the object on top by its name. */
int tp_encoder_put_known(encoder *e, struct known *k);

/* Writes the class of number `index` in codec.classes by its name, with its definition where the
 * other side may not have it. */
int tp_encoder_put_class(encoder *e, int index);

/* Writes a reference to a host object. */
int tp_encoder_put_ref(encoder *e, tp_ref *r);

/* Pushes the field `__travels` of a metatable: a text says why its objects cannot travel; false:
 * they travel without their contents. */
int tp_encoder_push_travels(lua_State *L, int mt);

/* Stack: object metatable, of a class that is not known. Refuses the object, with the name that the
 * class gives itself, if any. */
int tp_encoder_refuse_class(encoder *e);

/* ---- functions and images ---- */

/* Pushes the record of the Lua function on top: { bytecode, USES_*, names of globals that it
 * reads... }. */
void tp_encoder_push_record(lua_State *L, const struct codec *c);

/* The value on top may not be needed. If it cannot travel, replaces it by a stand-in that raises
 * the reason when it is used, and gives 1. `name` is the index of a string that says what the value
 * is. */
int tp_encoder_try_value(encoder *e, int name);

/* A value that may not be needed was refused: restarts the message with e->is_careful, so that such
 * values are tried first. */
int tp_encoder_be_careful(encoder *e);

/* Stack: fn record. The function's environment: its identity, and the values of the globals that
 * the function reads. */
int tp_encoder_put_globals(encoder *e);

/* Writes what an image has after its values, see tp_encode_image. May restart the message because
 * all globals are wanted. */
int tp_encoder_put_changes(encoder *e, int n);

#endif
