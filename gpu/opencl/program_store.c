/* program_store.c: reads, writes and removes compiled programs on disk.
 *
 * A file is a header, the name under which the program is stored, the program, and a MAC (BLAKE2b
 * with the user's key) over all of these. Its file name is a hash of the name. Files are written
 * under another name and renamed, so that none is ever seen half written; two processes that write
 * the same file write the same bytes. Reading a file sets its modification time, so that the files
 * used longest ago can be removed first.
 *
 * A folder is opened once per call, and everything in it is reached through its descriptor: so what
 * was checked is what is used. */
#include "opencl/program_store.h"

#include "base/blake2b.h"
#include "base/folder.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

enum {
    KEY_SIZE = 32,
    MAC_SIZE = 32,
    FILE_NAME_SIZE = 48,
    STALE_S = 600 /* older temporary files are leftovers: writing one never takes so long */
};

static const uint64_t FILE_MAX = (uint64_t)1 << 30;

typedef struct header {
    char magic[16];
    uint64_t name_size, program_size;
} header;

static const char magic[16] = "tidepool cl 2\n", suffix[] = ".clbin", temporary[] = ".new-",
                  key_name[] = "cache-key";

/* ---- folders and files that are ours ---- */

/* Opens the folder; TP_PROGRAM_STORE_NONE when it is missing and should not be made. */
static tp_program_store_status open_folder(int *fd, const char *path, bool is_made, tp_error *why)
{
    if (tp_folder_open(fd, path, is_made, why))
        return TP_PROGRAM_STORE_BAD_PLACE;
    return *fd < 0 ? TP_PROGRAM_STORE_NONE : TP_PROGRAM_STORE_FINE;
}

/* Opens a regular file of ours in that folder; does not hang on a FIFO or follow a link. -1 with
 * errno 0 when `why` has been set. */
static int open_file(int folder, const char *name, mode_t forbidden, const char *shown,
                     struct stat *s, tp_error *why)
{
    int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0) {
        int code = errno;
        if (code == ENOENT)
            return -1;
        if (code == ELOOP)
            tp_error_set(why, TP_ESYS, "%s is a symbolic link", shown);
        else
            tp_error_set(why, TP_ESYS, "cannot open %s: %s", shown, strerror(code));
        errno = 0;
        return -1;
    }
    if (fstat(fd, s))
        tp_error_set(why, TP_ESYS, "cannot look at %s: %s", shown, strerror(errno));
    else if (!S_ISREG(s->st_mode))
        tp_error_set(why, TP_ESYS, "%s is no regular file", shown);
    else if (tp_file_is_ours(s, forbidden, shown, why))
        return fd;
    close(fd);
    errno = 0;
    return -1;
}

/* Reads exactly n bytes; false when there are fewer. */
static bool read_all(int fd, void *to, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t got = read(fd, (char *)to + at, n - at);
        if (got == 0 || (got < 0 && errno != EINTR))
            return false;
        at += got > 0 ? (size_t)got : 0;
    }
    return true;
}

static bool write_all(int fd, const void *from, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t done = write(fd, (const char *)from + at, n - at);
        if (done < 0 && errno != EINTR)
            return false;
        at += done > 0 ? (size_t)done : 0;
    }
    return true;
}

static void show_hex(char *to, const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        snprintf(to + 2 * i, 3, "%02x", bytes[i]);
}

/* A new file with a random name in the folder, for this user only. */
static int make_temporary(int folder, char name[FILE_NAME_SIZE])
{
    uint8_t random[12];
    if (uv_random(NULL, NULL, random, sizeof random, 0, NULL))
        return -1;
    memcpy(name, temporary, sizeof temporary - 1);
    show_hex(name + sizeof temporary - 1, random, sizeof random);
    return openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
}

/* ---- the key ---- */

