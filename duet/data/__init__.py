"""Interaction logs: the loaders of real data sets, and a synthetic world whose ground truth is known."""
