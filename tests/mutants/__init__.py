# SPDX-License-Identifier: MIT
"""Good images broken in one way each, and what `rofs verify` says of them: README.md."""
