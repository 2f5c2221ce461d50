/* program_store_test.c: of a file with a kept program every byte and every length counts. */
#include "harness.h"
#include "opencl/program_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

static char folder[] = "/tmp/tidepool-kept-XXXXXX";

static void open_place(tp_program_store *place, char *path, size_t size)
{
    static char secrets[64];
    CHECK(mkdtemp(folder));
    snprintf(secrets, sizeof secrets, "%s/secrets", folder);
    *place = (tp_program_store){ folder, secrets, 1 << 20 };
    tp_error why = { 0 };
    unsigned char *program;
    size_t n;
    CHECK_INT(TP_PROGRAM_STORE_NONE,
              tp_program_store_read(place, "what it depends on", &program, &n, &why));
    CHECK_INT(TP_PROGRAM_STORE_FINE,
              tp_program_store_write(place, "what it depends on", "the program", 11, &why));
    DIR *dir = opendir(folder);
    CHECK(dir);
    path[0] = 0;
    for (struct dirent *d; (d = readdir(dir));)
        if (strstr(d->d_name, ".clbin"))
            snprintf(path, size, "%s/%s", folder, d->d_name);
    closedir(dir);
    CHECK(path[0]);
}

static void close_place(void)
{
    char command[100];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    CHECK_INT(0, system(command));
}

static void put(const char *path, const char *bytes, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK_INT(n, write(fd, bytes, n));
    close(fd);
}

static tp_program_store_status get(const tp_program_store *place, const char *name)
{
    unsigned char *program;
    size_t n = 0;
    tp_error why = { 0 };
    tp_program_store_status status = tp_program_store_read(place, name, &program, &n, &why);
    CHECK((status == TP_PROGRAM_STORE_FINE) == (program != NULL));
    CHECK((status == TP_PROGRAM_STORE_BAD_FILE) == (why.code != TP_OK));
    if (program)
        CHECK(n == 11 && memcmp(program, "the program", 11) == 0);
    free(program);
    return status;
}

TEST(a_file_is_taken_as_it_was_written_or_not_at_all)
{
    char path[300], good[400], bad[400];
    tp_program_store place;
    open_place(&place, path, sizeof path);
    int fd = open(path, O_RDONLY);
    ssize_t n = read(fd, good, sizeof good);
    close(fd);
    CHECK(n > 11 && n < (ssize_t)sizeof good);
    CHECK_INT(TP_PROGRAM_STORE_FINE, get(&place, "what it depends on"));
    CHECK_INT(TP_PROGRAM_STORE_NONE, get(&place, "what it depends on "));
    CHECK_INT(TP_PROGRAM_STORE_NONE, get(&place, ""));
    for (ssize_t i = 0; i < 8 * n; i++) {
        memcpy(bad, good, (size_t)n);
        bad[i / 8] ^= (char)(1 << i % 8);
        put(path, bad, (size_t)n);
        CHECK_INT(TP_PROGRAM_STORE_BAD_FILE, get(&place, "what it depends on"));
    }
    for (ssize_t i = 0; i < n; i++) {
        put(path, good, (size_t)i);
        CHECK_INT(TP_PROGRAM_STORE_BAD_FILE, get(&place, "what it depends on"));
    }
    memcpy(bad, good, (size_t)n);
    bad[n] = 0;
    put(path, bad, (size_t)n + 1);
    CHECK_INT(TP_PROGRAM_STORE_BAD_FILE, get(&place, "what it depends on"));
    put(path, good, (size_t)n);
    CHECK_INT(TP_PROGRAM_STORE_FINE, get(&place, "what it depends on"));
    close_place();
}

TEST(a_build_has_a_name)
{
    char text[80];
    tp_program_store_describe_build(text, sizeof text);
    CHECK(strspn(text, "0123456789abcdef") == strlen(text));
}
