"""DUET Serve: a cloud that generates the parameters of on-device models, and the devices that use them."""

__version__ = "0.1.0"
