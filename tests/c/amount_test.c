/* amount_test.c: how amounts of bytes are written. */
#include "harness.h"
#include "base/amount.h"

static bool is_shown(uint64_t bytes, const char *shown)
{
    char text[TP_AMOUNT_TEXT];
    return strcmp(tp_amount_of_bytes(text, bytes), shown) == 0;
}

TEST(bytes_have_the_unit_that_leaves_few_digits)
{
    CHECK(is_shown(0, "0 bytes"));
    CHECK(is_shown(1, "1 byte"));
    CHECK(is_shown(1023, "1023 bytes"));
    CHECK(is_shown(1024, "1 KiB"));
    CHECK(is_shown(6348, "6.2 KiB"));
    CHECK(is_shown(100 << 10, "100 KiB"));
    CHECK(is_shown(800000, "781 KiB"));
    CHECK(is_shown(3 << 20, "3 MiB"));
    CHECK(is_shown(12000000, "11.4 MiB"));
    CHECK(is_shown(256 << 20, "256 MiB"));
    CHECK(is_shown(4ull << 30, "4 GiB"));
    CHECK(is_shown(5ull << 40, "5 TiB"));
    CHECK(is_shown(UINT64_MAX, "16777216 TiB"));
}

TEST(bytes_go_to_the_next_unit_before_they_show_1024_of_one)
{
    CHECK(is_shown((1 << 20) - 1, "1 MiB"));
    CHECK(is_shown(1023 << 10, "1023 KiB"));
    CHECK(is_shown((1ull << 30) - 1, "1 GiB"));
}
