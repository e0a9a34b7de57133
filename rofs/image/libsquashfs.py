# SPDX-License-Identifier: MIT
"""libsquashfs (squashfs-tools-ng 1.x, soname 1) through ctypes: its functions, its structures, and the gate.

`find_library` says whether the library that tar2sqfs stands on can be used from here, and why not otherwise.
Structures are those of sqfs/*.h of 1.2.0 on a 64-bit machine; the gate tries those that it can. Never PyDLL: its
threads call back into Python, and must find the interpreter's lock free.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from ctypes import (
    CDLL,
    CFUNCTYPE,
    POINTER,
    Structure,
    byref,
    c_char_p,
    c_int,
    c_int32,
    c_size_t,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
    cast,
    memset,
    sizeof,
)
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rofs.errors import ToolError
from rofs.run import find_program, run

SONAME = "libsquashfs.so.1"
ERROR_INTERNAL = -4
NO_XATTRS = 0xFFFFFFFF
KEEP_IN_MEMORY = 1
OVERWRITE = 2
LZ4_HC = 1
UNCOMPRESS = 0x8000
HAS_COMPRESSOR_OPTIONS = 0x0400
EXT_FILE = 9
_MAGIC = 0x73717368

_CODECS: Mapping[str, tuple[int, str, str]] = {
    "gzip": (1, "libz.so.", "deflate"),
    "xz": (4, "liblzma.so.", "lzma_stream_encoder"),
    "lz4": (5, "liblz4.so.", "LZ4_compress_default"),
    "zstd": (6, "libzstd.so.", "ZSTD_compressCCtx"),
}
"""Compressor -> its number, the library that does the work, and a function of it."""


_LOADED = re.compile(r"=> (/.*) \(0x[0-9a-f]+\)$", re.MULTILINE)


class LibraryError(Exception):
    """The library failed, or cannot be trusted; tar2sqfs may still do it."""


DESTROY = CFUNCTYPE(None, c_void_p)
COPY = CFUNCTYPE(c_void_p, c_void_p)
CONFIGURATION = CFUNCTYPE(None, c_void_p, c_void_p)
OPTIONS = CFUNCTYPE(c_int, c_void_p, c_void_p)
DO_BLOCK = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_uint32, c_void_p, c_uint32)
_READ_AT = CFUNCTYPE(c_int, c_void_p, c_uint64, c_void_p, c_size_t)
_SIZE = CFUNCTYPE(c_uint64, c_void_p)
_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_uint64)


class Object(Structure):
    """What every object of the library begins with (sqfs_object_t)."""

    _fields_ = (("destroy", DESTROY), ("copy", COPY))


class Compressor(Structure):
    """sqfs_compressor_t."""

    _fields_ = (
        ("base", Object),
        ("get_configuration", CONFIGURATION),
        ("write_options", OPTIONS),
        ("read_options", OPTIONS),
        ("do_block", DO_BLOCK),
    )


class CompressorConfig(Structure):
    """sqfs_compressor_config_t, its union as it is."""

    _fields_ = (
        ("id", c_uint16),
        ("flags", c_uint16),
        ("block_size", c_uint32),
        ("level", c_uint32),
        ("options", c_uint64 * 2),
    )


class File(Structure):
    """sqfs_file_t."""

    _fields_ = (
        ("base", Object),
        ("read_at", _READ_AT),
        ("write_at", _READ_AT),
        ("get_size", _SIZE),
        ("truncate", _TRUNCATE),
    )


class ProcessorDesc(Structure):
    """sqfs_block_processor_desc_t."""

    _fields_ = (
        ("size", c_uint32),
        ("max_block_size", c_uint32),
        ("num_workers", c_uint32),
        ("max_backlog", c_uint32),
        ("cmp", c_void_p),
        ("wr", c_void_p),
        ("tbl", c_void_p),
        ("file", c_void_p),
        ("uncmp", c_void_p),
    )


class Super(Structure):
    """sqfs_super_t, the super block as it is on disk."""

    _fields_ = (
        ("magic", c_uint32),
        ("inode_count", c_uint32),
        ("modification_time", c_uint32),
        ("block_size", c_uint32),
        ("fragment_entry_count", c_uint32),
        ("compression_id", c_uint16),
        ("block_log", c_uint16),
        ("flags", c_uint16),
        ("id_count", c_uint16),
        ("version_major", c_uint16),
        ("version_minor", c_uint16),
        ("root_inode_ref", c_uint64),
        ("bytes_used", c_uint64),
        ("id_table_start", c_uint64),
        ("xattr_id_table_start", c_uint64),
        ("inode_table_start", c_uint64),
        ("directory_table_start", c_uint64),
        ("fragment_table_start", c_uint64),
        ("export_table_start", c_uint64),
    )


_FUNCTIONS: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
    "sqfs_free": (None, (c_void_p,)),
    "sqfs_open_file": (c_void_p, (c_char_p, c_uint32)),
    "sqfs_compressor_config_init": (c_int, (POINTER(CompressorConfig), c_int, c_size_t, c_uint16)),
    "sqfs_compressor_create": (c_int, (POINTER(CompressorConfig), POINTER(c_void_p))),
    "sqfs_super_init": (c_int, (POINTER(Super), c_size_t, c_uint32, c_int)),
    "sqfs_super_write": (c_int, (POINTER(Super), c_void_p)),
    "sqfs_block_writer_create": (c_void_p, (c_void_p, c_size_t, c_uint32)),
    "sqfs_frag_table_create": (c_void_p, (c_uint32,)),
    "sqfs_frag_table_write": (c_int, (c_void_p, c_void_p, POINTER(Super), c_void_p)),
    "sqfs_block_processor_create_ex": (c_int, (POINTER(ProcessorDesc), POINTER(c_void_p))),
    "sqfs_block_processor_begin_file": (c_int, (c_void_p, c_void_p, c_void_p, c_uint32)),
    "sqfs_block_processor_append": (c_int, (c_void_p, c_void_p, c_size_t)),
    "sqfs_block_processor_end_file": (c_int, (c_void_p,)),
    "sqfs_block_processor_finish": (c_int, (c_void_p,)),
    "sqfs_id_table_create": (c_void_p, (c_uint32,)),
    "sqfs_id_table_id_to_index": (c_int, (c_void_p, c_uint32, POINTER(c_uint16))),
    "sqfs_id_table_write": (c_int, (c_void_p, c_void_p, POINTER(Super), c_void_p)),
    "sqfs_xattr_writer_create": (c_void_p, (c_uint32,)),
    "sqfs_xattr_writer_begin": (c_int, (c_void_p, c_uint32)),
    "sqfs_xattr_writer_add": (c_int, (c_void_p, c_char_p, c_char_p, c_size_t)),
    "sqfs_xattr_writer_end": (c_int, (c_void_p, POINTER(c_uint32))),
    "sqfs_xattr_writer_flush": (c_int, (c_void_p, c_void_p, POINTER(Super), c_void_p)),
    "sqfs_meta_writer_create": (c_void_p, (c_void_p, c_void_p, c_uint32)),
    "sqfs_meta_writer_flush": (c_int, (c_void_p,)),
    "sqfs_meta_writer_get_position": (None, (c_void_p, POINTER(c_uint64), POINTER(c_uint32))),
    "sqfs_meta_write_write_to_file": (c_int, (c_void_p,)),
    "sqfs_meta_writer_write_inode": (c_int, (c_void_p, c_void_p)),
    "sqfs_dir_writer_create": (c_void_p, (c_void_p, c_uint32)),
    "sqfs_dir_writer_begin": (c_int, (c_void_p, c_uint32)),
    "sqfs_dir_writer_add_entry": (c_int, (c_void_p, c_char_p, c_uint32, c_uint64, c_uint16)),
    "sqfs_dir_writer_end": (c_int, (c_void_p,)),
    "sqfs_dir_writer_create_inode": (c_void_p, (c_void_p, c_size_t, c_uint32, c_uint32)),
    "sqfs_inode_set_xattr_index": (c_int, (c_void_p, c_uint32)),
    "sqfs_inode_make_extended": (c_int, (c_void_p,)),
}


@dataclass(frozen=True, slots=True)
class Library:
    """The library, for one compressor of the number `codec`.

    `fingerprint` says which: sha256 of the files of libsquashfs and of the compressor's library as they are loaded.
    """

    c: CDLL
    codec: int
    fingerprint: bytes


@cache
def find_library(compression: str) -> tuple[Library | None, str]:
    """The library for a compressor, or None and the reason."""
    try:
        return _load(compression), ""
    except (LibraryError, OSError, AttributeError) as error:
        return None, str(error)


def _load(compression: str) -> Library:
    if sys.platform != "linux" or sizeof(c_void_p) != 8 or sys.byteorder != "little":
        raise LibraryError("libsquashfs is used on 64-bit little-endian Linux only")
    codec, codec_file, function = _CODECS[compression]
    library = CDLL(SONAME)
    for name, (result, arguments) in _FUNCTIONS.items():
        declared = getattr(library, name)
        declared.restype, declared.argtypes = result, arguments
    _try_structures(library, codec)
    files = (_provider(library, "sqfs_super_init", SONAME), _provider(library, function, codec_file))
    _compare_with_tool(files)
    digests = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    return Library(library, codec, b"".join(digests))


def _try_structures(library: CDLL, codec: int) -> None:
    """Let the library fill what it fills; it compares the size of ProcessorDesc itself."""
    wide = (Super * 2)()
    memset(wide, 0xFF, sizeof(wide))
    library.sqfs_super_init(wide, 131072, 7, codec)
    first = wide[0]
    seen = (first.magic, first.modification_time, first.block_size, first.compression_id, first.version_major)
    if seen != (_MAGIC, 7, 131072, codec, 4) or first.bytes_used != sizeof(Super) or {*bytes(wide[1])} != {0xFF}:
        raise LibraryError(f"{SONAME} has another super block than 1.2.0's")
    configs = (CompressorConfig * 2)()
    memset(configs, 0xFF, sizeof(configs))
    if library.sqfs_compressor_config_init(configs, codec, 131072, 0):
        raise LibraryError(f"{SONAME} lacks the compressor")
    if (configs[0].id, configs[0].block_size) != (codec, 131072) or {*bytes(configs[1])} != {0xFF}:
        raise LibraryError(f"{SONAME} has another compressor configuration than 1.2.0's")
    table = c_void_p()
    if library.sqfs_compressor_create(byref(configs[0]), byref(table)) or not table.value:
        raise LibraryError(f"{SONAME} cannot make the compressor")
    compressor = cast(table, POINTER(Compressor)).contents
    try:
        again = CompressorConfig()
        compressor.get_configuration(table, cast(byref(again), c_void_p))
        if bytes(again) != bytes(configs[0]):
            raise LibraryError(f"{SONAME} has another table of functions than 1.2.0's")
    finally:
        compressor.base.destroy(table)


def _provider(library: CDLL, function: str, name: str) -> Path:
    """The file whose `function` the library calls: what the program itself was linked with goes first."""
    handle = getattr(CDLL(None), function, None) or getattr(library, function)
    address = cast(handle, c_void_p).value or 0
    for line in Path("/proc/self/maps").read_text("utf-8", "surrogateescape").splitlines():
        span, *_, path = line.split(maxsplit=5)
        low, _, high = span.partition("-")
        if int(low, 16) <= address < int(high, 16):
            if not Path(path).name.startswith(name) or path.endswith(" (deleted)"):
                raise LibraryError(f"{function} comes from {path}, not from {name}")
            return Path(path)
    raise LibraryError(f"{function} is in no file")


def _compare_with_tool(files: Iterable[Path]) -> None:
    """LibraryError unless the tar2sqfs of PATH stands on these very files, and so writes the same bytes.

    ld.so(8) says which it would load. Where there is no tar2sqfs, no other image can come of the same profile here.
    """
    program = find_program("tar2sqfs")
    if program is None:
        return
    try:
        said = run(["env", "LD_TRACE_LOADED_OBJECTS=1", program]).stdout
    except ToolError:
        said = ""
    loaded = {os.path.realpath(path) for path in _LOADED.findall(said)}
    for file in files:
        if os.path.realpath(file) not in loaded:
            raise LibraryError(f"{program} does not stand on {file}")


def check(status: int, doing: str) -> None:
    """LibraryError for a negative status (sqfs/error.h)."""
    if status < 0:
        raise LibraryError(f"libsquashfs: {doing}: error {status}")


def destroy(pointer: int | None) -> None:
    """Let an object of the library go, if it was made."""
    if pointer:
        Object.from_address(pointer).destroy(pointer)
