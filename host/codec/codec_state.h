/* codec_state.h: what the codec keeps in a Lua state, for codec.c, encode/ and decode.c only.
 *
 * Per Lua state there is one struct codec (what is known by name: builtins, modules, classes) and
 * one struct work (scratch of the message that is being made or read). Both are userdata in the
 * registry, so that an error that jumps out of here leaks nothing: a work that stays marked busy is
 * simply replaced by the next message's. The same covers nested use: a work in use is anchored on
 * the Lua stack of its user. */
#ifndef TP_CODEC_STATE_H
#define TP_CODEC_STATE_H

#include "base/stack.h"
#include "codec/bytecode.h"
#include "codec/codec.h"
#include "codec/message.h"
#include "codec/modules.h"
#include "codec/snapshot.h"
#include "codec/standard.h"

#include <lua.h>

#define countof(a) (sizeof(a) / sizeof *(a))

/* Keeps a function from being inlined into those that recurse, up to 10,000 deep on a stack of 8
 * MiB: they need small frames. */
#define APART __attribute__((noinline))

enum { REACHING_MAX = 8 };
enum { TYPE_CDATA = 10 }; /* lua_type of LuaJIT's cdata; lua.h has no name for it */
enum { STACK_NEED = 16 }; /* Lua stack slots that one level of nesting may use */

/* From the first depth on, each level checks that the C stack has room: a level takes up to 800
 * bytes, and what the deepest one calls takes some pages. */
enum { SHALLOW = 40, C_STACK_NEED = 32 * 1024 };

/* A class's definition as a message of one table. Immutable, shared by states and threads. */
typedef struct class_blob {
    tp_ref ref;
    tp_buf message;
    /* made while the definition around it was being made, and usable only there: see put_defined */
    bool is_partial;
    char name[];     /* the class's */
} class_blob;

enum kind { GONE, BUILTIN, MODULE, FIELD, CLASS };

/* A Lua object that travels by name. MODULE and FIELD do not keep it alive: they are compared with
 * what is in package.loaded before each use, and become GONE when it isn't there any more. */
struct known {
    const void *object; /* tp_codec_identity; NULL: an empty place of the hash table */
    enum kind kind;
    /* an index in `names`: for a MODULE one of its names; for a FIELD that of its module, then the
     * field; for a BUILTIN the prefix, then the rest, then the object itself, which is kept alive
     * by that. For a CLASS an index in codec.classes */
    int index;
};

enum { BY_NAME, BY_VALUE, FOREIGN };

struct class {
    const void *mt;   /* anchored by the table `classes` at index + 1 */
    char *name;       /* owned */
    /* one reference, held: the definition as of `epoch`, or the one that was decoded; NULL: none
     * yet */
    class_blob *blob;
    unsigned epoch;
    int origin; /* BY_NAME, BY_VALUE: registered in this state; FOREIGN: its definition came in a
                   message */
};

/* A typed array that was written or read lately. An array that comes with every item is taken apart
 * only once. */
struct lately {
    const void *object; /* the cdata's lua_topointer; NULL: an empty place */
    tp_ref *memory;     /* the array's memory; not held: only looked at while the object is alive */
    uint8_t type;
    uint64_t offset, elements, shape;
};

/* The shape of an array in messages: 0, or the columns of a matrix, or of several matrices (planes)
 * the planes and the columns, packed into 31 bits each. */
enum { SHAPE_BITS = 31 };
#define SHAPE_HAS_PLANES (UINT64_C(1) << 63)

static inline uint64_t pack_shape(double columns, double planes)
{
    if (planes == 0)
        return (uint64_t)columns;
    return SHAPE_HAS_PLANES | (uint64_t)planes << SHAPE_BITS | (uint64_t)columns;
}

static inline uint64_t columns_of_shape(uint64_t shape)
{
    return shape & SHAPE_HAS_PLANES ? shape & ((UINT64_C(1) << SHAPE_BITS) - 1) : shape;
}

