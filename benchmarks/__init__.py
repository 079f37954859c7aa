"""Benchmarks: each prints what it measured with the hardware, and appends a record to a CSV file when told to."""
