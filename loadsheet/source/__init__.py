"""Reads the source: catalogs, identity, hold-back, which rows to read, and reading them."""