static inline uint64_t planes_of_shape(uint64_t shape)
{
    return shape & SHAPE_HAS_PLANES ? (shape & ~SHAPE_HAS_PLANES) >> SHAPE_BITS : 0;
}

/* Can an array of so many elements have this shape? */
static inline bool fits_shape(uint64_t shape, uint64_t elements)
{
    uint64_t columns = columns_of_shape(shape), planes = planes_of_shape(shape);
    if (!(shape & SHAPE_HAS_PLANES))
        return columns == 0 || elements % columns == 0;
    return columns > 0 && planes > 0 && planes < UINT64_C(1) << SHAPE_BITS &&
           elements % (columns * planes) == 0;
}

enum { LATELY = 8 };

/* What the codec knows in one Lua state. A userdata in the registry, under &codec_key. */
struct codec {
    struct known *known; /* open addressing, a power of two of places, at most half full */
    uint32_t nknown, known_size;
    /* the builtins' indexes in `names` by what they are called, in the same way; 0: empty. When
     * several builtins have one name, it is that of the last. A name is two strings: the part up to
     * a dot, "math.", or "", and the rest */
    uint32_t *by_name, nnamed, named_size;
    struct class *classes;
    int nclasses, class_room;
    unsigned epoch, scanned_epoch; /* the epoch in which package.loaded was last scanned */
    /* of Lua tables; encoding skips the array part when it writes the hash part, since lua_next
     * takes a fifth of the time for a list */
    tp_layout layout;
    tp_snapshot seen_loaded; /* package.loaded when it was last scanned */
    tp_standard standard;
    tp_modules modules;
    tp_stack stack;          /* of the thread that entered the state last */
    /* indexes, as in struct known, of the builtins through which a function can reach all
     * globals */
    int reaching[REACHING_MAX], nreaching;
    struct opcodes {
        uint8_t gget, gset, tsets, tsetv, tsetb, uget;
    } op;
    struct bytecode_patches patches;

    /* References in the registry to Lua tables and functions. */
    int names;    /* the array of names that known.index refers to; it has nnames */
    int nnames;
    int nstandard; /* the first of them: names of the standard libraries, which every state has */
    int mts;      /* array of the classes' metatables */
    int dumps;    /* Lua function -> { bytecode, USES_*, names of globals read... }; weak keys */
    int env_mt;   /* metatable of decoded functions' environments: __index = the state's globals */
    int loaded;   /* package.loaded */
    /* object of package.loaded -> its names there, ordered as by is_before; weak keys */
    int aliases;
    int require;  /* the function, or nil */
    struct lately sent[LATELY], got[LATELY]; /* tp_codec_push_lately has their objects */
    unsigned next_sent, next_got;
    int array_of; /* see tp_codec_set_arrays; nil until it was called */
    int array_new;
};

struct seen {
    const void *object;
    uint32_t stamp, offset;
};

/* Scratch of one message. A userdata in the registry, under &work_key. */
struct work {
    struct codec *codec;
    bool busy;

    /* Encoding: the objects met so far. An entry whose stamp is not this message's is empty. */
    struct seen *seen;
    uint32_t nseen, seen_size, stamp;
    int anchors; /* registry index of a table that keeps temporary values alive, or LUA_NOREF */

    /* Decoding: the shared objects so far, by rising offset. The decoder's Lua table has number i
     * at i + 1. */
    struct shared {
        uint32_t offset;
        /* 0: the entry is a value; else this upvalue of the function, or IS_ENV */
        uint32_t upvalue;
    } *shared;
    uint32_t nshared, shared_room;
};

enum { IS_ENV = 0xffff };

/* What a function does, as its bytecode says. */
enum {
    USES_GLOBALS = 1,
    /* writes a field of a standard library, or calls a function that changes its state */
    SETS_LIBRARY = 2,
    SETS_UPVALUE = 4, /* writes a field of a table that is an upvalue */
    NAMES_GLOBALS = 8 /* asks by another way for all globals: require "_G", debug.getfenv */
};

