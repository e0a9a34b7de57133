// SPDX-License-Identifier: MIT
/*
 * marked PATH REFERENCE [PATH REFERENCE...]: what in a tree gives rights or lets anybody write: setuid and setgid
 * files, file capabilities, device nodes, files writable for all. No link and no mount is followed. With a
 * REFERENCE each says whether the reference has the same at the same place.
 */
#include "probe.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>

#define MOST_FOUND 256
#define MOST_DEPTH 64
#define CAPABILITY "security.capability"

struct walk {
    const char *reference; /* "" if there is none */
    size_t root_length;
    dev_t device;
    long long looked;
    long long found;
    bool truncated;
    struct json *j;
};

static bool same_capability(const char *path, const char *other)
{
    char mine[64], theirs[64];
    ssize_t length = lgetxattr(path, CAPABILITY, mine, sizeof mine);
    return length > 0 && lgetxattr(other, CAPABILITY, theirs, sizeof theirs) == length
           && !memcmp(mine, theirs, (size_t)length);
}

static bool reference_has(const struct walk *walk, const char *path, const struct stat *st, bool capable)
{
    char other[PATH_MAX];
    struct stat theirs;
    if (!*walk->reference)
        return false;
    if (snprintf(other, sizeof other, "%s%s", walk->reference, path + walk->root_length) >= (int)sizeof other)
        return false;
    return !lstat(other, &theirs) && theirs.st_mode == st->st_mode && theirs.st_uid == st->st_uid
           && theirs.st_gid == st->st_gid && theirs.st_rdev == st->st_rdev && (!capable || same_capability(path, other));
}

static void put_marks(const struct stat *st, bool capable, struct json *j)
{
    bool regular = S_ISREG(st->st_mode);
    json_key(j, "marks");
    json_open(j, '[');
    if (regular && st->st_mode & S_ISUID)
        json_string(j, "setuid");
    if (regular && st->st_mode & S_ISGID)
        json_string(j, "setgid");
    if (capable)
        json_string(j, "capabilities");
    if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode))
        json_string(j, "device");
    if (regular && st->st_mode & S_IWOTH)
        json_string(j, "world-writable");
    json_close(j, ']');
}

static void look(struct walk *walk, const char *path, const struct stat *st)
{
    bool regular = S_ISREG(st->st_mode), device = S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode);
    walk->looked++;
    if (!regular && !device)
        return;
    bool capable = regular && lgetxattr(path, CAPABILITY, NULL, 0) > 0;
    if (!device && !capable && !(st->st_mode & (S_ISUID | S_ISGID | S_IWOTH)))
        return;
    if (walk->found++ >= MOST_FOUND) {
        walk->truncated = true;
        return;
    }
    struct json *j = walk->j;
    json_open(j, '{');
    json_key(j, "path");
    json_path(j, path);
    json_put_number(j, "mode", st->st_mode & 07777);
    json_put_number(j, "uid", (long long)st->st_uid);
    put_marks(st, capable, j);
    json_put_bool(j, "image", reference_has(walk, path, st, capable));
    json_close(j, '}');
}

/* an overlay's files have other device numbers than its directories, so only these are compared */
static void descend(struct walk *walk, char *path, size_t length, int depth)
{
    DIR *dir = opendir(path);
    if (!dir) {
        walk->truncated |= errno != ENOENT; /* gone in the meantime */
        return;
    }
    for (struct dirent *entry; (entry = readdir(dir));) {
        struct stat st;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        int more = snprintf(path + length, PATH_MAX - length, "/%s", entry->d_name);
        if (length + (size_t)more >= PATH_MAX) {
            walk->truncated = true;
            continue;
        }
        if (lstat(path, &st) < 0)
            continue;
        look(walk, path, &st);
        if (!S_ISDIR(st.st_mode) || st.st_dev != walk->device)
            continue;
        if (depth == MOST_DEPTH)
            walk->truncated = true;
        else
            descend(walk, path, length + (size_t)more, depth + 1);
    }
    path[length] = '\0';
    closedir(dir);
}

static void walk_one(const char *root, const char *reference, struct json *j)
{
    char path[PATH_MAX];
    struct stat st;
    struct walk walk = {.reference = reference, .j = j, .root_length = strlen(root)};
    int err = lstat(root, &st) < 0 ? errno : 0;
    json_open(j, '{');
    json_key(j, "root");
    json_path(j, root);
    json_put_errno(j, "errno", err);
    json_key(j, "found");
    json_open(j, '[');
    if (!err && walk.root_length < sizeof path) {
        memcpy(path, root, walk.root_length + 1);
        walk.device = st.st_dev;
        if (S_ISDIR(st.st_mode))
            descend(&walk, path, walk.root_length, 0);
        else
            look(&walk, path, &st);
    }
    json_close(j, ']');
    json_put_number(j, "looked", walk.looked);
    json_put_bool(j, "truncated", walk.truncated);
    json_close(j, '}');
}

void op_marked(const struct op *op, struct json *j)
{
    if (op->argc % 2) {
        json_put_string(j, "error", "a path without its reference");
        return;
    }
    json_key(j, "trees");
    json_open(j, '[');
    for (int i = 0; i < op->argc; i += 2)
        walk_one(op->argv[i], op->argv[i + 1], j);
    json_close(j, ']');
}
