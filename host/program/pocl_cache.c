/* pocl_cache.c: finding a folder that PoCL can write. */
#include "program/pocl_cache.h"

#include "base/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_SIZE = 4096, PROBE_BYTES = 256 << 10 /* as much as some kernels take */ };

/* What tp_caches_prepare has changed; all empty when nothing. With `why_not` that folder cannot be
 * written, either, and nothing was changed. */
static struct {
    char from[PATH_SIZE], to[PATH_SIZE], why[100], why_not[100];
} moved;

/* Writes "base/rest" to path; NULL when base is no absolute path, or the result is too long. */
static const char *join(char *path, size_t size, const char *base, const char *rest)
{
    int n = base && base[0] == '/' ? snprintf(path, size, "%s/%s", base, rest) : -1;
    return n > 0 && (size_t)n < size ? path : NULL;
}

const char *tp_caches_own(char *path, size_t size)
{
    const char *found = join(path, size, getenv("XDG_CACHE_HOME"), "tidepool");
    return found ? found : join(path, size, getenv("HOME"), ".cache/tidepool");
}

const char *tp_caches_state(char *path, size_t size)
{
    const char *found = join(path, size, getenv("XDG_STATE_HOME"), "tidepool");
    return found ? found : join(path, size, getenv("HOME"), ".local/state/tidepool");
}

/* Tries to write PROBE_BYTES into the folder. -1 with errno set when that fails. */
static int probe(const char *folder)
{
    static const char zeros[PROBE_BYTES];
    char path[PATH_SIZE];
    if (tp_folder_make(folder) || !join(path, sizeof path, folder, "tidepool-XXXXXX"))
        return -1;
    int fd = mkstemp(path);
    if (fd < 0)
        return -1;
    unlink(path);
    ssize_t n = write(fd, zeros, sizeof zeros);
    int why = n < 0 ? errno : ENOSPC;
    close(fd);
    errno = why;
    return n == sizeof zeros ? 0 : -1;
}

/* Opens a temporary folder that belongs to us and that nobody else may write. */
static int open_temporary(char *path, size_t size)
{
    const char *base = getenv("TMPDIR");
    char name[40];
    struct stat s;
    snprintf(name, sizeof name, "tidepool-pocl-%u", (unsigned)geteuid());
    if (!join(path, size, base, name) && !join(path, size, "/tmp", name))
        return -1;
    if (mkdir(path, 0700) && errno != EEXIST)
        return -1;
    if (lstat(path, &s))
        return -1;
    if (!S_ISDIR(s.st_mode) || s.st_uid != geteuid() || s.st_mode & (S_IWGRP | S_IWOTH)) {
        errno = EPERM;
        return -1;
    }
    return probe(path);
}

void tp_caches_prepare(void)
{
    char path[PATH_SIZE];
    const char *given = getenv("POCL_CACHE_DIR"), *cache = getenv("XDG_CACHE_HOME"),
               *home = getenv("HOME"), *wanted = given;
    if (given && !given[0]) { /* PoCL ends the process when this variable is empty */
        unsetenv("POCL_CACHE_DIR");
        wanted = NULL;
    }
    if (!wanted && cache && cache[0])
        wanted = join(path, sizeof path, cache, "pocl/kcache");
    else if (!wanted && home)
        wanted = join(path, sizeof path, home, ".cache/pocl/kcache");
    if (!wanted || strlen(wanted) >= sizeof moved.from || probe(wanted) == 0)
        return;
    snprintf(moved.why, sizeof moved.why, "%s", strerror(errno));
    snprintf(moved.from, sizeof moved.from, "%s", wanted);
    if (open_temporary(moved.to, sizeof moved.to) == 0)
        setenv("POCL_CACHE_DIR", moved.to, 1);
    else
        snprintf(moved.why_not, sizeof moved.why_not, "%s", strerror(errno));
}

void tp_caches_tell(const tp_cl *cl)
{
    for (unsigned i = 0; moved.to[0] && i < cl->n; i++)
        if (strcmp(cl->devices[i].platform, "Portable Computing Language") == 0) {
            if (moved.why_not[0])
                fprintf(stderr, "tidepool: PoCL can write neither %s (%s) nor %s (%s), and may "
                        "fail to compile: make room there, or name another folder in "
                        "POCL_CACHE_DIR\n", moved.from, moved.why, moved.to, moved.why_not);
            else
                fprintf(stderr,
                        "tidepool: PoCL cannot keep its kernels in %s (%s); it does in %s\n",
                        moved.from, moved.why, moved.to);
            return;
        }
}
