# SPDX-License-Identifier: MIT
"""A device's tag and a size -> an empty ext4 file system, the image that such a partition starts from.

The same arguments give the same bytes, whatever the host's mke2fs.conf says: it is replaced by one that
defines nothing, and the features are named. Kernel 5.10 and e2fsprogs 1.46 know them all; those that
came later (orphan_file, metadata_csum_seed, large_dir) are left out. The inode tables and the journal are
zeroed here, so that no kernel thread does it on the device, in the first minutes of its life.
"""

from __future__ import annotations

import os
from pathlib import Path
from uuid import NAMESPACE_URL, UUID, uuid5

from rofs.run import run

BLOCK_BYTES = 4096
MIN_BYTES = 8 * 1024 * 1024
"""mke2fs gives anything smaller no journal, with a word and status 0."""

SMALL_BYTES = 512 * 1024 * 1024
LABEL_BYTES = 16

FEATURES = (
    "has_journal", "ext_attr", "resize_inode", "dir_index", "filetype", "extent", "64bit", "flex_bg",
    "sparse_super", "large_file", "huge_file", "dir_nlink", "extra_isize", "metadata_csum",
)  # fmt: skip

_CONFIG = b"[fs_types]\n\text4 = {\n\t\tfeatures = none\n\t}\n"


def make_filesystem(out: Path, *, device: str, size_bytes: int, seed: str, epoch: int, log: Path | None = None) -> None:
    """Write `out`, sparse and of exactly `size_bytes`, for `device`: "LABEL=state" or "UUID=...".

    Whatever mke2fs would draw by lot comes from `seed`, the UUID of a labelled one too. `epoch` is every
    time in it. ValueError for a tag that ext4 cannot carry, or a size too small for a journal.
    """
    if size_bytes < MIN_BYTES:
        raise ValueError(f"{size_bytes} bytes: an ext4 with a journal takes {MIN_BYTES}")
    argv = mkfs_argv(out, device, size_bytes, seed)
    out.unlink(missing_ok=True)
    out.touch()
    os.truncate(out, size_bytes)
    now = str(max(epoch, 1))  # to mke2fs, 0 is no time at all
    env = {"E2FSPROGS_FAKE_TIME": now, "SOURCE_DATE_EPOCH": now, "MKE2FS_CONFIG": "/dev/stdin"}
    run(argv, log=log, stdin=_CONFIG, env=env)


def mkfs_argv(out: Path, device: str, size_bytes: int, seed: str) -> list[str]:
    """mke2fs(8)'s words. More inodes for a small one, as mke2fs.conf(5) usually has it."""
    label, uuid = _names(device, seed)
    argv = ["mkfs.ext4", "-q", "-T", "default", "-O", ",".join(("none", *FEATURES))]
    argv += ["-b", str(BLOCK_BYTES), "-I", "256", "-i", "4096" if size_bytes < SMALL_BYTES else "16384"]
    argv += ["-G", "16", "-m", "5", "-L", label, "-U", str(uuid)]
    extended = f"hash_seed={_uuid(seed, 'hash')},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    return [*argv, "-E", extended, str(out)]


def _names(device: str, seed: str) -> tuple[str, UUID]:
    """The label, "" for none, and the UUID."""
    tag, _, value = device.partition("=")
    if tag == "UUID":
        return "", UUID(value)
    if tag != "LABEL" or not 0 < len(value.encode()) <= LABEL_BYTES:
        raise ValueError(f"{device}: an ext4 file system carries a UUID= or a LABEL= of 1 to {LABEL_BYTES} bytes")
    return value, _uuid(seed, "uuid")


def _uuid(seed: str, use: str) -> UUID:
    return uuid5(NAMESPACE_URL, f"rofs:{seed}#{use}")
