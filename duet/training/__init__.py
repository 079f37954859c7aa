"""Training: typed configurations, objectives, the loop, checkpoints, and the ranks that selection looks at."""
