/* identity.c: hashes of what values are. */
#include "codec/identity.h"

#include "base/blake2b.h"
#include <string.h>

/* Bytes that are short enough are their own identity: hashing a number would take a third of the
 * time of looking it up. The last byte tells the two apart: it is the length, or 128 and more. */
void tp_identity_of_bytes(const void *bytes, size_t len, uint8_t to[TP_IDENTITY])
{
    if (len < TP_IDENTITY) {
        memset(to, 0, TP_IDENTITY);
        memcpy(to, bytes, len);
        to[TP_IDENTITY - 1] = (uint8_t)len;
        return;
    }
    tp_blake2b_hash(to, TP_IDENTITY, bytes, len);
    to[TP_IDENTITY - 1] |= 128;
}

int tp_identity_of_values(struct lua_State *L, int first, int n, const char *const *root,
                          tp_buf *message, uint8_t to[TP_IDENTITY], tp_error *err)
{
    tp_buf_clear(message);
    if (tp_encode(L, first, n, root, TP_ENCODE_IDENTITY, message, err))
        return -1;
    tp_identity_of_bytes(message->data, message->len, to);
    return 0;
}

int tp_identity_of_item(const tp_block *b, uint32_t k, tp_buf *message, uint8_t to[TP_IDENTITY])
{
    tp_buf_clear(message);
    if (tp_block_encode_item(b, k, message))
        return -1;
    tp_identity_of_bytes(message->data, message->len, to);
    return 0;
}
