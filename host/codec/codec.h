/* codec.h: Lua values to bytes and back.
 *
 * Pure: values in, bytes out; no host, no job, no thread. A message is the bytes of a sequence of
 * Lua values plus the host objects (tp_ref) that they refer to. Shared references and cycles are
 * kept within one message. What cannot travel is refused, with its path, before anything is sent.
 *
 * Bytes from outside the process are hostile: decode them without TP_DECODE_TRUSTED. Then they can
 * bring no code, name only modules that are loaded already, and allocate no more than some 16 times
 * their length.
 *
 * What travels by name: the standard libraries and their functions (as they are at tp_codec_open),
 * what tp_codec_add_builtins adds, modules of package.loaded, C functions and metatables that are
 * fields of such modules, and classes.
 *
 * A value that cannot travel may be replaced by a userdata that raises the reason when it is used
 * (see tp_encode_image). That userdata can travel on.
 *
 * A Lua function travels as its bytecode with its upvalues and the values that its environment has
 * for the globals that it reads. On the other side, functions of one message that shared an
 * environment share a new one, which inherits the state's globals; assignments to globals stay in
 * it. */
#ifndef TP_CODEC_H
#define TP_CODEC_H

#include "base/buf.h"
#include "base/error.h"
#include "base/failure.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lua_State;
struct tp_captured;

enum {
    TP_STRING_MAX = 1 << 30, /* bytes of one string */
    TP_DEPTH_MAX = 10000,    /* tables inside tables */
    TP_REFERENCES_MAX = 256  /* that tp_codec_reserve_references makes room for */
};

/* What the codec keeps per lua_State (names of builtins, known classes, scratch memory). Made by
 * tp_codec_open, owned and freed by the state. Call it after the standard libraries are open and
 * before user code runs; again does nothing. Raises on out of memory. */
void tp_codec_open(struct lua_State *L);

/* Makes the registry large enough for n references (luaL_ref), at most TP_REFERENCES_MAX, while
 * running out of memory loses nothing: LuaJIT loses integer keys of a table that runs out of memory
 * while it grows (lj_tab_resize: the array part is larger already, but the keys are still in the
 * old hash part), and in the registry such keys are our references. Raises out of memory. */
void tp_codec_reserve_references(struct lua_State *L, int n);

/* The record of what has been done to the state's standard libraries. The state owns it. Raises
 * when the codec is not open there. */
struct tp_standard *tp_codec_standard(struct lua_State *L);

/* Makes every field of the table at `index` known as "name.field", and the table itself as "name".
 * Such values travel by name, and are found in a state where the same name was registered or where
 * `require(name)` gives the table. Raises on out of memory. */
void tp_codec_add_builtins(struct lua_State *L, const char *name, int index);

/* Makes the metatable at `index` a class known as `name`; objects with it travel as their raw
 * fields. `by_value` false: the other state must know the class under that name too (or find it
 * with require of the part of the name before the last dot). True: the metatable itself travels
 * with the objects, once per message, and is decoded once per state and version, so that a worker
 * needs to know nothing. A name that is taken gets the new metatable. States recognise a class by
 * its name: if the receiving state has registered a class of that name, a definition that arrives
 * is ignored; otherwise all definitions of that name are read into one metatable, also when they
 * change. Raises on out of memory. */
void tp_codec_add_class(struct lua_State *L, const char *name, int index, bool by_value);

/* Starts an epoch. The first message of an epoch with objects of a by-value class checks whether
 * the class has changed, and carries the new definition if so; later ones do not check. Call it
 * where a map starts. */
void tp_codec_new_epoch(struct lua_State *L);

enum {
    TP_ENCODE_ERROR_VALUE =
        1, /* unknown metatables are dropped instead of refused: for error values */
    /* for identities, see codec/identity.h: the bytes are only compared, never decoded */
    TP_ENCODE_IDENTITY = 2,
    /* for readers that do not trust us: refuses functions, and classes that would have to be
     * defined */
    TP_ENCODE_NO_CODE = 4,
    /* for readers that share only the file of typed arrays with us: other arrays are copied */
    TP_ENCODE_COPIES = 8,
    /* with TP_ENCODE_COPIES, for readers on other machines: all arrays are copied */
    TP_ENCODE_ELEMENTS = 16
};

/* Encodes the n stack values first, first+1, ... and appends them to out: a count, then the values.
 * `root` names them in refusals: what[i] for the i-th value, e.g. "argument 2" (NULL: "value i").
 * Nothing is popped or pushed. On failure returns -1, sets err (TP_ECODEC with a path, e.g.
 * `argument 1.user.socket: a userdata cannot travel to a worker`) and leaves out as it was. Runs no
 * user code, except an __index function of a function's own environment (a sandbox's), protected.
 * May raise out-of-memory: call it protected, with out owned elsewhere; out is then as it was, or
 * has references that no message names. */
int tp_encode(struct lua_State *L, int first, int n, const char *const *root, unsigned flags,
              tp_buf *out, tp_error *err);

/* The same between two sides that have the tables of an image, `captured` (NULL: none). Those
 * travel by their number (captured.h). */
int tp_encode_with(struct lua_State *L, int first, int n, const char *const *root, unsigned flags,
                   struct tp_captured *captured, tp_buf *out, tp_error *err);

/* The same for a function that is to be called elsewhere, as its image. The message has n + 3
 * values. First what was declared to the FFI (or nil), so that decoding declares it before all
 * else. Then the values first .. first + n - 1, of which the first is the function. Then the
 * changes: what this state has changed in standard libraries and modules and, when the function can
 * reach globals that it does not name, all globals; a list for tp_standard_apply, or nil. Last,
 * whether the function may change such things itself. Of the changes, what cannot travel is an
 * error where it is used. At the absolute stack index `tables` is nil, or the captured tables
 * (captured.h) of an earlier image of the same function. They are replaced by this image's (nil: it
 * has none), and 1 is returned; or they are the same tables, perhaps with other contents, and 0 is
 * returned (see tp_captured_renew). */
