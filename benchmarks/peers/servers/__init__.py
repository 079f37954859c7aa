"""What serves the job in the race, beside ``benchmarks/serving/contenders``: peers as their own documentation says."""