static tp_program_store_status read_key(int folder, const char *path, uint8_t *key, tp_error *why)
{
    struct stat s;
    char shown[4200];
    snprintf(shown, sizeof shown, "%s/%s", path, key_name);
    int fd = open_file(folder, key_name, 077, shown, &s, why);
    if (fd < 0)
        return errno == ENOENT ? TP_PROGRAM_STORE_NONE : TP_PROGRAM_STORE_BAD_PLACE;
    bool is_key = s.st_size == KEY_SIZE && read_all(fd, key, KEY_SIZE);
    close(fd);
    if (is_key)
        return TP_PROGRAM_STORE_FINE;
    tp_error_set(why, TP_ESYS, "%s is no key (remove it, and a new one is made)", shown);
    return TP_PROGRAM_STORE_BAD_PLACE;
}

/* When two processes make a key at the same time the first one wins, since link() does not replace
 * a file. */
static tp_program_store_status make_key(int folder, const char *path, uint8_t *key, tp_error *why)
{
    char name[FILE_NAME_SIZE];
    uint8_t made[KEY_SIZE];
    int fd = uv_random(NULL, NULL, made, sizeof made, 0, NULL) ? -1 : make_temporary(folder, name);
    bool is_made = fd >= 0 && write_all(fd, made, sizeof made) && fsync(fd) == 0;
    is_made = is_made && (linkat(folder, name, folder, key_name, 0) == 0 || errno == EEXIST);
    int code = errno;
    if (fd >= 0) {
        close(fd);
        unlinkat(folder, name, 0);
    }
    if (is_made)
        return read_key(folder, path, key, why);
    tp_error_set(why, TP_ESYS, "cannot make %s/%s: %s", path, key_name, strerror(code));
    return TP_PROGRAM_STORE_BAD_PLACE;
}

static tp_program_store_status open_key(const char *path, bool is_made, uint8_t *key, tp_error *why)
{
    int folder;
    tp_program_store_status status = open_folder(&folder, path, is_made, why);
    if (status != TP_PROGRAM_STORE_FINE)
        return status;
    status = read_key(folder, path, key, why);
    if (status == TP_PROGRAM_STORE_NONE && is_made)
        status = make_key(folder, path, key, why);
    close(folder);
    return status;
}

/* ---- file names ---- */

static void name_file(char to[FILE_NAME_SIZE], const char *name)
{
    uint8_t hash[16];
    tp_blake2b_hash(hash, sizeof hash, name, strlen(name));
    show_hex(to, hash, sizeof hash);
    memcpy(to + 2 * sizeof hash, suffix, sizeof suffix);
}

static void authenticate(uint8_t *mac, const uint8_t *key, const header *h, const char *name,
                         const void *program)
{
    tp_blake2b b;
    tp_blake2b_begin(&b, MAC_SIZE, key, KEY_SIZE);
    tp_blake2b_add(&b, h, sizeof *h);
    tp_blake2b_add(&b, name, (size_t)h->name_size);
    tp_blake2b_add(&b, program, (size_t)h->program_size);
    tp_blake2b_end(&b, mac);
}

/* ---- reading ---- */

/* The bytes of one of our files, to be freed. */
static unsigned char *read_file(int folder, const char *file, const char *shown, size_t *size,
                                tp_error *why)
{
    struct stat s;
    int fd = open_file(folder, file, S_IWGRP | S_IWOTH, shown, &s, why);
    if (fd < 0)
        return NULL;
    unsigned char *data = NULL;
    if (s.st_size <= 0 || (uint64_t)s.st_size > FILE_MAX) {
        tp_error_set(why, TP_ESYS, "%s is damaged", shown);
    } else if (!(data = malloc((size_t)s.st_size))) {
        tp_error_oom(why, "a kept program");
    } else if (!read_all(fd, data, *size = (size_t)s.st_size)) {
        tp_error_set(why, TP_ESYS, "cannot read %s", shown);
        free(data);
        data = NULL;
    } else {
        /* marks it as used now; when that fails, the file is only removed earlier */
        futimens(fd, NULL);
    }
    close(fd);
    return data;
}