int tp_encode_image(struct lua_State *L, int first, int n, const char *const *root, int tables,
                    unsigned flags, tp_buf *out, tp_error *err);

/* A quick check whether encoding a large image again would give the same message. tp_encode_watch
 * hashes the memory of the plain captured tables (captured.h), those at `tables`; false when there
 * are none. Then tp_encode_outline appends the image with those tables replaced by their numbers:
 * if two outlines are equal, so are the images. It gives false, with out as it was, when a plain
 * table has been written to since, or something is refused. Both may raise out of memory. */
bool tp_encode_watch(struct lua_State *L, int tables);
bool tp_encode_outline(struct lua_State *L, int first, int n, int tables, unsigned flags,
                       tp_buf *out);

enum {
    TP_DECODE_TRUSTED = 1 /* made by this process: functions may be loaded, references are valid */
};

/* Writes what the code of the Lua function at index does, as TP_ENCODE_IDENTITY does, and pushes
 * two lists: the names of the globals that it and the functions inside it read, and the strings
 * among their constants. Raises out of memory. */
void tp_codec_inspect(struct lua_State *L, int index, tp_buf *code);

/* Decodes one sequence that starts at bytes; sets *used to its length when it is not NULL. Pushes
 * the values and returns how many; -1 with err set on bytes that no encoder made, or that need what
 * this state does not have (a module that cannot be required, an unknown class), with nothing
 * pushed. Where a module has to be loaded (trusted messages only), package.path and package.cpath
 * are set to the sender's first, and the module's code runs; it may use the codec itself. May raise
 * out-of-memory: call it protected. */
int tp_decode(struct lua_State *L, const uint8_t *bytes, size_t len, tp_ref *const *refs,
              uint32_t nrefs, unsigned flags, size_t *used, tp_error *err);

/* The same for a message of tp_encode_with; and, always trusted, for a message of tp_encode_image,
 * whose tables are added to `captured` and sealed. */
int tp_decode_with(struct lua_State *L, const uint8_t *bytes, size_t len, tp_ref *const *refs,
                   uint32_t nrefs, unsigned flags, struct tp_captured *captured, tp_error *err);
int tp_decode_image(struct lua_State *L, const uint8_t *bytes, size_t len, tp_ref *const *refs,
                    uint32_t nrefs, struct tp_captured *captured, tp_error *err);

/* Sets the functions, at the stack indexes `of` and `make`, that recognise and make typed arrays
 * (lua/tidepool/array.lua). of(cdata) returns the memory (a tp_ref, as light userdata), the element
 * type's number, the offset in bytes, the number of elements, of columns (0: no matrix) and of
 * planes (0: none); or nil for other cdata. make(memory, type, offset, elements, columns, planes)
 * returns an array that holds the memory; memory nil: an array with memory of its own. A state in
 * which they were not set loads the module when an array arrives. Raises on out of memory. */
void tp_codec_set_arrays(struct lua_State *L, int of, int make);

/* The registry may have a text under this key: where the state is, for errors of messages that need
 * something which is not there, in place of "in a worker". */
#define TP_CODEC_PLACE "tidepool.place"

/* Raises LuaJIT's own out-of-memory error (TP_NO_MEMORY), without allocating. Does not return; for
 * `return tp_codec_raise_memory(L)`. */
int tp_codec_raise_memory(struct lua_State *L) __attribute__((noreturn));

/* Raises err's message, with the caller's place if that is Lua; out of memory as above. Does not
 * return. */
int tp_codec_raise(struct lua_State *L, const tp_error *err) __attribute__((noreturn));

/* A protected call has failed with this status, with the error at the top: was it out of memory?
 * Also when some code has caught that error and raised it again. */
bool tp_codec_is_memory_error(struct lua_State *L, int status);

/* While a module is being loaded, LuaJIT's require keeps a mark for it in package.loaded, and
 * leaves it there when loading fails. From then on require refuses the module ("loop or previous
 * error loading module"), though the next time there may be memory, a file or a server.
 * tp_codec_push_loading pushes a table of the names that are marked now, or nil when there are
 * none; it raises out of memory. tp_codec_forget_loading removes all marks except those in
 * `before`, the stack index of such a table (0: removes all). It neither raises nor allocates,
 * needs three slots of the stack, and is called after a protected call has failed that may have
 * loaded modules. */
void tp_codec_push_loading(struct lua_State *L);
void tp_codec_forget_loading(struct lua_State *L, int before);

/* Pushes a userdata that owns one more reference to r (one userdata per push; equal objects compare
 * equal by
 * __eq). Its metatable is that of tp_codec_ref_type, which is made when it isn't there. */
void tp_codec_push_ref(struct lua_State *L, tp_ref *r);

/* Pushes the same userdata without an object yet: set *the result to a reference, which the
 * userdata then owns. For a new object this comes first, since it may raise out of memory. */
tp_ref **tp_codec_push_box(struct lua_State *L, const tp_ref_type *type);

/* The object behind the userdata at index if it is one of that type, else NULL. Borrowed. */
void *tp_codec_to_ref(struct lua_State *L, int index, const tp_ref_type *type);

/* Pushes the metatable for a kind of reference, making it if need be, with __gc and __eq, which
 * must stay as they are. Userdata with it travel: the message holds the object. */
void tp_codec_ref_type(struct lua_State *L, const tp_ref_type *type);

#endif
