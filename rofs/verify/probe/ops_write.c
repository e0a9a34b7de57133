// SPDX-License-Identifier: MIT
/* Operations that write where writing is promised: canary, write, fillinodes, sync; and blkwrite. */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static void make_name(char *out, const char *dir, const char *suffix)
{
    snprintf(out, PATH_MAX, "%s/.rofs-probe-%d%s", strcmp(dir, "/") ? dir : "", (int)getpid(), suffix);
}

/* does a call and keeps its errno, 0 when it went well */
#define ERRNO_OF(call) ((call) < 0 ? errno : 0)

void op_canary(const struct op *op, struct json *j)
{
    int err, fd = open(op->argv[0], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0) {
        json_put_errno(j, "errno", errno);
        return;
    }
    err = write_all(fd, op->argv[1], strlen(op->argv[1]));
    if (!err)
        err = ERRNO_OF(fsync(fd));
    if (close(fd) < 0 && !err)
        err = errno;
    json_put_errno(j, "errno", err);
}

static int read_back(const char *path, const char *expected)
{
    char have[64];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    ssize_t length = read(fd, have, sizeof have);
    int err = length < 0 ? errno : 0;
    close(fd);
    if (!err && ((size_t)length != strlen(expected) || memcmp(have, expected, (size_t)length)))
        err = EIO;
    return err;
}

void op_write(const struct op *op, struct json *j)
{
    static const char text[] = "rofs-probe was here\n";
    char path[PATH_MAX], other[PATH_MAX];
    make_name(path, op->argv[0], "");
    make_name(other, op->argv[0], ".renamed");
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int create = ERRNO_OF(fd), wrote = create, back = create, renamed = create, removed = create;
    if (fd >= 0) {
        wrote = write_all(fd, text, strlen(text));
        close(fd);
        back = read_back(path, text);
        renamed = ERRNO_OF(rename(path, other));
        removed = ERRNO_OF(unlink(renamed ? path : other));
    }
    json_put_errno(j, "create", create);
    json_put_errno(j, "write", wrote);
    json_put_errno(j, "read_back", back);
    json_put_errno(j, "rename", renamed);
    json_put_errno(j, "unlink", removed);
    json_put_bool(j, "writable", !create && !wrote && !back && !renamed && !removed);
}

static int make_files(const char *dir, uint64_t wanted, uint64_t *made)
{
    char path[PATH_MAX + 32];
    for (*made = 0; *made < wanted; ++*made) {
        snprintf(path, sizeof path, "%s/%llu", dir, (unsigned long long)*made);
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0)
            return errno;
        close(fd);
    }
    return 0;
}

static int remove_files(const char *dir, uint64_t made)
{
    char path[PATH_MAX + 32];
    for (uint64_t i = 0; i < made; i++) {
        snprintf(path, sizeof path, "%s/%llu", dir, (unsigned long long)i);
        if (unlink(path) < 0)
            return errno;
    }
    return ERRNO_OF(rmdir(dir));
}

void op_fillinodes(const struct op *op, struct json *j)
{
    uint64_t wanted, made = 0;
    char dir[PATH_MAX];
    if (!parse_number(op->argv[1], &wanted)) {
        json_put_string(j, "error", "bad number of files");
        return;
    }
    make_name(dir, op->argv[0], ".d");
    if (mkdir(dir, 0700) < 0) {
        json_put_errno(j, "errno", errno);
        json_put_number(j, "made", 0);
        return;
    }
    int err = make_files(dir, wanted, &made);
    json_put_errno(j, "errno", err);
    json_put_number(j, "made", (long long)made);
    json_put_errno(j, "removed", remove_files(dir, made));
}

void op_sync(const struct op *op, struct json *j)
{
    (void)op;
    sync();
    json_put_errno(j, "errno", 0);
}

/* writes a device's own first bytes back to it: no change of content, but a write all the same */
void op_blkwrite(const struct op *op, struct json *j)
{
    char sector[512];
    int read_only = -1;
    int fd = open(op->argv[0], O_RDWR | O_CLOEXEC | O_NONBLOCK);
    int opened = ERRNO_OF(fd);
    json_put_errno(j, "open", opened);
    if (fd < 0)
        fd = open(op->argv[0], O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return;
    ssize_t got = pread(fd, sector, sizeof sector, 0);
    json_put_errno(j, "read", got < 0 ? errno : 0);
    if (!opened && got > 0) {
        json_put_errno(j, "write", ERRNO_OF(pwrite(fd, sector, (size_t)got, 0)));
        json_put_errno(j, "fsync", ERRNO_OF(fsync(fd)));
    }
    json_put_errno(j, "roget", ERRNO_OF(ioctl(fd, BLKROGET, &read_only)));
    json_put_number(j, "read_only", read_only);
    close(fd);
}
