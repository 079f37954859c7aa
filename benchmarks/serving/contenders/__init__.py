"""What the server is compared with: the same job, or none, in the way that others would build it."""
