"""Two replicas of ours, colocated, on one port: for the race against two plain processes.

Annotations stay objects here: Ray checks the arguments by those of the builder.
"""

from ray.serve import Application

from app.builder import wire
from app.settings import AppSettings
from deployments.replicas import ParameterGeneratorReplica


def build_two(args: AppSettings) -> Application:
    """Wire the colocated placement twice."""
    return wire(args, ParameterGeneratorReplica, replicas=2)
