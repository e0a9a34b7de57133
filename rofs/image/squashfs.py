# SPDX-License-Identifier: MIT
"""Tars of the tree + generated entries -> a squashfs, without privilege or scratch tree.

Through tar2sqfs, or with a cache of compressed blocks through the library it stands on, to the same bytes.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rofs.entry import Entry
from rofs.errors import ImageError, ToolError
from rofs.image.lz4tables import unexpand_tables
from rofs.image.merge import Sink, merge, merge_into
from rofs.image.records import Records
from rofs.image.union import Note, Resolve
from rofs.profile import ImageOptions
from rofs.run import check_stopped, run, stoppable

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
    blocks: Path | None = None,
) -> Records:
    """Write `out` and say what is in it; parameters as in `merge`.

    With `blocks`, the directory of a cache, blocks that were compressed before are taken from it, by libsquashfs;
    where that cannot be, tar2sqfs writes the image, and `note` hears why. The bytes are the same, and do not depend
    on `jobs`. ImageError where the tree cannot become a squashfs whole, ToolError where tar2sqfs fails otherwise;
    then there is no `out`.
    """
    jobs = jobs or len(os.sched_getaffinity(0))

    said: set[str] = set()

    def once(text: str) -> None:
        if text not in said:  # the tree may be merged twice
            said.add(text)
            note(text)

    about: dict[str, Any] = {
        "epoch": epoch,
        "acl": options.acl,
        "resolve": resolve,
        "keep_times": keep_times,
        "note": once,
    }

    def stream(fd: int) -> Records:
        return merge(tars, entries, drop, fd, **about)

    def into(sink: Sink) -> Records:
        return merge_into(sink, tars, entries, drop, **about)

    try:
        records = None
        if blocks is not None:
            records = _write_reusing(out, into, blocks, options=options, epoch=epoch, jobs=jobs, log=log, note=once)
        if records is None:
            argv = tar2sqfs_argv(out, options, epoch, jobs)
            records = _write_by_tool(argv, stream, epoch=epoch, log=log, timeout_s=timeout_s)
        unexpand_tables(out)
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    return records


def _write_by_tool(
    argv: Sequence[str],
    stream: Callable[[int], Records],
    *,
    epoch: int,
    log: Path | None,
    timeout_s: float | None,
) -> Records:
    lines: list[str] = []
    with _piped(stream) as (reading, records):
        env = {"SOURCE_DATE_EPOCH": str(epoch)}
        run(argv, stdin=reading, log=log, timeout_s=timeout_s, env=env, on_line=lines.append)
    _check_words(lines)
    return records


def _write_reusing(
    out: Path,
    into: Callable[[Sink], Records],
    directory: Path,
    *,
    options: ImageOptions,
    epoch: int,
    jobs: int,
    log: Path | None,
    note: Note,
) -> Records | None:
    """Write `out` through the library, or say why not: then None."""
    from rofs.image.blockcache import open_blocks
    from rofs.image.blockcompressor import make_config, shape_of
    from rofs.image.libsquashfs import LibraryError, find_library
    from rofs.image.squashwriter import SquashWriter

    library, reason = find_library(options.compression)
    if library is None:
        note(f"compressed blocks are not reused: {reason}")
        return None
    chosen = library

    def work() -> Records:
        shape = shape_of(chosen, make_config(chosen, options))
        with open_blocks(directory, shape, note=note) as blocks:
            with SquashWriter(chosen, out, blocks, options=options, epoch=epoch, jobs=jobs, stop=check_stopped) as sink:
                records = into(sink)
                sink.finish()
            if log is not None:
                with log.open("a", encoding="utf-8") as file:
                    file.write(f"libsquashfs: {blocks.hits} blocks reused, {blocks.misses} compressed\n")
        return records

    (result,) = stoppable(work)  # in a thread: no signal handler may raise where the library calls back
    if isinstance(result, LibraryError):
        note(f"compressed blocks are not reused: {result}")
        return None
    if isinstance(result, BaseException):
        raise result
    return result


@contextmanager
def _piped(write: Callable[[int], Records]) -> Iterator[tuple[int, Records]]:
    """Run `write` in a thread on a pipe -> the pipe's other end, and the records, filled in at the end.

    What stopped the writer counts before the reader's ToolError, which is then only its consequence,
    unless the writer merely lost its reader.
    """
    reading, writing = os.pipe()
    records = Records()
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
