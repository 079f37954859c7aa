"""Runs an application on the ingress, with the environment and the ports of ``duet serve``, until it is stopped.

python -m benchmarks.serving.run benchmarks.serving.contenders.applications:build_noop --models models --model demo
"""

import argparse
import importlib
import json
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from app.server import serve_forever
from app.settings import AppSettings, Ingress

if TYPE_CHECKING:
    from ray.serve import Application


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.run", description=__doc__)
    parser.add_argument("import_path", help="module:builder")
    parser.add_argument("--models", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ingress", choices=get_args(Ingress), default="haproxy", help="default: haproxy")
    parser.add_argument("--args", type=json.loads, default={}, help="further arguments of the builder, JSON")
    options = parser.parse_args()
    module, _, name = options.import_path.partition(":")
    further: dict[str, Any] = options.args

    def build(settings: AppSettings) -> "Application":
        builder = getattr(importlib.import_module(module), name)
        kind = get_type_hints(builder)["args"]
        application: Application = builder(kind(**settings.model_dump(), **further))
        return application

    settings = AppSettings(models=options.models, model=options.model)
    serve_forever(settings, port=options.port, ingress=options.ingress, build=build, is_quiet=True)


if __name__ == "__main__":
    main()
