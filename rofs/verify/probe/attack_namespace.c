// SPDX-License-Identifier: MIT
/*
 * Attacks from a fresh mount namespace: whoever may make one can show the path to himself by another way,
 * which the mount table of PID 1 does not have. What counts is the file that everybody else sees, so that is
 * looked at through a descriptor of the namespace that was left.
 */
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

/* always there, never the way to a victim; only the fresh namespace sees the tmpfs on it */
#define SCRATCH "/proc"
#define BOUND SCRATCH "/bound"
#define SECOND SCRATCH "/second"
#define DEVICE SCRATCH "/device"

enum way { BIND, HANDLE, SECOND_MOUNT, REMOUNT, WAYS };

/* what was there before, in the namespace that was left */
struct original {
    int dir;           /* the directory of fresh names */
    int file;          /* the victim, -1 when it is a directory */
    struct saved saved;
    int byte;
};

static int byte_of(int fd)
{
    unsigned char byte;
    return pread(fd, &byte, 1, 0) == 1 ? byte : -1;
}

static bool open_original(const struct target *t, const char *victim, bool is_file, struct original *original)
{
    original->dir = open(t->where, O_PATH | O_DIRECTORY | O_CLOEXEC);
    original->file = is_file ? open(victim, O_RDONLY | O_NOFOLLOW | O_CLOEXEC) : -1;
    original->byte = is_file ? byte_of(original->file) : -1;
    if (is_file)
        save_attributes(victim, &original->saved);
    return original->dir >= 0 && (!is_file || original->file >= 0);
}

static void write_original(const struct original *original, int fd, struct outcome *o)
{
    unsigned char other = other_byte(original->byte), old = (unsigned char)original->byte;
    o->err = pwrite(fd, &other, 1, 0) < 0 ? errno : 0;
    o->effect = byte_of(original->file) != original->byte;
    bool undone = original->byte < 0 ? ftruncate(fd, 0) == 0 : pwrite(fd, &old, 1, 0) == 1;
    o->restored = undone && byte_of(original->file) == original->byte;
    restore_by_descriptor(fd, &original->saved);
}

