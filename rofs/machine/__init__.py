# SPDX-License-Identifier: MIT
"""The machine an image is booted on: architectures, accelerators, disks, QEMU."""
