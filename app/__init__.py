"""The front door: HTTP in front of the stages, and the ``duet`` command."""
