/* bytecode.c: reads what lua_dump writes. */
#include "codec/bytecode.h"

#include <stdlib.h>
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

enum { CHILD, TABLE, INT64, UINT64, COMPLEX, STRING };

const uint8_t *tp_bytecode_constant(struct bytecode *b, size_t *len)
{
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

/* ---- identity ---- */

static int compare_pairs(const void *a, const void *b)
{
    const struct bytecode_pair *x = a, *y = b;
    int order = memcmp(x->at, y->at, x->len < y->len ? x->len : y->len);
    return order ? order : (x->len > y->len) - (x->len < y->len);
}

static uint8_t *copy(uint8_t *to, const uint8_t *from, size_t n)
{
    memcpy(to, from, n);
    return to + n;
}

/* Writes a table constructor whose tag was read: its pairs, sorted by their bytes. */
static uint8_t *write_table(struct bytecode *in, uint8_t *to, struct bytecode_pair *sorting)
{
    const uint8_t *begin = in->p;
    uint32_t items = bc_number(in), pairs = bc_number(in);
    if (in->is_broken || items > (size_t)(in->end - in->p) ||
        pairs > (size_t)(in->end - in->p) / 2) {
        in->is_broken = true;
        return to;
    }
    while (items--)
        bc_table_item(in);
    to = copy(to, begin, (size_t)(in->p - begin));
    for (uint32_t i = 0; i < pairs; i++) {
        sorting[i].at = in->p;
        bc_table_item(in);
        bc_table_item(in);
        sorting[i].len = (size_t)(in->p - sorting[i].at);
    }
    if (in->is_broken)
        return to;
    qsort(sorting, pairs, sizeof *sorting, compare_pairs);
    for (uint32_t i = 0; i < pairs; i++)
        to = copy(to, sorting[i].at, sorting[i].len);
    return to;
}

static uint8_t *write_constant(struct bytecode *in, uint8_t *to, struct bytecode_pair *sorting)
{
    struct bytecode tag = *in;
    if (bc_number(&tag) == TABLE) {
        to = copy(to, in->p, (size_t)(tag.p - in->p));
        *in = tag;
        return write_table(in, to, sorting);
    }
    const uint8_t *begin = in->p;
    size_t len;
    tp_bytecode_constant(in, &len);
    return copy(to, begin, (size_t)(in->p - begin));
}

static uint8_t *write_code(const uint8_t *code, uint32_t n, const struct bytecode_patches *patches,
                           uint8_t *to)
{
    uint8_t *at = copy(to, code, (size_t)n * 4);
    const uint16_t one = 1;
    size_t op = *(const uint8_t *)&one ? 0 : 3;
    for (uint8_t *p = to + op; p < at; p += 4)
        *p = *p == patches->isnext ? patches->jmp : *p == patches->itern ? patches->iterc : *p;
    return at;
}

/* Writes one function whose length was read. Where the outermost function gets its upvalues from is
 * left out, since that depends on the code around it. */
static uint8_t *write_proto(struct bytecode *in, bool stripped, bool is_outermost,
                            const struct bytecode_patches *patches, uint8_t *to,
                            struct bytecode_pair *sorting)
{
    const uint8_t *head = bc_skip(in, 4), *sizes = in->p;
    uint32_t nconstants = bc_number(in), nnumbers = bc_number(in), ncode = bc_number(in);
    const uint8_t *end_of_sizes = in->p;
    if (!stripped && bc_number(in)) {
        bc_number(in);
        bc_number(in);
    }
    const uint8_t *code = bc_skip(in, (size_t)ncode * 4);
    if (in->is_broken)
        return to;
    const uint8_t *upvalues = bc_skip(in, (size_t)head[3] * 2);
    to = copy(to, head, 4);
    to = copy(to, sizes, (size_t)(end_of_sizes - sizes));
    to = write_code(code, ncode, patches, to);
    if (in->is_broken)
        return to;
    if (!is_outermost)
        to = copy(to, upvalues, (size_t)head[3] * 2);
    for (uint32_t i = 0; i < nconstants && !in->is_broken; i++)
        to = write_constant(in, to, sorting);
    const uint8_t *numbers = in->p;
    for (uint32_t i = 0; i < nnumbers && !in->is_broken; i++) {
        /* LuaJIT's uleb128_33: the lowest bit says whether the high half of a double follows */
        bool is_double = in->p < in->end && *in->p & 1;
        bc_number(in);
        if (is_double)
            bc_number(in);
    }
    /* debug information follows, which does not count */
    return copy(to, numbers, (size_t)(in->p - numbers));
}

size_t tp_bytecode_write_identity(const char *text, size_t len,
                                  const struct bytecode_patches *patches, uint8_t *to,
                                  struct bytecode_pair *sorting)
{
    struct bytecode b;
    bool stripped;
    uint8_t *begin = to;
    if (!tp_bytecode_open(&b, text, len, &stripped))
        return 0;
    for (;;) {
        uint32_t size = bc_number(&b);
        if (size == 0 || b.is_broken)
            break;
        struct bytecode in = { b.p, b.p, false };
        bc_skip(&b, size);
        in.end = b.p;
        bool is_outermost = b.p < b.end && *b.p == 0;
        to = write_proto(&in, stripped, is_outermost, patches, to, sorting);
        b.is_broken |= in.is_broken;
    }
    return b.is_broken ? 0 : (size_t)(to - begin);
}
