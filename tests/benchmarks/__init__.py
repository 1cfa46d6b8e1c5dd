"""Benchmarks: ours and the peers on the same work, interleaved in one run: ``python -m tests.benchmarks --help``."""
