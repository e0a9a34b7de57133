// SPDX-License-Identifier: MIT
/*
 * compare: is PATH a whole and faithful copy of REFERENCE, or what does PATH, an upper directory, hide of it?
 *
 * One walk by descriptors, over REFERENCE's names: a copy must have them, and an upper directory hides nothing
 * but them. Extended attributes of links and devices have no call that takes a descriptor: the operation has
 * a process to itself, so it changes the working directory.
 */
#include "probe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#define ENTRY_LIMIT 1000
#define DEPTH_LIMIT 64
#define NAME_LIMIT 256    /* squashfs has names as long as that */
#define BLOCK (64u << 10) /* no list or value of extended attributes is longer */
#define OVERLAY_XATTR "trusted.overlay."

enum side { PATH, REFERENCE };

enum difference {
    TYPE, MODE, OWNER, SIZE, CONTENT, TARGET, RDEV, MTIME, XATTRS, MOUNT, DEPTH, UNREADABLE, DIFFERENCES
};

#define BIT(difference) (1u << (difference))

static const char *const difference_names[DIFFERENCES] = {
    "type", "mode", "owner", "size", "content", "target", "rdev", "mtime", "xattrs", "mount", "depth", "unreadable",
};

struct comparison {
    struct json *j;
    bool upper;
    dev_t device[2];
    unsigned depth;
    size_t length; /* of `path` */
    char path[(DEPTH_LIMIT + 1) * (NAME_LIMIT + 1) + 1];
    long long compared, equal, files, reported;
};

/* one name on both sides */
struct entry {
    const char *name;
    int dir[2];
    struct stat st[2];
};

static char block[2][BLOCK];
static char xattr_names[2][BLOCK];

static int walk(struct comparison *c, const int dir[2]);

/* `st` is of PATH's side, where it has one that can be told */
static void report(struct comparison *c, const char *how, unsigned what, const struct stat *st)
{
    if (c->reported++ >= ENTRY_LIMIT)
        return;
    json_open(c->j, '{');
    json_key(c->j, "path");
    json_path(c->j, c->path);
    json_put_string(c->j, "how", how);
    if (what) {
        json_key(c->j, "what");
        json_open(c->j, '[');
        for (unsigned i = 0; i < DIFFERENCES; i++)
            if (what & BIT(i))
                json_string(c->j, difference_names[i]);
        json_close(c->j, ']');
    }
    if (st)
        json_put_number(c->j, "mtime", st->st_mtim.tv_sec);
    json_close(c->j, '}');
}

static void close_both(const int fd[2])
{
    for (int side = PATH; side <= REFERENCE; side++)
        if (fd[side] >= 0)
            close(fd[side]);
}

/* false when one of them cannot be opened, and then none is */
static bool open_both(const struct entry *e, int flags, int fd[2])
{
    for (int side = PATH; side <= REFERENCE; side++)
        fd[side] = openat(e->dir[side], e->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | flags);
    if (fd[PATH] >= 0 && fd[REFERENCE] >= 0)
        return true;
    close_both(fd);
    return false;
}

/* until the end rather than to the size: a file may shrink meanwhile, and those of /proc have none */
static unsigned compare_content(const struct entry *e)
{
    int fd[2];
    size_t have[2];
    unsigned what = 0;
    if (!open_both(e, O_NONBLOCK | O_NOCTTY, fd))
        return BIT(UNREADABLE);
    do {
        if (read_up_to(fd[PATH], block[PATH], BLOCK, &have[PATH]) ||
            read_up_to(fd[REFERENCE], block[REFERENCE], BLOCK, &have[REFERENCE]))
            what = BIT(UNREADABLE);
        else if (have[PATH] != have[REFERENCE] || memcmp(block[PATH], block[REFERENCE], have[PATH]))
            what = BIT(CONTENT);
    } while (!what && have[PATH]);
    close_both(fd);
    return what;
}

static unsigned compare_targets(const struct entry *e)
{
    ssize_t length[2];
    for (int side = PATH; side <= REFERENCE; side++) {
        length[side] = readlinkat(e->dir[side], e->name, block[side], BLOCK);
        if (length[side] < 0)
            return BIT(UNREADABLE);
    }
    bool same = length[PATH] == length[REFERENCE] && !memcmp(block[PATH], block[REFERENCE], (size_t)length[PATH]);
    return same ? 0 : BIT(TARGET);
}

