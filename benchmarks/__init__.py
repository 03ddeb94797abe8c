"""Benchmarks of vclab: the asv suite, the exact counts that gate it, and the C twin that is its speed limit."""
