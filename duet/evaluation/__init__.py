"""Evaluation: measured quality of what devices get, paired intervals, records and tables of results."""
