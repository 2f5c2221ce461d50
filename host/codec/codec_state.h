/* codec_state.h: what the codec keeps in a Lua state, for codec.c, encode.c and decode.c only.
 *
 * Per Lua state there is one struct codec (what is known by name: builtins, modules, classes) and one struct work (scratch
 * of the message that is being made or read). Both are userdata in the registry, so that an error that jumps out of here
 * leaks nothing: a work that stays marked busy is simply replaced by the next message's. The same covers nested use: a work
 * in use is anchored on the Lua stack of its user. */
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

/* Kept out of the functions that call themselves, 10,000 deep on a stack of 8 MiB: those need small frames. */
#define APART __attribute__((noinline))

enum { REACHING_MAX = 8 };
enum { STACK_NEED = 16 }; /* Lua stack slots that one level of nesting may use */

/* Values are looked at for whether the C stack has room from this depth on: a level takes up to 800 bytes, what is called at the deepest one some pages. */
enum { SHALLOW = 40, C_STACK_NEED = 32 * 1024 };

/* A class's definition as a message of one table. Immutable, shared by states and threads. */
typedef struct class_blob {
    tp_ref ref;
    tp_buf message;
    bool is_partial; /* of use only inside of the definition that it was made for: see put_defined */
    char name[];     /* the class's */
} class_blob;

enum kind { GONE, BUILTIN, MODULE, FIELD, CLASS };

/* A Lua object that travels by name. MODULE and FIELD do not keep it alive: they are compared with what is in
 * package.loaded before each use, and become GONE when it isn't there any more. */
struct known {
    const void *object; /* tp_codec_identity; NULL: an empty place of the hash table */
    enum kind kind;
    int index; /* of the name in `names` (MODULE: one of them; FIELD: module and field; BUILTIN: the prefix and the rest of its name); CLASS: in codec.classes */
};

enum { BY_NAME, BY_VALUE, FOREIGN };

struct class {
    const void *mt;   /* anchored by the table `classes` at index + 1 */
    char *name;       /* owned */
    class_blob *blob; /* one reference: its definition of `epoch`, or the one that was decoded. NULL: none yet */
    unsigned epoch;
    int origin; /* BY_NAME, BY_VALUE: registered in this state; FOREIGN: its definition came in a message */
};

/* A typed array that was written or read lately: one that comes with every item is looked into once. */
struct lately {
    const void *object; /* the cdata, as lua_topointer has it; NULL: nothing */
    tp_ref *memory;     /* the object's, not owned: it is looked at while that is alive */
    uint8_t type;
    uint64_t offset, elements, columns;
};

enum { LATELY = 8 };

/* What the codec knows in one Lua state. A userdata in the registry, under &codec_key. */
struct codec {
    struct known *known; /* open addressing, a power of two of places, at most half full */
    uint32_t nknown, known_size;
    struct class *classes;
    int nclasses, class_room;
    unsigned epoch, scanned_epoch; /* the second: when package.loaded was last looked through */
    tp_layout layout;        /* of tables; encoding skips the array part as it goes through the hash part: lua_next is a fifth of the time of a list */
    tp_snapshot seen_loaded; /* package.loaded, when it was last looked through */
    tp_standard standard;
    tp_modules modules;
    tp_stack stack;          /* of the thread that has entered the state last */
    int reaching[REACHING_MAX], nreaching; /* indexes, as in struct known, of the builtins through which all globals can be reached */
    struct opcodes {
        uint8_t gget, gset, tsets, tsetv, tsetb, uget;
    } op;
    struct bytecode_patches patches;

    /* Lua tables and functions: indexes in the registry. */
    int names;    /* array of names that known.index counts in, nnames of them */
    int nnames;
    int nstandard; /* so many of them, the first, are of the standard libraries: globals of every state */
    int by_prefix; /* of a builtin's name, up to its last dot, or "": -> { the rest of the name -> builtin } */
    int mts;      /* array of the classes' metatables */
    int dumps;    /* Lua function -> { bytecode, USES_*, names of globals read... }; weak keys */
    int env_mt;   /* metatable of decoded functions' environments: __index = the state's globals */
    int loaded;   /* package.loaded */
    int aliases;  /* object of package.loaded -> its names there, shortest first; weak keys */
    int require;  /* the function, or nil */
    int cdata_of; /* see lua/tidepool/base/cdata.lua; nil without ffi */
    int cdata_new;
    struct lately sent[LATELY], got[LATELY]; /* their objects: see tp_codec_push_lately */
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

