"""The job on BentoML, one service: adaptive batching, which takes and gives lists, so packages leave in JSON as base64.

python -m bentoml serve benchmarks.peers.servers.bentoml_service:Packages --arg models=models --arg model=demo
"""

import base64

import bentoml
from pydantic import BaseModel

from app.schemas import ParametersRequest
from benchmarks.serving.contenders.job import Job
from benchmarks.serving.contenders.stages import Stages


class Arguments(BaseModel):
    """What ``--arg`` gives."""

    models: str
    model: str


told = bentoml.use_arguments(Arguments)
batched = {"batchable": True, "max_batch_size": 64}


@bentoml.service(logging={"access": {"enabled": False}})
class Packages:
    """Requests to packages."""

    def __init__(self) -> None:
        self.job = Job.of(told.models, told.model)
        self.stages = Stages(told.models, self.job)

    @bentoml.api(route=f"/v1/models/{told.model}/parameters", **batched)  # type: ignore[untyped-decorator]
    def generate(self, requests: list[ParametersRequest], /) -> list[str]:
        """Compute a batch."""
        tags = [self.job.tag(request) for request in requests]
        packages = self.stages.compute([request.sample for request in requests], tags)
        return [base64.b64encode(package).decode() for package in packages]
