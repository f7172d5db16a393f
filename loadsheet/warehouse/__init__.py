"""Writes the warehouse: ledger, fence, loads, swaps, merges, drift, marts."""
