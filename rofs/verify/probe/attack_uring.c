// SPDX-License-Identifier: MIT
/* A file opened and written by io_uring: the kernel does both, in no call of this process. */
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* a queue of one entry; all of it goes with the process */
struct ring {
    int fd;
    struct io_uring_params params;
    char *submitted;
    char *completed;
    struct io_uring_sqe *entries;
};

static void *map_ring(const struct ring *ring, size_t size, off_t what)
{
    return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, what);
}

static int open_ring(struct ring *ring)
{
    *ring = (struct ring){0};
    struct io_uring_params *p = &ring->params;
    ring->fd = (int)syscall(SYS_io_uring_setup, 1, p);
    if (ring->fd < 0)
        return errno;
    ring->submitted = map_ring(ring, p->sq_off.array + p->sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
    ring->completed = map_ring(ring, p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
    ring->entries = map_ring(ring, p->sq_entries * sizeof *ring->entries, IORING_OFF_SQES);
    bool mapped = ring->submitted != MAP_FAILED && ring->completed != MAP_FAILED && ring->entries != MAP_FAILED;
    return mapped ? 0 : ENOMEM;
}

/* one operation, waited for -> its result, a negative errno when it failed */
static int do_by_ring(struct ring *ring, const struct io_uring_sqe *entry)
{
    unsigned *tail = (unsigned *)(ring->submitted + ring->params.sq_off.tail);
    unsigned *array = (unsigned *)(ring->submitted + ring->params.sq_off.array);
    unsigned *head = (unsigned *)(ring->completed + ring->params.cq_off.head);
    unsigned *mask = (unsigned *)(ring->completed + ring->params.cq_off.ring_mask);
    struct io_uring_cqe *results = (struct io_uring_cqe *)(ring->completed + ring->params.cq_off.cqes);
    ring->entries[0] = *entry;
    array[*tail % ring->params.sq_entries] = 0;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, ring->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
        return -errno;
    int result = results[*head & *mask].res;
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    return result;
}

static int open_by_ring(struct ring *ring, const char *path)
{
    struct io_uring_sqe entry = {
        .opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .addr = (uintptr_t)path, .open_flags = O_RDWR | O_NOFOLLOW,
    };
    return do_by_ring(ring, &entry);
}

static int write_by_ring(struct ring *ring, int fd, const void *data, unsigned length)
{
    struct io_uring_sqe entry = {
        .opcode = IORING_OP_WRITE, .fd = fd, .addr = (uintptr_t)data, .len = length,
    };
    return do_by_ring(ring, &entry);
}

static void write_and_look(struct ring *ring, int fd, const char *victim, struct outcome *o)
{
    struct saved saved;
    save_attributes(victim, &saved);
    int before = first_byte(victim);
    unsigned char other = other_byte(before);
    int written = write_by_ring(ring, fd, &other, 1);
    o->err = written < 0 ? -written : 0;
    judge_first_byte(fd, victim, before, &saved, o);
}

/* a kernel may have none, an administrator may forbid it, and before 5.6 it opens no file */
static bool has_none(int setup_err, int open_err)
{
    return setup_err == ENOSYS || setup_err == EPERM || (!setup_err && open_err == EINVAL);
}

void attack_io_uring(const struct target *t, const char *victim, struct outcome *o)
{
    struct ring ring;
    (void)t;
    int setup_err = open_ring(&ring);
    int fd = setup_err ? -setup_err : open_by_ring(&ring, victim);
    o->err = fd < 0 ? -fd : 0;
    if (has_none(setup_err, o->err))
        o->skipped = "no io_uring";
    if (fd >= 0) {
        write_and_look(&ring, fd, victim, o);
        close(fd);
    }
    if (ring.fd >= 0)
        close(ring.fd);
}