/* Checks a file's bytes, and moves the program in them to their beginning. */
static bool unwrap(unsigned char *data, size_t size, const uint8_t *key, const char *name,
                   size_t *program_size)
{
    header h;
    uint8_t mac[MAC_SIZE];
    size_t name_size = strlen(name), around = sizeof h + name_size + MAC_SIZE;
    if (size <= around)
        return false;
    memcpy(&h, data, sizeof h);
    if (memcmp(h.magic, magic, sizeof magic) != 0 || h.name_size != name_size ||
        h.program_size != size - around || memcmp(data + sizeof h, name, name_size) != 0)
        return false;
    authenticate(mac, key, &h, name, data + sizeof h + name_size);
    uint8_t differs = 0; /* in constant time, so that the time does not tell where they differ */
    for (size_t i = 0; i < MAC_SIZE; i++)
        differs |= mac[i] ^ data[size - MAC_SIZE + i];
    *program_size = (size_t)h.program_size;
    memmove(data, data + sizeof h + name_size, *program_size);
    return !differs;
}

tp_program_store_status tp_program_store_read(const tp_program_store *place, const char *name,
                                              unsigned char **out, size_t *size, tp_error *why)
{
    uint8_t key[KEY_SIZE];
    char file[FILE_NAME_SIZE], shown[4200];
    int folder;
    *out = NULL;
    tp_program_store_status status = open_folder(&folder, place->folder, false, why);
    if (status != TP_PROGRAM_STORE_FINE)
        return status;
    status = open_key(place->secrets, false, key, why);
    if (status == TP_PROGRAM_STORE_FINE) {
        name_file(file, name);
        snprintf(shown, sizeof shown, "%s/%s", place->folder, file);
        size_t file_size = 0;
        unsigned char *data = read_file(folder, file, shown, &file_size, why);
        if (!data) {
            status = why->code == TP_OK ? TP_PROGRAM_STORE_NONE : TP_PROGRAM_STORE_BAD_FILE;
        } else if (!unwrap(data, file_size, key, name, size)) {
            tp_error_set(why, TP_ESYS,
                         "%s was not written here with this user's key, or is damaged", shown);
            status = TP_PROGRAM_STORE_BAD_FILE;
            free(data);
        } else {
            *out = data;
        }
    }
    close(folder);
    return status;
}

bool tp_program_store_has(const tp_program_store *place, const char *name)
{
    char file[FILE_NAME_SIZE];
    tp_error ignored = { 0 };
    int folder;
    if (open_folder(&folder, place->folder, false, &ignored) != TP_PROGRAM_STORE_FINE)
        return false;
    name_file(file, name);
    bool is_there = faccessat(folder, file, R_OK, 0) == 0;
    close(folder);
    return is_there;
}

/* ---- writing ---- */

typedef struct entry {
    char name[FILE_NAME_SIZE];
    struct timespec used;
    uint64_t size;
} entry;

