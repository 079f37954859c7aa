"""``duet demo``: the whole road on one machine, from a log of interactions to a device whose model got better."""
