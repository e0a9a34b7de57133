# SPDX-License-Identifier: MIT
"""Members of the image -> a squashfs through libsquashfs: the bytes that tar2sqfs 1.x writes for the same stream.

Blocks, fragments, duplicates, metadata and attributes are the library's; `inodes` has the order of the tree.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import ExitStack
from ctypes import (
    Array,
    addressof,
    byref,
    c_char,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
    create_string_buffer,
    memmove,
    memset,
    sizeof,
)
from pathlib import Path
from typing import Self

from rofs.image.blockcache import Blocks
from rofs.image.blockcompressor import CachingCompressor, create, make_config
from rofs.image.inodes import NO_XATTRS, Inodes
from rofs.image.libsquashfs import (
    EXT_FILE,
    HAS_COMPRESSOR_OPTIONS,
    KEEP_IN_MEMORY,
    OVERWRITE,
    File,
    Library,
    LibraryError,
    ProcessorDesc,
    Super,
    check,
    destroy,
)
from rofs.image.merge import Pieces, Stored
from rofs.image.tarstream import Header
from rofs.profile import ImageOptions
from rofs.treefacts import Kind

DEVICE_BLOCK_BYTES = 4096
_BACKLOG_BYTES = 16 << 20
"""Of blocks that wait for a thread, or for one before them: a small file takes the place of one, and some 60 of them
make a block, so that with few places two threads would never both have work. The number does not show in the image."""
_SLOTS = 4096
_BASE = struct.Struct("<HHHHII")
"""sqfs_inode_t: type, mode, indexes of uid and gid, mtime, number."""
_TYPE = struct.Struct("<H")
_WORD = struct.Struct("<I")
_TWO_WORDS = struct.Struct("<II")
_INODE_BYTES = 64
"""sqfs_inode_generic_t: what follows it is a link's target or a file's blocks."""
_AT_DATA = 24
"""Where its union is, that begins with `nlink` but in a directory's basic form and a file's two."""
_AT_NLINK_OF_DIR, _AT_NLINK_OF_FILE = 28, 48
_TYPES: dict[Kind, int] = {"dir": 1, "file": 2, "symlink": 3, "block": 4, "char": 5, "fifo": 6}


class SquashWriter:
    """A sink of `merge_into` that writes what belongs to all members by `finish`; a context manager.

    LibraryError where the library fails; then the image is not whole. For a thread that is not the main one (see
    `blockcompressor`). `stop` is called at each member, to raise where the work shall end.
    """

    def __init__(
        self,
        library: Library,
        out: Path,
        blocks: Blocks,
        *,
        options: ImageOptions,
        epoch: int,
        jobs: int,
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._c, self._stop, self._stack = library.c, stop, ExitStack()
        self._tree = Inodes()
        self._slots: list[Array[c_void_p]] = []
        self._used_slots = 0
        self._ids: dict[int, int] = {}
        self._super = Super()
        with ExitStack() as stack:
            self._open(stack, library, out, blocks, options, epoch, jobs)
            self._stack = stack.pop_all()

    def _open(
        self,
        stack: ExitStack,
        library: Library,
        out: Path,
        blocks: Blocks,
        options: ImageOptions,
        epoch: int,
        jobs: int,
    ) -> None:
        """Make the library's objects; `stack` destroys them the other way round, the threads' owner before theirs."""
        c = self._c

        def own(pointer: int | None, what: str) -> int:
            if not pointer:
                raise LibraryError(f"libsquashfs: cannot make {what}")
            stack.callback(destroy, pointer)
            return pointer

        config = make_config(library, options)
        self._file = own(c.sqfs_open_file(os.fsencode(out), OVERWRITE), f"{out}")
        self._compressor = CachingCompressor(library, config, blocks)
        stack.callback(self._compressor.close)
        cmp = self._cmp = self._compressor.address
        uncompressor = own(create(library, config, uncompress=True), "a decompressor")
        check(c.sqfs_super_init(byref(self._super), options.block_size, epoch, library.codec), "super block")
        check(c.sqfs_super_write(byref(self._super), self._file), "super block")
        written = self._compressor.write_options(self._file)
        check(written, "compressor options")
        self._super.flags |= HAS_COMPRESSOR_OPTIONS if written else 0
        writer = own(c.sqfs_block_writer_create(self._file, DEVICE_BLOCK_BYTES, 0), "a block writer")
        self._fragments = own(c.sqfs_frag_table_create(0), "a fragment table")
        stack.callback(self._free_inodes)
        backlog = max(2 * jobs, _BACKLOG_BYTES // options.block_size)
        desc = ProcessorDesc(
            size=sizeof(ProcessorDesc),
            max_block_size=options.block_size,
            num_workers=jobs,
            max_backlog=backlog,
            cmp=cmp,
            wr=writer,
            tbl=self._fragments,
            file=self._file,
            uncmp=uncompressor,
        )
        processor = c_void_p()
        check(c.sqfs_block_processor_create_ex(byref(desc), byref(processor)), "block processor")
        self._processor = own(processor.value, "a block processor")
        self._id_table = own(c.sqfs_id_table_create(0), "an id table")
        self._xattrs = own(c.sqfs_xattr_writer_create(0), "an attribute writer")
        self._inode_table = own(c.sqfs_meta_writer_create(self._file, cmp, 0), "an inode table")
        self._dir_table = own(c.sqfs_meta_writer_create(self._file, cmp, KEEP_IN_MEMORY), "a directory table")
        self._dirs = own(c.sqfs_dir_writer_create(self._dir_table, 0), "a directory writer")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, header: Header, content: Pieces, stored: Stored | None) -> None:
        """Take a member."""
        self._stop()
        node = self._tree.add(header)
        if header.kind == "hardlink":
            return
        if header.xattrs:
            # Their order shows in the image: tar2sqfs has the last record first, and new records are sorted.
            pairs = list(header.xattrs.items()) if stored else sorted(header.xattrs.items())
            self._tree.xattrs[node] = self._add_xattrs(pairs[::-1])
        if header.kind == "file":
            self._tree.extras[node] = self._add_file(content)

    def _check(self, status: int, doing: str) -> None:
        """LibraryError for an error, and where a block could not be compressed, which is none to the library."""
        failure = self._compressor.failure
        if status < 0 or failure is not None:
            reason = f"error {status}" if failure is None else repr(failure)
            raise LibraryError(f"libsquashfs: {doing}: {reason}") from failure

    def _add_xattrs(self, pairs: list[tuple[str, bytes]]) -> int:
        c, found = self._c, c_uint32()
        self._check(c.sqfs_xattr_writer_begin(self._xattrs, 0), "attributes")
        for name, value in pairs:
            self._check(c.sqfs_xattr_writer_add(self._xattrs, os.fsencode(name), value, len(value)), "attributes")
        self._check(c.sqfs_xattr_writer_end(self._xattrs, byref(found)), "attributes")
        return found.value

    def _add_file(self, content: Pieces) -> int:
        """Hand a file's content to the threads -> the address where its inode's address will be."""
        c, processor = self._c, self._processor
        if self._used_slots % _SLOTS == 0:
            self._slots.append((c_void_p * _SLOTS)())
        slot = addressof(self._slots[-1]) + self._used_slots % _SLOTS * sizeof(c_void_p)
        self._used_slots += 1
        self._check(c.sqfs_block_processor_begin_file(processor, slot, None, 0), "file")
        for piece in content:
            if piece:  # of none the library would crash
                self._check(c.sqfs_block_processor_append(processor, piece, len(piece)), "file data")
        self._check(c.sqfs_block_processor_end_file(processor), "end of file")
        return slot

    def finish(self) -> None:
        """Write the rest of the image."""
        c, head = self._c, byref(self._super)
        self._check(c.sqfs_block_processor_finish(self._processor), "data blocks")
        self._write_tree()
        self._check(c.sqfs_frag_table_write(self._fragments, self._file, head, self._cmp), "fragment table")
        self._check(c.sqfs_id_table_write(self._id_table, self._file, head, self._cmp), "id table")
        self._check(c.sqfs_xattr_writer_flush(self._xattrs, self._file, head, self._cmp), "attributes")
        self._super.bytes_used = size_bytes = self._size()
        self._check(c.sqfs_super_write(head, self._file), "super block")
        padding = create_string_buffer(-size_bytes % DEVICE_BLOCK_BYTES or 1)
        if size_bytes % DEVICE_BLOCK_BYTES:
            file = File.from_address(self._file)
            self._check(file.write_at(self._file, size_bytes, addressof(padding), len(padding)), "padding")

    def _size(self) -> int:
        return int(File.from_address(self._file).get_size(self._file))

    def _write_tree(self) -> None:
        c, tree = self._c, self._tree
        order = tree.ordered()
        self._super.inode_count, self._super.inode_table_start = len(order), self._size()
        scratch = create_string_buffer(_INODE_BYTES + max(map(len, tree.targets.values()), default=0))
        block, offset = c_uint64(), c_uint32()
        for node in order:
            self._stop()
            inode = self._inode_of(node, scratch)
            try:
                c.sqfs_meta_writer_get_position(self._inode_table, byref(block), byref(offset))
                tree.refs[node] = block.value << 16 | offset.value
                self._check(c.sqfs_meta_writer_write_inode(self._inode_table, inode), "inode")
            finally:
                if inode != addressof(scratch):
                    c.sqfs_free(inode)
        self._check(c.sqfs_meta_writer_flush(self._inode_table), "inodes")
        self._check(c.sqfs_meta_writer_flush(self._dir_table), "directories")
        self._super.root_inode_ref, self._super.directory_table_start = tree.refs[order[-1]], self._size()
        self._check(c.sqfs_meta_write_write_to_file(self._dir_table), "directories")

    def _inode_of(self, node: int, scratch: Array[c_char]) -> int:
        """The address of an inode, in `scratch` or the library's memory, which is to be freed."""
        about, xattrs = self._tree.abouts[node], self._tree.xattrs.get(node, NO_XATTRS)
        uid, gid = self._id(about.uid), self._id(about.gid)
        if about.kind == "dir":
            address = self._make_dir(node, xattrs)
        elif about.kind == "file":
            address = self._take_file(node)
        else:
            address = self._fill(node, about.kind, scratch)
        view = (c_char * _INODE_BYTES).from_address(address)
        (kind,) = _TYPE.unpack_from(view)
        _BASE.pack_into(view, 0, kind, about.mode, uid, gid, about.mtime, self._tree.numbers[node])
        if xattrs != NO_XATTRS or kind >= EXT_FILE:
            self._check(self._c.sqfs_inode_set_xattr_index(address, xattrs), "attributes of an inode")
        return address

    def _make_dir(self, node: int, xattrs: int) -> int:
        c, dirs, tree = self._c, self._dirs, self._tree
        folder = tree.folders[node]
        self._check(c.sqfs_dir_writer_begin(dirs, 0), "directory")
        for name, child in folder:
            number, mode = tree.numbers[child], tree.abouts[child].mode
            self._check(c.sqfs_dir_writer_add_entry(dirs, name, number, tree.refs[child], mode), "directory")
        self._check(c.sqfs_dir_writer_end(dirs), "directory")
        above = 0 if folder.above is None else tree.numbers[folder.above]
        address = c.sqfs_dir_writer_create_inode(dirs, 0, xattrs, above)
        if not address:
            raise LibraryError("libsquashfs: cannot make a directory's inode")
        view = (c_char * _INODE_BYTES).from_address(address)
        basic = _TYPE.unpack_from(view)[0] == _TYPES["dir"]
        _WORD.pack_into(view, _AT_NLINK_OF_DIR if basic else _AT_DATA, tree.links[node])
        return int(address)

    def _take_file(self, node: int) -> int:
        slot, links = c_void_p.from_address(self._tree.extras[node]), self._tree.links[node]
        address, slot.value = slot.value, None
        if not address:
            raise LibraryError("libsquashfs: a file without an inode")
        view = (c_char * _INODE_BYTES).from_address(address)
        if links > 1 and _TYPE.unpack_from(view)[0] == _TYPES["file"]:
            self._check(self._c.sqfs_inode_make_extended(address), "inode of a file")
        if _TYPE.unpack_from(view)[0] == EXT_FILE:
            _WORD.pack_into(view, _AT_NLINK_OF_FILE, links)
        return address

    def _fill(self, node: int, kind: Kind, scratch: Array[c_char]) -> int:
        """An inode of its own making: symbolic links, devices, fifos."""
        memset(scratch, 0, _INODE_BYTES)
        _TYPE.pack_into(scratch, 0, _TYPES[kind])
        links, target = self._tree.links[node], self._tree.targets.get(node)
        if target is not None:
            _TWO_WORDS.pack_into(scratch, _AT_DATA, links, len(target))
            memmove(addressof(scratch) + _INODE_BYTES, target, len(target))
        else:
            _TWO_WORDS.pack_into(scratch, _AT_DATA, links, self._tree.extras[node])
        return addressof(scratch)

    def _id(self, number: int) -> int:
        """The index of a uid or gid."""
        if number not in self._ids:
            index = c_uint16()
            self._check(self._c.sqfs_id_table_id_to_index(self._id_table, number, byref(index)), "ids")
            self._ids[number] = index.value
        return self._ids[number]

    def _free_inodes(self) -> None:
        """Those of files that were not written, after an error."""
        for slots in self._slots:
            for address in slots:
                if address:
                    self._c.sqfs_free(address)
