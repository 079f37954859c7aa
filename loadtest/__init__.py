"""Load tests: simulated devices that ask a running cloud for parameters and verify every reply."""
