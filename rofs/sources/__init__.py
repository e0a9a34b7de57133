# SPDX-License-Identifier: MIT
"""Where the tree comes from."""
