// SPDX-License-Identifier: MIT
/*
 * brim FLOOR PATH...: fills the file systems of all directories at once, says how much memory is left then, and lets
 * go. It stops where fewer than FLOOR bytes of memory would be left, since then the kernel kills.
 */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define STEP (8u << 20)

struct filling {
    int err;            /* of the step that did not fit */
    bool memory;        /* stopped for want of memory */
    uint64_t fitted;
    uint64_t size, left, inodes;
    const char *how;
};

/* a field of /proc/meminfo or /proc/vmstat; -1 if it is not there */
static long long find_field(const char *file, const char *name)
{
    char line[256];
    long long value = -1;
    FILE *stream = fopen(file, "re");
    if (!stream)
        return -1;
    size_t length = strlen(name);
    while (value < 0 && fgets(line, sizeof line, stream))
        if (!strncmp(line, name, length) && strchr(": ", line[length]))
            sscanf(line + length + 1, " %lld", &value);
    fclose(stream);
    return value;
}

static long long memory_bytes(const char *name)
{
    long long kib = find_field("/proc/meminfo", name);
    return kib < 0 ? -1 : kib * 1024;
}

static int allocate(int fd, uint64_t at, size_t step, const char **how)
{
    static char zeros[1 << 16];
    if (!fallocate(fd, 0, (off_t)at, (off_t)step))
        return 0;
    if (errno != EOPNOTSUPP)
        return errno;
    *how = "write";
    for (size_t done = 0; done < step;) {
        size_t part = step - done < sizeof zeros ? step - done : sizeof zeros;
        ssize_t wrote = pwrite(fd, zeros, part, (off_t)(at + done));
        if (wrote < 0)
            return errno;
        done += (size_t)wrote;
    }
    return 0;
}

static void fill(int fd, uint64_t floor, size_t page, struct filling *filling)
{
    size_t step = STEP;
    while (!filling->err) {
        long long left = memory_bytes("MemAvailable");
        if (left < 0 || (uint64_t)left < floor + step) {
            filling->memory = true;
            return;
        }
        int err = allocate(fd, filling->fitted, step, &filling->how);
        if (!err)
            filling->fitted += step;
        else if (err == ENOSPC && step > page)
            step /= 2;
        else if (err != EINTR)
            filling->err = err;
    }
}

/* a descriptor that holds what was filled, or -1 */
static int fill_one(const char *dir, uint64_t floor, struct filling *filling)
{
    char path[PATH_MAX];
    struct statvfs vfs;
    *filling = (struct filling){.how = "fallocate"};
    if (statvfs(dir, &vfs) < 0) {
        filling->err = errno;
        return -1;
    }
    filling->size = (uint64_t)vfs.f_blocks * vfs.f_frsize;
    filling->inodes = vfs.f_files;
    snprintf(path, sizeof path, "%s/.rofs-probe-brim-%d", dir, (int)getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        filling->err = errno;
        return -1;
    }
    unlink(path); /* first, so that nothing is left even when we are killed */
    fill(fd, floor, (size_t)sysconf(_SC_PAGESIZE), filling);
    filling->left = statvfs(dir, &vfs) < 0 ? UINT64_MAX : (uint64_t)vfs.f_bfree * vfs.f_frsize;
    return fd;
}

static void put_filling(const char *dir, const struct filling *filling, struct json *j)
{
    json_open(j, '{');
    json_key(j, "path");
    json_path(j, dir);
    json_put_errno(j, "errno", filling->err);
    json_put_bool(j, "memory", filling->memory);
    json_put_number(j, "size", (long long)filling->size);
    json_put_number(j, "fitted", (long long)filling->fitted);
    json_put_number(j, "left", (long long)filling->left);
    json_put_number(j, "inodes", (long long)filling->inodes);
    json_put_string(j, "how", filling->how);
    json_close(j, '}');
}

void op_brim(const struct op *op, struct json *j)
{
    uint64_t floor;
    if (!parse_number(op->argv[0], &floor)) {
        json_put_string(j, "error", "bad number of bytes");
        return;
    }
    long long killed = find_field("/proc/vmstat", "oom_kill");
    json_put_number(j, "total", memory_bytes("MemTotal"));
    json_put_number(j, "before", memory_bytes("MemAvailable"));
    json_key(j, "mounts");
    json_open(j, '[');
    for (int i = 1; i < op->argc; i++) {
        struct filling filling;
        (void)fill_one(op->argv[i], floor, &filling); /* held until this process ends */
        put_filling(op->argv[i], &filling, j);
    }
    json_close(j, ']');
    json_put_number(j, "available", memory_bytes("MemAvailable"));
    json_put_number(j, "oom_kills", killed < 0 ? -1 : find_field("/proc/vmstat", "oom_kill") - killed);
}
