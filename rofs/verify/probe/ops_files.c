// SPDX-License-Identifier: MIT
/* Operations that only look: read, list, lstat, files, statvfs, exists. */
#include "probe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define READ_DEFAULT (1u << 20)
#define READ_LIMIT (16u << 20)
#define LIST_LIMIT 65536

int read_up_to(int fd, char *data, size_t wanted, size_t *have)
{
    *have = 0;
    while (*have < wanted) {
        ssize_t got = read(fd, data + *have, wanted - *have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return errno;
        if (got == 0)
            break;
        *have += (size_t)got;
    }
    return 0;
}

static void put_content(int fd, size_t limit, struct json *j)
{
    size_t have;
    char *data = malloc(limit + 1);
    if (!data)
        abort();
    int err = read_up_to(fd, data, limit + 1, &have);
    bool truncated = have > limit;
    json_put_errno(j, "errno", err);
    json_key(j, "data");
    json_base64(j, data, truncated ? limit : have);
    json_put_bool(j, "truncated", truncated);
    free(data);
}

static void put_read(const char *path, size_t limit, struct json *j)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    int err = fd < 0 || fstat(fd, &st) < 0 ? errno : 0;
    if (!err && !S_ISREG(st.st_mode))
        err = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
    if (err)
        json_put_errno(j, "errno", err);
    else
        put_content(fd, limit, j);
    if (fd >= 0)
        close(fd);
}

static bool parse_limit(const char *text, uint64_t *limit, struct json *j)
{
    if (parse_number(text, limit) && *limit <= READ_LIMIT)
        return true;
    json_put_string(j, "error", "bad number of bytes");
    return false;
}

void op_read(const struct op *op, struct json *j)
{
    uint64_t limit = READ_DEFAULT;
    if (op->argc == 1 || parse_limit(op->argv[1], &limit, j))
        put_read(op->argv[0], (size_t)limit, j);
}

static char type_letter(unsigned char type)
{
    switch (type) {
    case DT_REG: return 'f';
    case DT_DIR: return 'd';
    case DT_LNK: return 'l';
    case DT_FIFO: return 'p';
    case DT_SOCK: return 's';
    case DT_CHR: return 'c';
    case DT_BLK: return 'b';
    default: return '?';
    }
}

/* names in the order of readdir, and one letter of type for each */
static int put_names(DIR *dir, struct json *j)
{
    char types[LIST_LIMIT + 1];
    size_t count = 0;
    struct dirent *entry;
    json_key(j, "names");
    json_open(j, '[');
    errno = 0;
    while (count < LIST_LIMIT && (entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) {
            types[count++] = type_letter(entry->d_type);
            json_path(j, entry->d_name);
        }
        errno = 0;
    }
    int err = errno;
    json_close(j, ']');
    types[count] = '\0';
    json_put_string(j, "types", types);
    json_put_bool(j, "truncated", count == LIST_LIMIT);
    return err;
}

void op_list(const struct op *op, struct json *j)
{
    DIR *dir = opendir(op->argv[0]);
    if (!dir) {
        json_put_errno(j, "errno", errno);
        return;
    }
    json_put_errno(j, "errno", put_names(dir, j));
    closedir(dir);
}

static void put_xattrs(const char *path, struct json *j)
{
    static char names[65536];
    ssize_t length = llistxattr(path, names, sizeof names);
    json_put_errno(j, "xattrs_errno", length < 0 ? errno : 0);
    json_key(j, "xattrs");
    json_open(j, '[');
    for (ssize_t at = 0; at < length; at += (ssize_t)strlen(names + at) + 1)
        json_path(j, names + at);
    json_close(j, ']');
}

static void put_target(const char *path, struct json *j)
{
    char target[PATH_MAX];
    ssize_t length = readlink(path, target, sizeof target - 1);
    target[length < 0 ? 0 : length] = '\0';
    json_key(j, "target");
    json_path(j, target);
}

