// SPDX-License-Identifier: MIT
/*
 * Attacks on the mount. Remount's own answer means little: on squashfs it succeeds and mountinfo then
 * says rw, while nothing can be written. So a write is tried: its errno counts, and its effect.
 */
#include "attack.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mount.h>

static void write_again(const struct target *t, struct outcome *second)
{
    if (t->is_dir)
        attack_create(t, t->fresh, second);
    else if (t->file[0])
        attack_open_write(t, t->file, second);
    else
        attack_utimes(t, t->path, second);
}

static int remount(const struct mount_row *row, unsigned long flags)
{
    return mount("none", row->point, NULL, MS_REMOUNT | row->flags | flags, NULL);
}

static bool restore_mount(const struct mount_row *row)
{
    struct mount_row now = {0};
    if (remount(row, MS_BIND | (row->read_only ? MS_RDONLY : 0)) < 0)
        return false;
    return find_mount(row->id, &now) && now.read_only == row->read_only &&
           now.super_read_only == row->super_read_only && now.flags == row->flags;
}

/* after the remount, whose errno is in `o` */
static void judge(const struct target *t, struct outcome *o)
{
    struct outcome second = {0};
    char point[512];
    write_again(t, &second);
    o->effect = second.effect;
    o->err = o->err ? o->err : second.err;
    o->restored = !second.effect || second.restored;
    percent_encode(t->mount.point, point, sizeof point);
    snprintf(o->detail, sizeof o->detail, "%s then %s", point, second.err ? errno_name(second.err) : "written");
}

void attack_remount(const struct target *t, const char *victim, struct outcome *o)
{
    (void)victim;
    if (!t->mount.point[0]) {
        o->skipped = "mount not found";
        return;
    }
    bool remounted = remount(&t->mount, MS_BIND) == 0;
    o->err = remounted ? 0 : errno;
    judge(t, o);
    if (remounted)
        o->restored &= restore_mount(&t->mount);
}

/* of the file system itself, not of this mount alone */
void attack_remount_super(const struct target *t, const char *victim, struct outcome *o)
{
    (void)victim;
    if (!t->mount.point[0]) {
        o->skipped = "mount not found";
        return;
    }
    bool remounted = remount(&t->mount, 0) == 0;
    o->err = remounted ? 0 : errno;
    judge(t, o);
    if (!remounted)
        return;
    if (t->mount.super_read_only)
        (void)remount(&t->mount, MS_RDONLY);
    o->restored &= restore_mount(&t->mount);
}
