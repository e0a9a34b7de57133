# SPDX-License-Identifier: MIT
"""rofs: one YAML profile becomes a read-only Linux image, and a proof that it is one."""

__version__ = "0.1.0"
