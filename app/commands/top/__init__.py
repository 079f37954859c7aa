"""``duet top``: a running server, live in a terminal."""