static inline uint32_t tp_codec_slot(const void *object, uint32_t size)
{
    return (uint32_t)(((uint64_t)(uintptr_t)object >> 3) * UINT64_C(0x9E3779B97F4A7C15) >> 32) &
           (size - 1);
}

/* The object's entry, or the empty one where it belongs. */
static struct known *tp_codec_known_slot(struct known *table, uint32_t size, const void *object)
{
    uint32_t i = tp_codec_slot(object, size);
    while (table[i].object && table[i].object != object)
        i = (i + 1) & (size - 1);
    return &table[i];
}

/* The entry of an object; NULL if it is not known. */
static inline struct known *tp_codec_find_known(const struct codec *c, const void *object)
{
    if (!c->known_size)
        return NULL;
    struct known *k = tp_codec_known_slot(c->known, c->known_size, object);
    return k->object && k->kind != GONE ? k : NULL;
}

static inline bool tp_codec_is_object(lua_State *L, int index)
{
    int type = lua_type(L, index);
    return type == LUA_TTABLE || type == LUA_TFUNCTION || type == LUA_TUSERDATA;
}

/* An address that tells an object from all others. A userdata's own address is that of its bytes;
 * when it has none, another object may begin there. So for a userdata it is the address before. */
static inline const void *tp_codec_identity(lua_State *L, int index)
{
    const char *address = lua_topointer(L, index);
    return lua_type(L, index) == LUA_TUSERDATA ? address - 1 : address;
}

/* The state's codec; raises when it is not open there. */
struct codec *tp_codec_of(lua_State *L);

/* Pushes scratch memory that is not in use and marks it busy. It is the caller's until `busy` is
 * false again, as long as it stays on the stack. */
struct work *tp_codec_push_work(lua_State *L);

/* Makes an object known, replacing what was known about it. -1: out of memory. */
int tp_codec_add_known(struct codec *c, const void *object, enum kind kind, int index);

/* The class of that name; NULL if there is none. */
struct class *tp_codec_find_class(const struct codec *c, const char *name, size_t len);

/* Makes the table on top the metatable of the class of that name, which is added when it is new.
 * Raises on out of memory. */
struct class *tp_codec_set_class(lua_State *L, struct codec *c, const char *name, size_t len,
                                 int origin);

/* Is the metatable on top that of a class whose objects are userdata with fields, as its field
 * `__fields` says? The environment of such a userdata is the table of its fields. */
bool tp_codec_has_fields(lua_State *L, struct codec *c);

/* The host object of the userdata on top, of whatever type; NULL if it has none. */
tp_ref *tp_codec_any_ref(lua_State *L);

/* Replaces the Lua function on top by its bytecode with debug information. */
void tp_codec_dump(lua_State *L);

/* Pushes a userdata that owns an empty buffer. */
tp_buf *tp_codec_push_buf(lua_State *L);

/* Pushes a stand-in for a value that cannot travel and may not be needed: whoever uses it gets the
 * text as an error. */
void tp_codec_push_refused(lua_State *L, const char *text, size_t len);

/* The text of the stand-in on top; NULL if it is something else. */
const char *tp_codec_refused(lua_State *L, size_t *len);

/* Pushes a function of cdata.lua or cdata_values.lua in lua/tidepool/base; nil without ffi. Needs
 * three slots of the stack. */
void tp_codec_push_ffi(struct lua_State *L, const struct codec *c, const char *name);

/* Pushes the weak list of the objects of `sent`, followed by those of `got`. */
void tp_codec_push_lately(struct lua_State *L);

/* Pushes the builtin of a name of `len` bytes, the first `dot` of which end with a dot, or are
 * none; false, with nothing pushed, when there is no such one. Needs five slots of the stack. */
bool tp_codec_push_builtin(struct lua_State *L, const struct codec *c, const char *name,
                           size_t dot, size_t len);

/* The reference in the registry of a new table. */
int tp_codec_new_table(lua_State *L);

#endif
