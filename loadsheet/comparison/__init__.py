"""Hashes a table the same way on source and warehouse, and finds the rows by which they differ."""
