// SPDX-License-Identifier: MIT
/* Attacks on attributes: mode, owner, times, extended attributes, inode flags. Links are not followed. */
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>
#include <unistd.h>

#define XATTR_VALUE "rofs-probe"
#define NOBODY_HERE 65533

/* the sticky bit: it changes nothing for a file and takes nothing from a directory's users */
void attack_chmod(const struct target *t, const char *victim, struct outcome *o)
{
    struct stat before, after;
    (void)t;
    if (lstat(victim, &before) < 0) {
        o->err = errno;
        return;
    }
    o->err = chmod(victim, (before.st_mode & 07777) ^ S_ISVTX) < 0 ? errno : 0;
    o->effect = lstat(victim, &after) == 0 && after.st_mode != before.st_mode;
    if (o->effect)
        o->restored = chmod(victim, before.st_mode & 07777) == 0;
}

void attack_chown(const struct target *t, const char *victim, struct outcome *o)
{
    struct stat before, after;
    struct saved saved;
    (void)t;
    if (lstat(victim, &before) < 0) {
        o->err = errno;
        return;
    }
    bool regular = S_ISREG(before.st_mode) && save_attributes(victim, &saved);
    o->err = lchown(victim, NOBODY_HERE, NOBODY_HERE) < 0 ? errno : 0;
    o->effect = lstat(victim, &after) == 0 && (after.st_uid != before.st_uid || after.st_gid != before.st_gid);
    if (o->effect) {
        o->restored = lchown(victim, before.st_uid, before.st_gid) == 0;
        if (regular)
            restore_attributes(victim, &saved);
        else if (!S_ISLNK(before.st_mode))
            (void)!chmod(victim, before.st_mode & 07777);
    }
}

void attack_utimes(const struct target *t, const char *victim, struct outcome *o)
{
    struct stat before, after;
    struct timespec old[2], past[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    (void)t;
    if (lstat(victim, &before) < 0) {
        o->err = errno;
        return;
    }
    old[0] = before.st_atim;
    old[1] = before.st_mtim;
    if (before.st_mtim.tv_sec == 1)
        past[1].tv_sec = 2;
    o->err = utimensat(AT_FDCWD, victim, past, AT_SYMLINK_NOFOLLOW) < 0 ? errno : 0;
    o->effect = lstat(victim, &after) == 0 && after.st_mtim.tv_sec != before.st_mtim.tv_sec;
    if (o->effect)
        o->restored = utimensat(AT_FDCWD, victim, old, AT_SYMLINK_NOFOLLOW) == 0;
}

/* the one attack that is a question: leave to write is the effect */
void attack_access(const struct target *t, const char *victim, struct outcome *o)
{
    (void)t;
    o->err = access(victim, W_OK) < 0 ? errno : 0;
    o->effect = o->err == 0;
    o->restored = true;
}

static bool has_xattr(const char *path, const char *name)
{
    return lgetxattr(path, name, NULL, 0) >= 0;
}

static void set_xattr(const char *victim, const char *name, struct outcome *o)
{
    o->err = lsetxattr(victim, name, XATTR_VALUE, strlen(XATTR_VALUE), 0) < 0 ? errno : 0;
    o->effect = has_xattr(victim, name);
    if (o->effect)
        o->restored = lremovexattr(victim, name) == 0;
}

void attack_set_user_xattr(const struct target *t, const char *victim, struct outcome *o)
{
    (void)t;
    set_xattr(victim, "user.rofs-probe", o);
}

void attack_set_trusted_xattr(const struct target *t, const char *victim, struct outcome *o)
{
    (void)t;
    set_xattr(victim, "trusted.rofs-probe", o);
}

/* the first that is there; without one, one that is not: where it is read-only that says so first */
void attack_remove_xattr(const struct target *t, const char *victim, struct outcome *o)
{
    char names[4096] = "", value[4096];
    (void)t;
    ssize_t length = llistxattr(victim, names, sizeof names - 1);
    const char *name = length > 0 ? names : "user.rofs-probe-absent";
    ssize_t size = length > 0 ? lgetxattr(victim, name, value, sizeof value) : -1;
    if (length > 0 && size < 0) {
        o->err = errno;
        o->skipped = "an attribute that cannot be put back";
        return;
    }
    percent_encode(name, o->detail, sizeof o->detail);
    o->err = lremovexattr(victim, name) < 0 ? errno : 0;
    o->effect = size >= 0 && !has_xattr(victim, name);
    if (o->effect)
        o->restored = lsetxattr(victim, name, value, (size_t)size, 0) == 0;
}

/* the nodump flag, which no program but dump reads */
void attack_setflags(const struct target *t, const char *victim, struct outcome *o)
{
    int before = 0, after = 0, wanted;
    (void)t;
    int fd = open(victim, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        o->err = errno;
        return;
    }
    bool known = ioctl(fd, FS_IOC_GETFLAGS, &before) == 0;
    wanted = before ^ FS_NODUMP_FL;
    o->err = ioctl(fd, FS_IOC_SETFLAGS, &wanted) < 0 ? errno : 0;
    o->effect = known && ioctl(fd, FS_IOC_GETFLAGS, &after) == 0 && after != before;
    if (o->effect)
        o->restored = ioctl(fd, FS_IOC_SETFLAGS, &before) == 0;
    close(fd);
}
