# SPDX-License-Identifier: MIT
"""`python -m rofs`."""

from rofs.cli import main

main()
