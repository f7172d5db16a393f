"""Benchmarks: what was measured before a choice was made; run one as `python -m bench.<name>`."""