/* the value's length, or -1 */
static ssize_t get_xattr(const struct entry *e, enum side side, const char *xattr, char *value)
{
    return fchdir(e->dir[side]) < 0 ? -1 : lgetxattr(e->name, xattr, value, BLOCK);
}

static unsigned compare_value(const struct entry *e, const char *xattr)
{
    ssize_t length[2];
    for (int side = PATH; side <= REFERENCE; side++) {
        length[side] = get_xattr(e, side, xattr, block[side]);
        if (length[side] < 0)
            return errno == ENODATA || errno == ENOTSUP ? BIT(XATTRS) : BIT(UNREADABLE);
    }
    bool same = length[PATH] == length[REFERENCE] && !memcmp(block[PATH], block[REFERENCE], (size_t)length[PATH]);
    return same ? 0 : BIT(XATTRS);
}

/* lists one side's names, without overlayfs's own; how many, or -1 */
static long list_xattrs(const struct entry *e, enum side side)
{
    long count = 0;
    char *names = xattr_names[side], *kept = names;
    ssize_t length = fchdir(e->dir[side]) < 0 ? -1 : llistxattr(e->name, names, BLOCK);
    if (length < 0)
        return errno == ENOTSUP ? 0 : -1;
    for (const char *name = names; name < names + length;) {
        size_t size = strlen(name) + 1;
        if (strncmp(name, OVERLAY_XATTR, strlen(OVERLAY_XATTR))) {
            memmove(kept, name, size);
            kept += size;
            count++;
        }
        name += size;
    }
    return count;
}

/* as many names, and each of one side's with its value on the other: then the sets are equal */
static unsigned compare_xattrs(const struct entry *e)
{
    unsigned what = 0;
    long left = list_xattrs(e, PATH), others = list_xattrs(e, REFERENCE);
    if (left < 0 || others < 0)
        return BIT(UNREADABLE);
    if (left != others)
        return BIT(XATTRS);
    for (const char *name = xattr_names[PATH]; left-- && !what; name += strlen(name) + 1)
        what = compare_value(e, name);
    return what;
}

static unsigned compare_attributes(const struct stat *one, const struct stat *other)
{
    unsigned what = 0;
    if ((one->st_mode ^ other->st_mode) & 07777)
        what |= BIT(MODE);
    if (one->st_uid != other->st_uid || one->st_gid != other->st_gid)
        what |= BIT(OWNER);
    if (!S_ISDIR(one->st_mode) && one->st_mtim.tv_sec != other->st_mtim.tv_sec)
        what |= BIT(MTIME);
    return what;
}

static unsigned enter(struct comparison *c, const struct entry *e)
{
    int fd[2];
    if (e->st[PATH].st_dev != c->device[PATH] || e->st[REFERENCE].st_dev != c->device[REFERENCE])
        return BIT(MOUNT);
    if (c->depth == DEPTH_LIMIT)
        return BIT(DEPTH);
    if (!open_both(e, O_DIRECTORY, fd))
        return BIT(UNREADABLE);
    c->depth++;
    int err = walk(c, fd);
    c->depth--;
    return err ? BIT(UNREADABLE) : 0;
}

static unsigned compare_kind(struct comparison *c, const struct entry *e)
{
    const struct stat *one = &e->st[PATH], *other = &e->st[REFERENCE];
    switch (one->st_mode & S_IFMT) {
    case S_IFDIR: return enter(c, e);
    case S_IFLNK: return compare_targets(e);
    case S_IFREG: return one->st_size == other->st_size ? compare_content(e) : BIT(SIZE) | BIT(CONTENT);
    case S_IFCHR:
    case S_IFBLK: return one->st_rdev == other->st_rdev ? 0 : BIT(RDEV);
    default: return 0;
    }
}

