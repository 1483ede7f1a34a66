"""Benchmarks: speed and memory, and Harmony-Bench."""
