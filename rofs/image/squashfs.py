# SPDX-License-Identifier: MIT
"""Tars of the tree + generated entries -> a squashfs, through tar2sqfs, without privilege or scratch tree."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rofs.entry import Entry
from rofs.errors import ImageError, ToolError
from rofs.image.lz4tables import unexpand_tables
from rofs.image.merge import FileRecord, merge
from rofs.image.union import Note, Resolve
from rofs.profile import ImageOptions
from rofs.run import run

_LEFT_OUT = re.compile(r"warning|skip|unsupported|not support|ignor", re.IGNORECASE)


def tar2sqfs_argv(out: Path, options: ImageOptions, epoch: int, jobs: int) -> list[str]:
    """tar2sqfs(1), the tar on its stdin.

    lz4 has no levels: any level asks for its slower `hc`. The default mtime is the superblock's too, and
    that of directories no member names.
    """
    argv = ["tar2sqfs", "--quiet", "--force", "--no-skip", "--compressor", options.compression]
    if options.level is not None:
        argv += ["--comp-extra", "hc" if options.compression == "lz4" else f"level={options.level}"]
    argv += ["--block-size", str(options.block_size), "--dev-block-size", "4096", "--num-jobs", str(jobs)]
    return [*argv, "--defaults", f"uid=0,gid=0,mode=0755,mtime={epoch}", str(out)]


def write_squashfs(
    out: Path,
    tars: Sequence[Path],
    entries: Sequence[Entry],
    *,
    options: ImageOptions,
    epoch: int,
    resolve: Resolve,
    drop: Sequence[str] = (),
    keep_times: bool = False,
    jobs: int | None = None,
    log: Path | None = None,
    timeout_s: float | None = None,
    note: Note = lambda _: None,
) -> list[FileRecord]:
    """Write `out` and say what is in it, sorted by path; parameters as in `merge`.

    The bytes do not depend on `jobs`. ImageError where the tree cannot become a squashfs whole,
    ToolError where tar2sqfs fails otherwise; then there is no `out`.
    """
    lines: list[str] = []
    argv = tar2sqfs_argv(out, options, epoch, jobs or os.cpu_count() or 1)

    def write(fd: int) -> list[FileRecord]:
        acl = options.acl
        return merge(tars, entries, drop, fd, epoch=epoch, acl=acl, resolve=resolve, keep_times=keep_times, note=note)

    try:
        with _piped(write) as (reading, records):
            env = {"SOURCE_DATE_EPOCH": str(epoch)}
            run(argv, stdin=reading, log=log, timeout_s=timeout_s, env=env, on_line=lines.append)
        _check_words(lines)
        unexpand_tables(out)
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    return records


@contextmanager
def _piped(write: Callable[[int], list[FileRecord]]) -> Iterator[tuple[int, list[FileRecord]]]:
    """Run `write` in a thread on a pipe -> the pipe's other end, and the records, filled in at the end.

    What stopped the writer counts before the reader's ToolError, which is then only its consequence,
    unless the writer merely lost its reader.
    """
    reading, writing = os.pipe()
    records: list[FileRecord] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            records.extend(write(writing))
        except BrokenPipeError:
            pass  # the reader's failure says more
        except BaseException as error:  # noqa: BLE001 -- raised again in the caller's thread
            failures.append(error)
        finally:
            os.close(writing)

    thread = threading.Thread(target=work, name="merge", daemon=True)
    thread.start()
    tool_error: ToolError | None = None
    unread = False
    try:
        yield reading, records
        unread = any(any(piece) for piece in iter(lambda: os.read(reading, 1 << 16), b""))
    except ToolError as error:
        tool_error = error
    finally:
        os.close(reading)  # a writer that nobody reads from gets EPIPE
        thread.join()
    if failures:
        raise failures[0]
    if tool_error is not None:
        raise tool_error
    if unread:  # the zeros of the end may be
        raise ImageError("the image writer ended without reading the whole tree")


def _check_words(lines: Sequence[str]) -> None:
    """tar2sqfs leaves some things out with a word and status 0."""
    left_out = [line for line in lines if _LEFT_OUT.search(line)]
    if left_out:
        raise ImageError("tar2sqfs left something out: " + "; ".join(left_out[:5]))
