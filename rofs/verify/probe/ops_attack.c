// SPDX-License-Identifier: MIT
/* attack PATH [remount=super] -> the table of attacks, each with its outcome, in one event. */
#include "attack.h"

#include <string.h>

enum victim { THE_PATH, A_FRESH_NAME, A_FILE, A_DIR };
enum kind { DIRS = 1, FILES = 2, OTHERS = 4, ALL = DIRS | FILES | OTHERS };

static const struct row {
    const char *name;
    attack_fn *attack;
    enum victim victim;
    unsigned kinds;
} rows[] = {
    {"create", attack_create, A_FRESH_NAME, DIRS},
    {"tmpfile", attack_tmpfile, A_FRESH_NAME, DIRS},
    {"mkdir", attack_mkdir, A_FRESH_NAME, DIRS},
    {"symlink", attack_symlink, A_FRESH_NAME, DIRS},
    {"mknod", attack_mknod, A_FRESH_NAME, DIRS},
    {"link", attack_link, A_FILE, DIRS | FILES},
    {"rename", attack_rename, A_FILE, DIRS | FILES},
    {"rename-dir", attack_rename, A_DIR, DIRS},
    {"rename-over", attack_rename_over, A_FILE, DIRS | FILES},
    {"unlink", attack_unlink, A_FILE, DIRS | FILES},
    {"rmdir", attack_rmdir, A_DIR, DIRS},
    {"open-write", attack_open_write, A_FILE, DIRS | FILES},
    {"open-trunc", attack_open_trunc, A_FILE, DIRS | FILES},
    {"open-append", attack_open_append, A_FILE, DIRS | FILES},
    {"truncate", attack_truncate, A_FILE, DIRS | FILES},
    {"ftruncate-ro", attack_ftruncate, A_FILE, DIRS | FILES},
    {"fallocate-ro", attack_fallocate, A_FILE, DIRS | FILES},
    {"access", attack_access, THE_PATH, DIRS | FILES},
    {"chmod", attack_chmod, THE_PATH, DIRS | FILES},
    {"chown", attack_chown, THE_PATH, ALL},
    {"utimes", attack_utimes, THE_PATH, ALL},
    {"setxattr-user", attack_set_user_xattr, THE_PATH, DIRS | FILES},
    {"setxattr-trusted", attack_set_trusted_xattr, THE_PATH, ALL},
    {"removexattr", attack_remove_xattr, THE_PATH, ALL},
    {"setflags", attack_setflags, THE_PATH, DIRS | FILES},
    {"chmod-file", attack_chmod, A_FILE, DIRS},
    {"chown-file", attack_chown, A_FILE, DIRS},
    {"utimes-file", attack_utimes, A_FILE, DIRS},
    {"setxattr-file", attack_set_user_xattr, A_FILE, DIRS},
    {"rename-self", attack_rename, THE_PATH, DIRS | OTHERS},
    {"rename-parents", attack_rename_parents, THE_PATH, ALL},
    {"remount", attack_remount, THE_PATH, ALL},
};

static const struct row super_row = {"remount-super", attack_remount_super, THE_PATH, ALL};

static void put_outcome(const struct row *row, const struct outcome *outcome, struct json *j)
{
    json_open(j, '{');
    json_put_string(j, "name", row->name);
    json_put_errno(j, "errno", outcome->err);
    json_put_bool(j, "effect", outcome->effect);
    if (outcome->effect)
        json_put_bool(j, "restored", outcome->restored);
    if (outcome->detail[0])
        json_put_string(j, "detail", outcome->detail);
    if (outcome->skipped)
        json_put_string(j, "skipped", outcome->skipped);
    json_close(j, '}');
}

static const char *victim_of(const struct target *target, enum victim victim, const char **missing)
{
    const char *path = target->path;
    if (victim == A_FRESH_NAME)
        path = target->fresh, *missing = "the name would be too long";
    else if (victim == A_FILE)
        path = target->file, *missing = "no regular file below";
    else if (victim == A_DIR)
        path = target->dir, *missing = "no directory below";
    return path;
}

static void try_row(const struct row *row, const struct target *target, struct json *j)
{
    struct outcome outcome = {0};
    const char *missing = NULL;
    unsigned kind = target->is_dir ? DIRS : S_ISREG(target->mode) ? FILES : OTHERS;
    if (!(row->kinds & kind))
        return;
    const char *victim = victim_of(target, row->victim, &missing);
    if (*victim)
        row->attack(target, victim, &outcome);
    else
        outcome.skipped = missing;
    put_outcome(row, &outcome, j);
}

static void put_path(struct json *j, const char *key, const char *path)
{
    json_key(j, key);
    json_path(j, path);
}

static void put_mount(const struct mount_row *mount, struct json *j)
{
    json_key(j, "mount");
    json_open(j, '{');
    json_put_number(j, "id", mount->id);
    put_path(j, "point", mount->point);
    json_put_string(j, "fstype", mount->fstype);
    json_put_string(j, "options", mount->options);
    json_put_string(j, "super", mount->super);
    json_close(j, '}');
}

void op_attack(const struct op *op, struct json *j)
{
    static struct target target;
    if (op->argc > 1 && strcmp(op->argv[1], "remount=super")) {
        json_put_string(j, "error", "unknown option");
        return;
    }
    int err = find_target(op->argv[0], &target);
    json_put_errno(j, "errno", err);
    if (err)
        return;
    json_put_string(j, "type", type_name(target.mode));
    put_path(j, "file", target.file);
    put_path(j, "dir", target.dir);
    put_mount(&target.mount, j);
    json_key(j, "attacks");
    json_open(j, '[');
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        try_row(&rows[i], &target, j);
    if (op->argc > 1)
        try_row(&super_row, &target, j);
    json_close(j, ']');
}
