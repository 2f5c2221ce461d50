/* codec.h: Lua values to bytes and back.
 *
 * Pure: values in, bytes out; no host, no job, no thread. A message is the bytes of a sequence of Lua
 * values plus the host objects (tp_ref) that they refer to. Shared references and cycles are kept within one
 * message. What cannot travel is refused, with its path, before anything is sent.
 *
 * Bytes from outside the process are hostile: decode them without TP_DECODE_TRUSTED. Then they can bring no code, name only
 * modules that are loaded already, and allocate no more than some 16 times their length.
 *
 * What travels by name: the standard libraries and their functions (as they are at tp_codec_open), what tp_codec_add_builtins adds,
 * what is in package.loaded, C functions and metatables that are fields of what is in package.loaded, classes.
 *
 * What stands for a refused value (see tp_encode_image) is a userdata that raises when it is used, and travels as such.
 *
 * A Lua function travels as its bytecode with its upvalues and the values that its environment has for the globals
 * that it reads. On the other side the functions of one message that had one environment share a new one, behind which are the
 * state's globals; what they assign to globals stays there. */
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
    TP_DEPTH_MAX = 10000     /* tables inside tables */
};

/* What the codec keeps per lua_State (names of builtins, known classes, scratch memory). Made by
 * tp_codec_open, owned and freed by the state. Call it after the standard libraries are open and before user code
 * runs; again does nothing. Raises on out of memory. */
void tp_codec_open(struct lua_State *L);

/* What has been done to the standard libraries of the state. It is the state's. Raises when the codec is not open there. */
struct tp_standard *tp_codec_standard(struct lua_State *L);

/* Makes every field of the table at `index` (and the table itself) known as "name.field" ("name"): such values travel by
 * name, and are found again in a state where the same name was registered, or where `require(name)` gives it. Raises on
 * out of memory. */
void tp_codec_add_builtins(struct lua_State *L, const char *name, int index);

/* Makes the metatable at `index` a class known as `name`. Objects with it travel as their raw fields. `by_value` false: the other
 * state must know the class under that name too (or find it with require of the part of the name before the last dot). True:
 * the metatable itself travels along with the objects, once per message and decoded once per state and version, so that a
 * worker needs to know nothing. A name that is taken is given the new metatable. The name is what makes it the same class in all
 * states: a definition that arrives under a name that was added in the receiving state gives way to that one; others are read into one
 * metatable per name, also when the definition changes. Raises on out of memory. */
void tp_codec_add_class(struct lua_State *L, const char *name, int index, bool by_value);

/* Starts an epoch: the next message with objects of a by-value class looks whether the class has changed, and carries
 * the new definition if so. Within an epoch, and in states that never call this, a definition is made once. Call it
 * where a map starts. */
void tp_codec_new_epoch(struct lua_State *L);

enum {
    TP_ENCODE_ERROR_VALUE = 1, /* unknown metatables are dropped instead of refused: for error values */
    TP_ENCODE_IDENTITY = 2,    /* see codec/identity.h: what is written is only to be compared */
    TP_ENCODE_NO_CODE = 4,     /* for readers that do not trust us: functions, and classes that we would have to define, are refused */
    TP_ENCODE_COPIES = 8       /* for readers that see of our memory only the file of typed arrays: those that are not there go as copies */
};

/* Encodes the n stack values first, first+1, ... and appends them to out: a count, then the values. `root` names them
 * in refusals: what[i] for the i-th value, e.g. "argument 2" (NULL: "value i"). Nothing is popped or pushed. On failure returns
 * -1, sets err (TP_ECODEC with a path, e.g. `argument 1.user.socket: a userdata cannot travel to a worker`) and leaves
 * out as it was. Runs no user code, except an __index function of a function's own environment (a sandbox's), protected. May
 * raise out-of-memory: call it protected, with out owned elsewhere; out is then as it was, or has references that no message
 * names. */
int tp_encode(struct lua_State *L, int first, int n, const char *const *root, unsigned flags, tp_buf *out,
              tp_error *err);

/* The same between two sides that have the tables of an image, `captured` (NULL: none): these travel by their number (captured.h). */
int tp_encode_with(struct lua_State *L, int first, int n, const char *const *root, unsigned flags, struct tp_captured *captured, tp_buf *out,
                   tp_error *err);

/* The same for a function that is to be called elsewhere: the values first .. first + n - 1, of which the first is the function, then what this state has
 * changed in standard libraries and modules, and, when the function can reach globals that it does not name, all globals: a list for tp_standard_apply, or nil;
 * then whether the function may change such things itself. The
 * declarations to the FFI come first, or nil: they are made as it is decoded. So n + 3 values are decoded. What of the changes cannot travel is an error where it is used.
 * At the absolute stack index `tables` is nil, or the captured tables (captured.h) of an earlier message of the same function. They are replaced by those of
 * this one, nil when it has none. Gives 1 then, and 0 when they are the same tables, of which the contents may be others: see tp_captured_renew. */
