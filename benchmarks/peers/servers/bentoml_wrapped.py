"""The job on BentoML, two services: one takes single requests and answers in bytes, one computes adaptive batches.

python -m bentoml serve benchmarks.peers.servers.bentoml_wrapped:Gateway --arg models=models --arg model=demo
"""

from typing import Annotated

import bentoml
from pydantic import BaseModel

from app.schemas import ParametersRequest
from benchmarks.serving.contenders.job import Job
from benchmarks.serving.contenders.stages import Stages
from duet.protocol.package import MEDIA_TYPE


class Arguments(BaseModel):
    """What ``--arg`` gives."""

    models: str
    model: str


class Order(BaseModel):
    """What a valid request asks of the stages."""

    sample: object
    tag: bytes


told = bentoml.use_arguments(Arguments)
job = Job.of(told.models, told.model)
quiet = {"access": {"enabled": False}}
# by default it closes its connections after each 100 requests, and with them the requests under way
kept = {"max_requests": 10**9, "max_age": 3600.0}


@bentoml.service(logging=quiet, runner_connection=kept)
class Packages:
    """Batches of orders to packages."""

    def __init__(self) -> None:
        self.stages = Stages(told.models, job)

    @bentoml.api(batchable=True, max_batch_size=64)  # type: ignore[untyped-decorator]
    def generate(self, orders: list[Order]) -> list[bytes]:
        """Compute a batch."""
        return self.stages.compute([order.sample for order in orders], [order.tag for order in orders])


@bentoml.service(logging=quiet)
class Gateway:
    """Single requests."""

    packages = bentoml.depends(Packages)

    @bentoml.api(route=f"/v1/models/{told.model}/parameters")  # type: ignore[untyped-decorator]
    async def generate(
        self, request: ParametersRequest, /
    ) -> Annotated[bytes, bentoml.validators.ContentType(MEDIA_TYPE)]:
        """Hand a request over as a batch of one."""
        order = Order(sample=request.sample, tag=job.tag(request))
        (package,) = await self.packages.to_async.generate([order])
        return bytes(package)