static unsigned compare_entry(struct comparison *c, const struct entry *e)
{
    if ((e->st[PATH].st_mode ^ e->st[REFERENCE].st_mode) & S_IFMT)
        return BIT(TYPE);
    unsigned what = compare_attributes(&e->st[PATH], &e->st[REFERENCE]) | compare_xattrs(e) | compare_kind(c, e);
    return what & BIT(UNREADABLE) ? BIT(UNREADABLE) : what;
}

static bool is_whiteout(const struct stat *st)
{
    return S_ISCHR(st->st_mode) && st->st_rdev == 0;
}

static bool is_opaque(const struct entry *e)
{
    return S_ISDIR(e->st[PATH].st_mode) && S_ISDIR(e->st[REFERENCE].st_mode) &&
           get_xattr(e, PATH, OVERLAY_XATTR "opaque", block[PATH]) == 1 && block[PATH][0] == 'y';
}

static void judge(struct comparison *c, const struct entry *e, bool readable)
{
    unsigned what = readable ? compare_entry(c, e) : BIT(UNREADABLE);
    const struct stat *st = readable ? &e->st[PATH] : NULL;
    c->compared++;
    c->equal += !what;
    c->files += readable && S_ISREG(e->st[PATH].st_mode) && S_ISREG(e->st[REFERENCE].st_mode);
    if (c->upper && readable && is_opaque(e))
        report(c, "opaque", what, st);
    else if (what)
        report(c, "differs", what, st);
    else if (c->upper && !S_ISDIR(e->st[PATH].st_mode))
        report(c, "same", 0, st);
}

static void look_at(struct comparison *c, struct entry *e)
{
    int err[2];
    for (int side = PATH; side <= REFERENCE; side++)
        err[side] = fstatat(e->dir[side], e->name, &e->st[side], AT_SYMLINK_NOFOLLOW) < 0 ? errno : 0;
    if (!c->upper && err[PATH] == ENOENT)
        report(c, "missing", 0, NULL);
    else if (c->upper && !err[PATH] && is_whiteout(&e->st[PATH]))
        report(c, "deleted", 0, &e->st[PATH]);
    else if (err[PATH] != ENOENT)
        judge(c, e, !err[PATH] && !err[REFERENCE]);
}

static void visit(struct comparison *c, const int dir[2], const char *name)
{
    struct entry e = {.name = name, .dir = {dir[PATH], dir[REFERENCE]}};
    size_t before = c->length, size = strlen(name);
    if (before + size + 2 > sizeof c->path)
        abort();
    if (before)
        c->path[c->length++] = '/';
    memcpy(c->path + c->length, name, size + 1);
    c->length += size;
    look_at(c, &e);
    c->length = before;
    c->path[before] = '\0';
}

/* visits REFERENCE's names and closes both; 0 or an errno */
static int walk(struct comparison *c, const int dir[2])
{
    struct dirent *entry;
    DIR *names = fdopendir(dir[REFERENCE]);
    if (!names) {
        int err = errno;
        close_both(dir);
        return err;
    }
    while (errno = 0, (entry = readdir(names)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            visit(c, dir, entry->d_name);
    int err = errno;
    closedir(names);
    close(dir[PATH]);
    return err;
}

static int open_root(const char *path, dev_t *device, int *fd)
{
    struct stat st;
    *fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (*fd < 0 || fstat(*fd, &st) < 0)
        return errno;
    *device = st.st_dev;
    return 0;
}

void op_compare(const struct op *op, struct json *j)
{
    static struct comparison c;
    int dir[2] = {-1, -1};
    c.upper = op->argc > 2;
    if (c.upper && strcmp(op->argv[2], "upper")) {
        json_put_string(j, "error", "unknown option");
        return;
    }
    c.j = j;
    int err = open_root(op->argv[0], &c.device[PATH], &dir[PATH]);
    if (!err)
        err = open_root(op->argv[1], &c.device[REFERENCE], &dir[REFERENCE]);
    json_key(j, "entries");
    json_open(j, '[');
    if (err)
        close_both(dir);
    else
        err = walk(&c, dir);
    json_close(j, ']');
    json_put_errno(j, "errno", err);
    json_put_number(j, "compared", c.compared);
    json_put_number(j, "equal", c.equal);
    json_put_number(j, "files", c.files);
    json_put_bool(j, "truncated", c.reported > ENTRY_LIMIT);
}
