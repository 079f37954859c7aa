"""The job on LitServe, as its documentation sets up a batched API; packages leave as bytes.

python -m benchmarks.peers.servers.litserve_server --models models --model demo --port 8001 --fast-queue
"""

import argparse
from collections.abc import Sequence

import litserve
from fastapi import Response

from app.schemas import ParametersRequest
from benchmarks.serving.contenders.job import Job
from benchmarks.serving.contenders.stages import Stages
from duet.protocol.package import MEDIA_TYPE


class PackageApi(litserve.LitAPI):  # type: ignore[misc]
    """Request to package, in batches."""

    def __init__(self, models: str, model: str, **options: object) -> None:
        super().__init__(**options)
        self._models, self._model = models, model

    def setup(self, device: str) -> None:
        """Prepare the stages, in the worker."""
        del device
        self._job = Job.of(self._models, self._model)
        self._stages = Stages(self._models, self._job)

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201  # an annotation would change the wire
        """Validate the fields and the sample."""
        asked = ParametersRequest.model_validate(request)
        return asked.sample, self._job.tag(asked)

    def batch(self, inputs: Sequence[tuple[object, bytes]]) -> Sequence[tuple[object, bytes]]:
        """Keep a batch as it is: the stages stack it."""
        return inputs

    def predict(self, x: Sequence[tuple[object, bytes]]) -> list[bytes]:
        """Compute a batch."""
        samples, tags = zip(*x, strict=True)
        return self._stages.compute(samples, tags)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """Keep the answers as they are, one a request."""
        return output

    def encode_response(self, output: bytes) -> Response:
        """Answer in bytes."""
        return Response(output, media_type=MEDIA_TYPE)


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.servers.litserve_server", description=__doc__)
    parser.add_argument("--models", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fast-queue", action="store_true", help="ZeroMQ between its processes")
    parser.add_argument("--wait-ms", type=float, default=0.0, help="batch_timeout; default: 0, as LitServe's")
    options = parser.parse_args()
    path = f"/v1/models/{options.model}/parameters"
    batched = {"max_batch_size": 64, "batch_timeout": options.wait_ms / 1000, "api_path": path}
    api = PackageApi(options.models, options.model, **batched)
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, fast_queue=options.fast_queue, healthcheck_path="/readyz"
    )
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False, access_log=False)


if __name__ == "__main__":
    main()
