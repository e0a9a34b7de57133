# SPDX-License-Identifier: MIT
"""One profile built many times in random circumstances: see __main__."""