static int compare_entries(const void *left, const void *right)
{
    const struct timespec *a = &((const entry *)left)->used, *b = &((const entry *)right)->used;
    if (a->tv_sec != b->tv_sec)
        return a->tv_sec < b->tv_sec ? -1 : 1;
    return a->tv_nsec < b->tv_nsec ? -1 : a->tv_nsec > b->tv_nsec;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Removes the files that were used longest ago until the rest is within the limit, `newest` last of
 * all; and temporary files that a killed process has left. */
static void make_room(int folder, uint64_t limit, const char *newest)
{
    entry *list = NULL;
    size_t n = 0, capacity = 0;
    uint64_t total = 0;
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (struct dirent *d; (d = readdir(dir));) {
        struct stat s;
        bool is_temporary = strncmp(d->d_name, temporary, sizeof temporary - 1) == 0;
        if ((!is_temporary && !ends_with(d->d_name, suffix)) ||
            strlen(d->d_name) >= FILE_NAME_SIZE ||
            fstatat(folder, d->d_name, &s, AT_SYMLINK_NOFOLLOW) || !S_ISREG(s.st_mode))
            continue;
        if (is_temporary && s.st_mtime + STALE_S < time(NULL))
            unlinkat(folder, d->d_name, 0);
        if (is_temporary || strcmp(d->d_name, newest) == 0) {
            total += is_temporary ? 0 : (uint64_t)s.st_size;
            continue;
        }
        if (n == capacity) {
            entry *more = realloc(list, (capacity = capacity ? 2 * capacity : 64) * sizeof *list);
            if (!more)
                break;
            list = more;
        }
        list[n] = (entry){ .used = s.st_mtim, .size = (uint64_t)s.st_size };
        memcpy(list[n].name, d->d_name, strlen(d->d_name) + 1);
        total += list[n++].size;
    }
    closedir(dir);
    if (total > limit)
        qsort(list, n, sizeof *list, compare_entries);
    for (size_t i = 0; i < n && total > limit; i++) {
        unlinkat(folder, list[i].name, 0);
        total -= list[i].size;
    }
    if (total > limit)
        unlinkat(folder, newest, 0);
    free(list);
}

tp_program_store_status tp_program_store_write(const tp_program_store *place, const char *name,
                                               const void *program, size_t size, tp_error *why)
{
    header h = { .name_size = strlen(name), .program_size = size };
    uint8_t key[KEY_SIZE], mac[MAC_SIZE];
    char file[FILE_NAME_SIZE], fresh[FILE_NAME_SIZE];
    int folder;
    if (size == 0 || sizeof h + h.name_size + size + MAC_SIZE > FILE_MAX) {
        tp_error_set(why, TP_ESYS, "a compiled program of %zu bytes is not kept", size);
        return TP_PROGRAM_STORE_BAD_FILE;
    }
    tp_program_store_status status = open_folder(&folder, place->folder, true, why);
    if (status != TP_PROGRAM_STORE_FINE)
        return status;
    status = open_key(place->secrets, true, key, why);
    if (status == TP_PROGRAM_STORE_FINE) {
        memcpy(h.magic, magic, sizeof magic);
        authenticate(mac, key, &h, name, program);
        name_file(file, name);
        int fd = make_temporary(folder, fresh);
        bool is_written = fd >= 0 && write_all(fd, &h, sizeof h) &&
                          write_all(fd, name, (size_t)h.name_size) &&
                          write_all(fd, program, size) && write_all(fd, mac, sizeof mac);
        int code = errno;
        if (fd >= 0 && close(fd) && is_written)
            is_written = false, code = errno;
        if (is_written && renameat(folder, fresh, folder, file))
            is_written = false, code = errno;
        if (!is_written && fd >= 0)
            unlinkat(folder, fresh, 0);
        if (is_written) {
            make_room(folder, place->limit, file);
        } else {
            tp_error_set(why, TP_ESYS, "cannot write in %s: %s", place->folder, strerror(code));
            status = TP_PROGRAM_STORE_BAD_PLACE;
        }
    }
    close(folder);
    return status;
}

/* ---- the build ---- */

typedef struct search {
    uintptr_t address;
    char *text;
    size_t size;
} search;

/* Finds the note NT_GNU_BUILD_ID of the loaded object that contains the address. */
static int find_build_id(struct dl_phdr_info *info, size_t info_size, void *user)
{
    const search *s = user;
    bool is_here = false;
    (void)info_size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        is_here |= p->p_type == PT_LOAD && s->address - info->dlpi_addr - p->p_vaddr < p->p_memsz;
    }
    for (int i = 0; is_here && i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        const char *at = (const char *)(info->dlpi_addr + p->p_vaddr), *end = at + p->p_memsz;
        while (p->p_type == PT_NOTE && (size_t)(end - at) > sizeof(ElfW(Nhdr))) {
            ElfW(Nhdr) note;
            memcpy(&note, at, sizeof note);
            const char *name = at + sizeof note, *id = name + (note.n_namesz + 3) / 4 * 4;
            if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 &&
                memcmp(name, "GNU", 4) == 0 && 2 * note.n_descsz < s->size)
                return show_hex(s->text, (const uint8_t *)id, note.n_descsz), 1;
            at = id + (note.n_descsz + 3) / 4 * 4;
        }
    }
    return is_here;
}

void tp_program_store_describe_build(char *text, size_t size)
{
    search s = { (uintptr_t)magic, text, size };
    text[0] = 0;
    dl_iterate_phdr(find_build_id, &s);
}
