/* blake2b_test.c: BLAKE2b gives the hashes that others give: the example of RFC 7693 (appendix A),
 * the first of the BLAKE2 authors' vectors with a key, and, for lengths around its blocks, what
 * Python's hashlib says. */
#include "base/blake2b.h"
#include "harness.h"

static const char *hash_in_parts(char *to, size_t size, size_t key_size, size_t n, size_t part)
{
    uint8_t bytes[1000], key[TP_HASH_MAX], out[TP_HASH_MAX];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i % 251);
    for (size_t i = 0; i < sizeof key; i++)
        key[i] = (uint8_t)i;
    tp_blake2b b;
    tp_blake2b_begin(&b, size, key, key_size);
    for (size_t at = 0; at < n; at += part)
        tp_blake2b_add(&b, bytes + at, n - at < part ? n - at : part);
    tp_blake2b_end(&b, out);
    for (size_t i = 0; i < size; i++)
        snprintf(to + 2 * i, 3, "%02x", out[i]);
    return to;
}

static void check_hash(const char *expected, size_t size, size_t key_size, size_t n)
{
    static const size_t parts[] = { 1, 64, 127, 128, 129, 1000 };
    char text[2 * TP_HASH_MAX + 1];
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        CHECK_STR(expected, hash_in_parts(text, size, key_size, n, parts[i]));
}

TEST(the_example_of_the_rfc)
{
    uint8_t out[64];
    char text[129];
    tp_blake2b b;
    tp_blake2b_begin(&b, 64, NULL, 0);
    tp_blake2b_add(&b, "abc", 3);
    tp_blake2b_end(&b, out);
    for (size_t i = 0; i < sizeof out; i++)
        snprintf(text + 2 * i, 3, "%02x", out[i]);
    CHECK_STR("ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d17d87c5392aab792dc252"
              "d5de4533cc9518d38aa8dbf1925ab92386edd4009923",
              text);
}

TEST(the_authors_first_vector_with_a_key)
{
    check_hash("10ebb67700b1868efb4417987acf4690ae9d972fb7a590c2f02871799aaa4786b5e996e8f0f4eb981fc"
               "214b005f42d2ff4233499391653df7aefcbc13fc51568",
               64, 64, 0);
}

TEST(with_a_key_around_blocks)
{
    check_hash("4e51e7a913fc80137da52880fecca175bf81e117d5c68126dc2774033517ea0d", 32, 32, 0);
    check_hash("41ff93a4eaeebd3b78a93438a6f62a92ab5959c859e682b72c7def406197ca4d", 32, 32, 1);
    check_hash("12879e69734944f25f9ed95cbfdbb3659a307e485ed8ec118ce7c60f107357f1", 32, 32, 127);
    check_hash("138893f1631ef3165629515d6ed800da3771b7926dced294205c7507351deebc", 32, 32, 128);
    check_hash("ca60f75cbb714330c046d8f28b4ed351a3ee81776bb02a96abb646fe573e3d5c", 32, 32, 129);
    check_hash("da3bcd809850732f09afb9c749da4fc019f47d0ea35a28282f482ef5ffd91378", 32, 32, 256);
    check_hash("bf9c0d3a2590251349ad634ad07f03958d0be63d5f9533daf62752de734b2c76", 32, 32, 1000);
}
