/* bytecode.h: reads what lua_dump writes (LuaJIT's lj_bcdump.h), as far as it takes to find the globals of a function. Knows no Lua state.
 *
 * A dump that does not look as expected reads as broken; nothing beyond its end is read. */
#ifndef TP_BYTECODE_H
#define TP_BYTECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where a reader is in a dump. */
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

/* Opens a dump; false if it isn't of the version that we read. */
bool tp_bytecode_open(struct bytecode *b, const char *text, size_t len, bool *stripped);

/* The next function of a dump (nested ones come first); false at the end. */
bool tp_bytecode_next(struct bytecode *b, bool stripped, struct proto *pt);

/* Reads past one constant; gives its text when it is a string. */
const uint8_t *tp_bytecode_constant(struct bytecode *b, size_t *len);

#endif