/* a fresh name in the directory `way`, or another first byte of the file that it is */
static void write_by(const char *way, const struct target *t, const struct original *original, struct outcome *o)
{
    char path[2 * PATH_MAX];
    struct stat st;
    const char *name = strrchr(t->fresh, '/') + 1;
    bool is_file = original->file >= 0;
    snprintf(path, sizeof path, is_file ? "%s" : "%s/%s", way, name);
    int fd = open(path, (is_file ? O_RDWR : O_RDWR | O_CREAT | O_EXCL) | O_CLOEXEC, 0600);
    o->err = fd < 0 ? errno : 0;
    if (fd < 0)
        return;
    if (is_file) {
        write_original(original, fd, o);
    } else {
        o->effect = fstatat(original->dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
        o->restored = unlink(path) == 0 && fstatat(original->dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0;
    }
    close(fd);
}

static bool make_writable(const struct mount_row *row, const char *point)
{
    return mount("none", point, NULL, MS_REMOUNT | MS_BIND | row->flags, NULL) == 0;
}

static bool bind_writable(const struct target *t)
{
    int made = t->is_dir ? mkdir(BOUND, 0700) : mknod(BOUND, S_IFREG | 0600, 0);
    return made == 0 && mount(t->path, BOUND, NULL, MS_BIND, NULL) == 0 && make_writable(&t->mount, BOUND);
}

static bool mount_device(const struct mount_row *row)
{
    return mknod(DEVICE, S_IFBLK | 0600, makedev(row->major, row->minor)) == 0 && mkdir(SECOND, 0700) == 0 &&
           mount(DEVICE, SECOND, row->fstype, 0, NULL) == 0;
}

/* the same file in a second mount of the whole file system; false: the path does not say where */
static bool find_in_device(const struct target *t, char *way, size_t size)
{
    const char *root = strcmp(t->mount.root, "/") ? t->mount.root : "";
    size_t length = strcmp(t->mount.point, "/") ? strlen(t->mount.point) : 0;
    if (strncmp(t->path, t->mount.point, length))
        return false;
    return snprintf(way, size, "%s%s%s", SECOND, root, t->path + length) < (int)size;
}

static void by_bind(const struct target *t, const struct original *original, struct outcome *o)
{
    if (bind_writable(t))
        write_by(BOUND, t, original, o);
    else
        o->err = errno;
}

/* after the bind, whose mount the file is opened on */
static void by_handle(const struct target *t, const struct original *original, struct outcome *o)
{
    int mount_fd = open(BOUND, O_RDONLY | O_CLOEXEC);
    if (mount_fd < 0) {
        o->err = errno;
        return;
    }
    int fd = open_by_handle(t->file, mount_fd, o);
    if (fd >= 0)
        write_original(original, fd, o);
}

static void by_device(const struct target *t, const struct original *original, struct outcome *o)
{
    char way[2 * PATH_MAX];
    if (!t->mount.major)
        o->skipped = "not on a device";
    else if (!find_in_device(t, way, sizeof way))
        o->err = ENAMETOOLONG;
    else if (mount_device(&t->mount))
        write_by(way, t, original, o);
    else
        o->err = errno;
}

static void by_remount(const struct target *t, const struct original *original, struct outcome *o)
{
    if (make_writable(&t->mount, t->mount.point))
        write_by(t->path, t, original, o);
    else
        o->err = errno;
}

static int leave_namespace(void)
{
    bool left = unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
                mount("none", SCRATCH, "tmpfs", 0, "size=1m") == 0;
    return left ? 0 : errno;
}

/* the errno of what was refused first, else that of the write; the path's own mount is changed last */
static void try_ways(const struct target *t, struct outcome *told)
{
    struct original path, file;
    if (!open_original(t, t->path, !t->is_dir, &path) || (t->file[0] && !open_original(t, t->file, true, &file)))
        _exit(1);
    int err = leave_namespace();
    for (size_t i = 0; err && i < WAYS; i++)
        told[i] = (struct outcome){.err = err, .skipped = "no namespace"};
    if (err)
        return;
    by_bind(t, &path, &told[BIND]);
    if (t->file[0])
        by_handle(t, &file, &told[HANDLE]);
    by_device(t, &path, &told[SECOND_MOUNT]);
    by_remount(t, &path, &told[REMOUNT]);
}

/*
 * All ways in one child, so that this process keeps its namespace, and making one is paid once; its mounts go
 * with it. NULL when it came to nothing.
 */
static const struct outcome *from_namespace(const struct target *t)
{
    size_t size = WAYS * sizeof(struct outcome);
    struct outcome *told = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = told == MAP_FAILED ? -1 : fork();
    int status = -1;
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        try_ways(t, told);
        _exit(0);
    }
    if (child > 0)
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
    return status == 0 ? told : NULL;
}

/* an operation has one target, and a process */
static void look_up(const struct target *t, enum way way, struct outcome *o)
{
    static const struct outcome *told;
    static bool tried;
    if (!tried)
        told = from_namespace(t);
    tried = true;
    if (told)
        *o = told[way];
    else
        o->skipped = "the attacker died";
}

void attack_ns_bind(const struct target *t, const char *victim, struct outcome *o)
{
    (void)victim;
    look_up(t, BIND, o);
}

void attack_ns_handle(const struct target *t, const char *victim, struct outcome *o)
{
    (void)victim;
    look_up(t, HANDLE, o);
}

void attack_ns_device(const struct target *t, const char *victim, struct outcome *o)
{
    (void)victim;
    look_up(t, SECOND_MOUNT, o);
}

void attack_ns_remount(const struct target *t, const char *victim, struct outcome *o)
{
    (void)victim;
    look_up(t, REMOUNT, o);
}
