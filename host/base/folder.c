/* folder.c: makes folders, and looks whose they are. */
#include "base/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

bool tp_file_is_ours(const struct stat *s, mode_t forbidden, const char *path, tp_error *err)
{
    if (s->st_uid != geteuid())
        return tp_error_set(err, TP_ESYS, "%s belongs to user %u, not to %u who runs this", path,
                            (unsigned)s->st_uid, (unsigned)geteuid()),
               false;
    if (s->st_mode & forbidden)
        return tp_error_set(err, TP_ESYS, "%s may be %s by others (its mode is %03o)", path,
                            s->st_mode & forbidden & 022 ? "written" : "read",
                            (unsigned)s->st_mode & 0777),
               false;
    return true;
}

int tp_folder_make(const char *path)
{
    char part[4096];
    size_t n = strlen(path);
    if (n >= sizeof part) {
        errno = ENAMETOOLONG;
        return -1;
    }
    for (size_t i = 1; i <= n; i++)
        if (path[i] == '/' || path[i] == 0) {
            memcpy(part, path, i);
            part[i] = 0;
            if (mkdir(part, 0700) && errno != EEXIST && errno != EISDIR)
                return -1;
        }
    return 0;
}

int tp_folder_open(int *fd, const char *path, bool is_made, tp_error *err)
{
    struct stat s;
    const char *what = is_made && tp_folder_make(path) ? "make" : NULL;
    *fd = what ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (*fd < 0 && errno == ENOENT && !is_made)
        return 0;
    if (*fd < 0) {
        int code = errno;
        if (!what && (code == ENOTDIR || code == ELOOP) && lstat(path, &s) == 0 &&
            S_ISLNK(s.st_mode))
            return tp_error_set(err, TP_ESYS, "%s is a symbolic link", path);
        return tp_error_set(err, TP_ESYS, "cannot %s %s: %s", what ? what : "open", path,
                            strerror(code));
    }
    if (fstat(*fd, &s))
        tp_error_set(err, TP_ESYS, "cannot look at %s: %s", path, strerror(errno));
    else if (tp_file_is_ours(&s, S_IWGRP | S_IWOTH, path, err))
        return 0;
    close(*fd);
    *fd = -1;
    return -1;
}
