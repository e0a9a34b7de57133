# SPDX-License-Identifier: MIT
"""A tree and generated entries become squashfs, initrd and manifest."""
