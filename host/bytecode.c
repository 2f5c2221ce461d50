/* bytecode.c: reads what lua_dump writes. */
#include "bytecode.h"

#include <string.h>

static uint32_t bc_number(struct bytecode *b)
{
    uint32_t n = 0;
    for (int shift = 0; b->p < b->end && shift < 35; shift += 7) {
        uint8_t byte = *b->p++;
        n |= (uint32_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return n;
    }
    b->is_broken = true;
    return 0;
}

static const uint8_t *bc_skip(struct bytecode *b, size_t n)
{
    const uint8_t *at = b->p;
    if (b->is_broken || (size_t)(b->end - b->p) < n) {
        b->is_broken = true;
        n = 0;
    }
    b->p += n;
    return at;
}

static void bc_table_item(struct bytecode *b)
{
    uint32_t type = bc_number(b);
    if (type >= 5) {
        bc_skip(b, type - 5);
    } else if (type >= 3) {
        bc_number(b);
        if (type == 4)
            bc_number(b);
    }
}

const uint8_t *tp_bytecode_constant(struct bytecode *b, size_t *len)
{
    enum { CHILD, TABLE, INT64, UINT64, COMPLEX, STRING };
    uint32_t type = bc_number(b);
    if (type >= STRING) {
        *len = type - STRING;
        return bc_skip(b, *len);
    }
    int numbers = type == COMPLEX ? 4 : type == INT64 || type == UINT64 ? 2 : 0;
    for (int i = 0; i < numbers; i++)
        bc_number(b);
    if (type == TABLE) {
        uint64_t items = bc_number(b);
        items += 2 * (uint64_t)bc_number(b);
        while (items-- && !b->is_broken)
            bc_table_item(b);
    }
    return NULL;
}

static const uint8_t FLAG_STRIPPED = 2;

bool tp_bytecode_open(struct bytecode *b, const char *text, size_t len, bool *stripped)
{
    *b = (struct bytecode){ (const uint8_t *)text, (const uint8_t *)text + len, false };
    const uint8_t *head = bc_skip(b, 4);
    if (b->is_broken || memcmp(head, "\033LJ\002", 4) != 0)
        return false;
    *stripped = bc_number(b) & FLAG_STRIPPED;
    if (!*stripped)
        bc_skip(b, bc_number(b));
    return !b->is_broken;
}

bool tp_bytecode_next(struct bytecode *b, bool stripped, struct proto *pt)
{
    uint32_t len = bc_number(b);
    if (len == 0 || b->is_broken)
        return false;
    struct bytecode in = { b->p, b->p, false };
    bc_skip(b, len);
    in.end = b->p;
    bc_skip(&in, 3);
    const uint8_t *nupvalues = bc_skip(&in, 1);
    pt->nconstants = bc_number(&in);
    bc_number(&in);
    pt->ncode = bc_number(&in);
    if (!stripped && bc_number(&in)) {
        bc_number(&in);
        bc_number(&in);
    }
    pt->code = bc_skip(&in, (size_t)pt->ncode * 4);
    if (!in.is_broken)
        bc_skip(&in, (size_t)*nupvalues * 2);
    pt->constants = in;
    b->is_broken |= in.is_broken;
    return !b->is_broken;
}
