# SPDX-License-Identifier: MIT
"""A layout becomes checks; a booted image is judged by them."""