    /* Encoding: objects met so far. A place whose stamp is not the message's is empty. */
    struct seen *seen;
    uint32_t nseen, seen_size, stamp;
    int anchors; /* registry index of a table that keeps temporary values alive, or LUA_NOREF */

    /* Decoding: shared objects so far, by rising offset. Number i is at i + 1 in the decoder's Lua table. */
    struct shared {
        uint32_t offset;
        uint32_t upvalue; /* 0: a value; else it is this upvalue of the function, or IS_ENV */
    } *shared;
    uint32_t nshared, shared_room;
};

enum { IS_ENV = 0xffff };

/* What a function does, as its bytecode says. */
enum {
    USES_GLOBALS = 1,
    SETS_LIBRARY = 2, /* writes a field of a standard library, or calls what changes more than its own results */
    SETS_UPVALUE = 4  /* writes a field of a table that is an upvalue */
};

static inline uint32_t tp_codec_slot(const void *object, uint32_t size)
{
    return (uint32_t)(((uint64_t)(uintptr_t)object >> 3) * UINT64_C(0x9E3779B97F4A7C15) >> 32) & (size - 1);
}

/* The place of the object, or the empty place where it belongs. */
static struct known *tp_codec_known_slot(struct known *table, uint32_t size, const void *object)
{
    uint32_t i = tp_codec_slot(object, size);
    while (table[i].object && table[i].object != object)
        i = (i + 1) & (size - 1);
    return &table[i];
}

/* What is known about an object; NULL if nothing. */
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

/* What an object is told from others by: its address, which for a userdata is that of its bytes; it may have none, and another object begin there. So for
 * these it is the one before. */
static inline const void *tp_codec_identity(lua_State *L, int index)
{
    const char *address = lua_topointer(L, index);
    return lua_type(L, index) == LUA_TUSERDATA ? address - 1 : address;
}

/* The state's; raises when the codec is not open there. */
struct codec *tp_codec_of(lua_State *L);

/* Pushes scratch that nobody uses and marks it busy. It is the caller's until busy is false again, as long as the caller
 * leaves it on the stack. */
struct work *tp_codec_push_work(lua_State *L);

/* Makes an object known, in place of what was known about it. -1: out of memory. */
int tp_codec_add_known(struct codec *c, const void *object, enum kind kind, int index);

/* The class of that name; NULL if there is none. */
struct class *tp_codec_find_class(const struct codec *c, const char *name, size_t len);

/* Makes the table on top the metatable of the class of that name, which is added when it is new. Raises on out of memory. */
struct class *tp_codec_set_class(lua_State *L, struct codec *c, const char *name, size_t len, int origin);

/* The host object of the userdata on top, of whatever type; NULL if it has none. */
tp_ref *tp_codec_any_ref(lua_State *L);

/* Replaces the Lua function on top by its bytecode with debug information. */
void tp_codec_dump(lua_State *L);

/* Pushes an owner of a buffer. */
tp_buf *tp_codec_push_buf(lua_State *L);

/* Pushes what stands for a value that cannot travel, where that is not known to be needed: whoever uses it gets the text as an error. */
void tp_codec_push_refused(lua_State *L, const char *text, size_t len);

/* The text, if the userdata on top is such a thing; else NULL. */
const char *tp_codec_refused(lua_State *L, size_t *len);

/* Pushes a function of lua/tidepool/base/cdata.lua; nil without ffi. Needs three slots of the stack. */
void tp_codec_push_ffi(struct lua_State *L, const struct codec *c, const char *name);

/* Pushes the list of the objects of `sent`, then of `got`, which does not keep them alive. */
void tp_codec_push_lately(struct lua_State *L);

/* A new table in the registry. */
int tp_codec_new_table(lua_State *L);

#endif
