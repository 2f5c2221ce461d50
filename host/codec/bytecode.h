/* bytecode.h: reads what lua_dump writes (LuaJIT's lj_bcdump.h), enough to find the globals of a
 * function and to write down what it does in a way that is the same in every process. Needs no Lua
 * state.
 *
 * A dump that does not look as expected reads as broken; nothing beyond its end is read. */
#ifndef TP_BYTECODE_H
#define TP_BYTECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* In a dump, a string constant begins with this plus its length, as ULEB128 (one byte when it is
 * small): LuaJIT's BCDUMP_KGC_STR. */
enum { TP_BYTECODE_STRING = 5 };

/* A position in a dump. */
struct bytecode {
    const uint8_t *p, *end;
    bool is_broken;
};

/* One function of a dump: its instructions, and where its constants start. */
struct proto {
    struct bytecode constants;
    uint32_t nconstants, ncode;
    const uint8_t *code; /* 4 bytes each */
};

/* Opens a dump; false if it isn't of the version that this file reads. */
bool tp_bytecode_open(struct bytecode *b, const char *text, size_t len, bool *stripped);

/* The next function of a dump (nested ones come first); false at the end. */
bool tp_bytecode_next(struct bytecode *b, bool stripped, struct proto *pt);

/* Reads one constant; returns its text when it is a string. */
const uint8_t *tp_bytecode_constant(struct bytecode *b, size_t *len);

/* Opcodes of instructions that LuaJIT rewrites while a function runs, from ISNEXT to JMP and from
 * ITERN to ITERC: when a loop turns out not to be one over pairs. */
struct bytecode_patches {
    uint8_t isnext, jmp, itern, iterc;
};

/* A pair of a table constructor. */
struct bytecode_pair {
    const uint8_t *at;
    size_t len;
};

/* Writes what the function does: the same bytes for the same code in any process, whatever its
 * lines, its file and the names of its locals. A dump has all of those, and the entries of table
 * constructors in random order (LuaJIT seeds its hashes). `to` has room for len bytes, and
 * `sorting` for as many pairs as the dump can have, which is len / 2. Returns how many bytes it
 * wrote; 0 when the dump is not understood. */
size_t tp_bytecode_write_identity(const char *text, size_t len,
                                  const struct bytecode_patches *patches, uint8_t *to,
                                  struct bytecode_pair *sorting);

#endif