static void put_lstat(const char *path, struct json *j)
{
    struct stat st;
    if (lstat(path, &st) < 0) {
        json_put_errno(j, "errno", errno);
        return;
    }
    json_put_errno(j, "errno", 0);
    json_put_string(j, "type", type_name(st.st_mode));
    json_put_number(j, "mode", st.st_mode & 07777);
    json_put_number(j, "uid", (long long)st.st_uid);
    json_put_number(j, "gid", (long long)st.st_gid);
    json_put_number(j, "size", (long long)st.st_size);
    json_put_number(j, "nlink", (long long)st.st_nlink);
    json_put_number(j, "mtime", (long long)st.st_mtim.tv_sec);
    json_put_number(j, "mtime_ns", (long long)st.st_mtim.tv_nsec);
    json_put_number(j, "ino", (long long)st.st_ino);
    json_put_number(j, "dev_major", (long long)major(st.st_dev));
    json_put_number(j, "dev_minor", (long long)minor(st.st_dev));
    json_put_number(j, "rdev_major", (long long)major(st.st_rdev));
    json_put_number(j, "rdev_minor", (long long)minor(st.st_rdev));
    if (S_ISLNK(st.st_mode))
        put_target(path, j);
    put_xattrs(path, j);
}

void op_lstat(const struct op *op, struct json *j)
{
    put_lstat(op->argv[0], j);
}

static void put_file(const char *path, size_t limit, struct json *j)
{
    struct stat st;
    json_open(j, '{');
    json_key(j, "path");
    json_path(j, path);
    put_lstat(path, j);
    if (limit && !lstat(path, &st) && S_ISREG(st.st_mode)) {
        json_key(j, "read");
        json_open(j, '{');
        put_read(path, limit, j);
        json_close(j, '}');
    }
    json_close(j, '}');
}

void op_files(const struct op *op, struct json *j)
{
    uint64_t limit;
    if (!parse_limit(op->argv[0], &limit, j))
        return;
    json_key(j, "files");
    json_open(j, '[');
    for (int i = 1; i < op->argc; i++)
        put_file(op->argv[i], (size_t)limit, j);
    json_close(j, ']');
}

void op_exists(const struct op *op, struct json *j)
{
    struct stat st;
    int err = lstat(op->argv[0], &st) < 0 ? errno : 0;
    json_put_errno(j, "errno", err);
    json_put_bool(j, "exists", err == 0);
}

static void put_flags(unsigned long flags, struct json *j)
{
    static const struct {
        unsigned long flag;
        const char *name;
    } names[] = {
        {ST_RDONLY, "ro"},       {ST_NOSUID, "nosuid"},   {ST_NODEV, "nodev"},           {ST_NOEXEC, "noexec"},
        {ST_NOATIME, "noatime"}, {ST_RELATIME, "relatime"}, {ST_NODIRATIME, "nodiratime"},
    };
    json_key(j, "flags");
    json_open(j, '[');
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (flags & names[i].flag)
            json_string(j, names[i].name);
    json_close(j, ']');
}

void op_statvfs(const struct op *op, struct json *j)
{
    struct statvfs vfs;
    struct statfs fs;
    if (statvfs(op->argv[0], &vfs) < 0 || statfs(op->argv[0], &fs) < 0) {
        json_put_errno(j, "errno", errno);
        return;
    }
    json_put_errno(j, "errno", 0);
    json_put_number(j, "f_type", (long long)((uint64_t)fs.f_type & 0xffffffffu));
    put_flags(vfs.f_flag, j);
    json_put_number(j, "bsize", (long long)vfs.f_bsize);
    json_put_number(j, "frsize", (long long)vfs.f_frsize);
    json_put_number(j, "blocks", (long long)vfs.f_blocks);
    json_put_number(j, "bfree", (long long)vfs.f_bfree);
    json_put_number(j, "bavail", (long long)vfs.f_bavail);
    json_put_number(j, "files", (long long)vfs.f_files);
    json_put_number(j, "ffree", (long long)vfs.f_ffree);
}
