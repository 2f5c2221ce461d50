/* file.c: writes a trace's bytes: by write(2), or through zlib, which is not linked but loaded when
 * a name asks for it. */
#include "trace/file.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* SYNC_FLUSH is zlib.h's Z_SYNC_FLUSH: everything written so far can then be decompressed. */
enum { SYNC_FLUSH = 2, CHUNK = 1 << 20 };

struct tp_trace_file {
    const char *what; /* "trace" */
    char *path;
    int fd;      /* -1: it is zlib's */
    off_t len;   /* bytes that were written completely */
    bool failed; /* nothing more is written */
    void *library, *gz; /* NULL: it is not compressed */
    void *(*gzdopen)(int fd, const char *mode);
    int (*gzwrite)(void *gz, const void *bytes, unsigned len);
    int (*gzflush)(void *gz, int flush);
    int (*gzclose)(void *gz);
};

static int fail(tp_trace_file *f, tp_error *err)
{
    const char *why = errno ? strerror(errno) : "zlib has failed";
    f->failed = true;
    return tp_error_set(err, TP_ESYS, "cannot write the %s %s: %s", f->what, f->path, why);
}

static int load(tp_trace_file *f, tp_error *err)
{
    f->library = dlopen("libz.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!f->library)
        return tp_error_set(err, TP_ESYS,
                            "a file whose name ends in .gz needs zlib (libz.so.1), which is not "
                            "installed: on Debian, apt install zlib1g");
    *(void **)&f->gzdopen = dlsym(f->library, "gzdopen");
    *(void **)&f->gzwrite = dlsym(f->library, "gzwrite");
    *(void **)&f->gzflush = dlsym(f->library, "gzflush");
    *(void **)&f->gzclose = dlsym(f->library, "gzclose");
    return f->gzdopen && f->gzwrite && f->gzflush && f->gzclose
               ? 0
               : tp_error_set(err, TP_ESYS, "libz.so.1 has not what compressing a trace needs");
}

static bool ends_in_gz(const char *path)
{
    size_t len = strlen(path);
    return len > 3 && strcmp(path + len - 3, ".gz") == 0;
}

int tp_trace_file_open(tp_trace_file **out, const char *what, const char *path, tp_error *err)
{
    int rc = -1;
    tp_trace_file *f = calloc(1, sizeof *f);
    if (!f)
        return tp_error_oom(err, "trace");
    f->fd = -1;
    f->what = what;
    f->path = strdup(path);
    if (!f->path) {
        tp_error_oom(err, "trace");
        goto out;
    }
    if (ends_in_gz(path) && load(f, err))
        goto out;
    f->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (f->fd < 0) {
        fail(f, err);
        goto out;
    }
    if (f->library) {
        errno = 0;
        f->gz = f->gzdopen(f->fd, "wb3"); /* level 3: fast, since it runs beside the script */
        if (!f->gz) {
            tp_error_oom(err, "trace");
            goto out;
        }
        f->fd = -1;
    }
    *out = f;
    f = NULL;
    rc = 0;
out:
    if (f)
        f->failed = true;
    tp_trace_file_close(f, NULL);
    return rc;
}

static int write_plain(tp_trace_file *f, const char *bytes, size_t len, tp_error *err)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = write(f->fd, bytes + at, len - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            fail(f, err);
            if (ftruncate(f->fd, f->len)) /* cuts off the half entry that was written */
                return -1;
            return -1;
        }
        at += (size_t)n;
    }
    f->len += (off_t)len;
    return 0;
}

int tp_trace_file_write(tp_trace_file *f, const void *bytes, size_t len, tp_error *err)
{
    if (f->failed || len == 0)
        return 0;
    if (!f->gz)
        return write_plain(f, bytes, len, err);
    errno = 0;
    for (size_t at = 0; at < len; at += CHUNK) {
        unsigned n = len - at < CHUNK ? (unsigned)(len - at) : CHUNK;
        if (f->gzwrite(f->gz, (const char *)bytes + at, n) <= 0)
            return fail(f, err);
    }
    return 0;
}

int tp_trace_file_flush(tp_trace_file *f, tp_error *err)
{
    errno = 0;
    return f->gz && !f->failed && f->gzflush(f->gz, SYNC_FLUSH) ? fail(f, err) : 0;
}

int tp_trace_file_close(tp_trace_file *f, tp_error *err)
{
    int rc = 0;
    if (!f)
        return 0;
    errno = 0;
    if (f->gz && f->gzclose(f->gz) && !f->failed)
        rc = fail(f, err);
    if (f->fd >= 0 && close(f->fd) && !f->failed)
        rc = fail(f, err);
    if (f->library)
        dlclose(f->library);
    free(f->path);
    free(f);
    return rc;
}