int tp_encode_image(struct lua_State *L, int first, int n, const char *const *root, int tables, unsigned flags, tp_buf *out, tp_error *err);

/* What of a large message of tp_encode_image has to be looked at to know that it would be the same again. tp_encode_watch notes what memory its plain tables
 * (captured.h), those at `tables`, have; false when there are none. Then tp_encode_outline appends that message with these tables by their numbers: equal
 * outlines are of equal messages. It gives false, with out as it was, when one of them has been written to since, or something is refused. Both may raise
 * out of memory. */
bool tp_encode_watch(struct lua_State *L, int tables);
bool tp_encode_outline(struct lua_State *L, int first, int n, int tables, unsigned flags, tp_buf *out);

enum {
    TP_DECODE_TRUSTED = 1 /* made by this process: functions may be loaded, references are valid */
};

/* Writes what the code of the Lua function at index does, as TP_ENCODE_IDENTITY does, and pushes two lists: the names of the globals that
 * it reads, or functions inside of it, and the strings that are constants there. Raises out of memory. */
void tp_codec_inspect(struct lua_State *L, int index, tp_buf *code);

/* Decodes one sequence that starts at bytes; sets *used to its length when it is not NULL. Pushes the values and returns
 * how many; -1 with err set on bytes that no encoder made, or that need what this state does not have (a module
 * that cannot be required, an unknown class), with nothing pushed. Where a module has to be loaded (trusted messages
 * only), package.path and package.cpath are set to the sender's first, and the module's code runs; it may use the codec itself.
 * May raise out-of-memory: call it protected. */
int tp_decode(struct lua_State *L, const uint8_t *bytes, size_t len, tp_ref *const *refs, uint32_t nrefs,
              unsigned flags, size_t *used, tp_error *err);

/* The same for a message of tp_encode_with, and for one of tp_encode_image, whose tables become those of `captured`, sealed; that is always trusted. */
int tp_decode_with(struct lua_State *L, const uint8_t *bytes, size_t len, tp_ref *const *refs, uint32_t nrefs, unsigned flags, struct tp_captured *captured,
                   tp_error *err);
int tp_decode_image(struct lua_State *L, const uint8_t *bytes, size_t len, tp_ref *const *refs, uint32_t nrefs, struct tp_captured *captured, tp_error *err);

/* How typed arrays are recognised and made (lua/tidepool/array.lua), at the stack indexes `of` and `make`: of(cdata) gives the memory (a tp_ref, as
 * light userdata), the element type's number, the offset in bytes, the elements and its columns (0: no matrix), or nil for other cdata; make(memory,
 * type, offset, elements, columns) gives the array, which owns the memory too; without a memory (nil) one with memory of its own. A state without them loads the module when an array comes. Raises on out of memory. */
void tp_codec_set_arrays(struct lua_State *L, int of, int make);

/* Raises what LuaJIT raises when it has no memory (TP_NO_MEMORY), which takes none. Does not come back; for `return tp_codec_raise_memory(L)`. */
int tp_codec_raise_memory(struct lua_State *L) __attribute__((noreturn));

/* A protected call has failed with this status, and the error at the top: was there no memory? Also when some code has caught that and raised it again. */
bool tp_codec_is_memory_error(struct lua_State *L, int status);

/* While a module is being loaded, LuaJIT's require keeps a mark for it in package.loaded, and leaves it there when that ends in an error: the module is
 * refused for ever then ("loop or previous error loading module"), though the next time there may be memory, a file or a server.
 * tp_codec_push_loading pushes what is marked now, a table by name, or nil when nothing is; it raises out of memory.
 * tp_codec_forget_loading takes away all marks but those of `before`, the stack index of such a value (0: none are kept). It neither raises nor
 * allocates, needs three slots of the stack, and is called after a protected call has failed in which modules may have been loaded. */
void tp_codec_push_loading(struct lua_State *L);
void tp_codec_forget_loading(struct lua_State *L, int before);

/* Pushes a userdata that owns one more reference to r (one userdata per push; equal objects compare equal by
 * __eq). Its metatable is that of tp_codec_ref_type, which is made when it isn't there. */
void tp_codec_push_ref(struct lua_State *L, tp_ref *r);

/* Pushes the same userdata without an object yet: *the result is to be set to a reference, which the userdata owns then. For a new object this goes first,
 * since it raises out of memory. */
tp_ref **tp_codec_push_box(struct lua_State *L, const tp_ref_type *type);

/* The object behind the userdata at index if it is one of that type, else NULL. Borrowed. */
void *tp_codec_to_ref(struct lua_State *L, int index, const tp_ref_type *type);

/* Creates (or finds) and pushes the metatable for a kind of reference, with __gc and __eq in place, which are to stay as they
 * are. Userdata with it travel, by counting. */
void tp_codec_ref_type(struct lua_State *L, const tp_ref_type *type);

#endif
