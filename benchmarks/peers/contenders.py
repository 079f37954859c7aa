"""Who takes part in the race: how each is started, what was written for it, and what it cannot do."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import duet
from benchmarks.peers.environment import ROOT, pins
from benchmarks.serving.pinned import application, ours
from benchmarks.serving.throughput import WAITS_MS, Command, naive, plain

OURS, SPLIT, NAIVE = "ours, colocated", "ours, split", "naive Ray Serve"
PLAIN, LITSERVE, BENTOML = "FastAPI + uvicorn", "LitServe", "BentoML"
OURS_TWO, PLAIN_TWO = "ours, 2 replicas", "FastAPI + uvicorn, 2 processes"
FINE_TUNING = "on-device fine-tuning"

PAIRS = (OURS_TWO, PLAIN_TWO)
"""They have other cores than the others, and are compared with each other."""

MOST = "as it is"
"""The only variant of most."""

_SERVERS, _CONTENDERS = ROOT / "benchmarks/peers/servers", ROOT / "benchmarks/serving/contenders"
_JOB, _STAGES = "job.py", "stages.py"
_SHARED = (_CONTENDERS / _JOB, _CONTENDERS / _STAGES)


@dataclass(frozen=True)
class Wire:
    """How a request and an answer travel, where that is not a request and a package as they are."""

    wrap: Callable[[str], str] = lambda body: body
    unwrap: Callable[[bytes], bytes] = lambda content: content


PLAIN_WIRE = Wire()
LISTS = Wire(lambda body: f"[{body}]", lambda content: base64.b64decode(json.loads(content)[0], validate=True))
"""A list with one request, and a list with one package in base64."""


@dataclass(frozen=True)
class Setup:
    """One way to start a contender; ``written`` are the files that were written to serve the job with it."""

    command: Command
    written: Sequence[Path] = ()
    wire: Wire = PLAIN_WIRE


@dataclass(frozen=True)
class Contender:
    """Who takes part.

    Attributes:
        name: In tables.
        setups: Ways to start it, by name; of several the best one in a trial races.
        behind: Packages that it stands on, without what those stand on; rooms of this checkout for ours.
        version: Of those.
        lacks: What it cannot do of what a device needs.
        is_peer: Whether it lives in the environment of the peers.
    """

    name: str
    setups: Mapping[str, Setup]
    behind: Sequence[str]
    version: str
    lacks: str
    is_peer: bool = False


def known() -> list[Contender]:
    """List all contenders, ours first; the last one serves nothing, and is timed in another way."""
    return [*_serving(), _device()]


def _serving() -> list[Contender]:
    pinned = pins()
    ray, fastapi = f"Ray {version('ray')}", f"FastAPI {version('fastapi')}, uvicorn {version('uvicorn')}"
    mine, nothing = f"{duet.__version__} on {ray}", "nothing of these"
    by_hand = "budgets, plans, rollover, signed packages: all by hand; no batches"
    split = ("--placement", "split")
    return [
        Contender(OURS, _only(lambda models, model: ours(models, model)), _ROOMS, mine, nothing),
        Contender(SPLIT, _only(lambda models, model: ours(models, model, *split)), _ROOMS, mine, nothing),
        Contender(
            NAIVE,
            {f"@serve.batch waits {wait_ms} ms": _naive(wait_ms) for wait_ms in WAITS_MS},
            ("ray.serve",),
            ray,
            "budgets (one time-out for all), plans, signed packages; a new version replaces its replicas",
        ),
        Contender(PLAIN, _only(plain(), "plain.py", _STAGES), _FASTAPI, fastapi, by_hand),
        Contender(
            LITSERVE,
            {"queues": _litserve(), "ZeroMQ": _litserve("--fast-queue")},
            ("litserve",),
            pinned["litserve"],
            "budgets (one time-out for all; late requests are dropped), plans, signed packages; "
            "a new version is a new server",
            is_peer=True,
        ),
        Contender(
            BENTOML,
            {
                "one service, base64": _bentoml("bentoml_service", "Packages", LISTS),
                "two services, bytes": _bentoml("bentoml_wrapped", "Gateway"),
            },
            ("bentoml", "_bentoml_sdk", "_bentoml_impl"),
            pinned["bentoml"],
            "budgets (one latency for all, beyond which it sheds), plans, signed packages; a new version is a new "
            "server; an answer in bytes costs a hop",
            is_peer=True,
        ),
        Contender(OURS_TWO, {MOST: Setup(_two, [_SERVERS / "replicas.py"])}, _ROOMS, mine, nothing),
        Contender(PLAIN_TWO, _only(plain(2), "plain.py", _STAGES), _FASTAPI, fastapi, by_hand),
    ]


def _device() -> Contender:
    return Contender(
        FINE_TUNING,
        {MOST: Setup(_fine_tuning, [ROOT / "benchmarks/peers/fine_tuning.py"])},
        (),
        f"torch {version('torch')}",
        "needs no network; needs labels, gradients and an optimiser on the device, and a core of it for each update",
    )


_ROOMS = ("app", "deployments")
_FASTAPI = ("fastapi", "starlette", "uvicorn")


def _only(command: Command, *written: str) -> dict[str, Setup]:
    return {MOST: Setup(command, [_CONTENDERS / name for name in (*written, _JOB)] if written else [])}


def _naive(wait_ms: float) -> Setup:
    return Setup(naive(wait_ms), [_CONTENDERS / "naive.py", _CONTENDERS / _JOB])


def _two(models: Path, model: str) -> list[str]:
    return application("benchmarks.peers.servers.replicas:build_two", models, model, "--ingress", "direct")


def _fine_tuning(models: Path, model: str) -> list[str]:
    return ["-m", "benchmarks.peers.fine_tuning", "--models", str(models), "--model", model]


def _litserve(*options: str) -> Setup:
    module = "benchmarks.peers.servers.litserve_server"
    return Setup(
        lambda models, model: ["-m", module, "--models", str(models), "--model", model, *options],
        [_SERVERS / "litserve_server.py", *_SHARED],
    )


def _bentoml(module: str, service: str, wire: Wire = PLAIN_WIRE) -> Setup:
    def command(models: Path, model: str) -> list[str]:
        told = ["--arg", f"models={models.absolute()}", "--arg", f"model={model}"]
        name = f"benchmarks.peers.servers.{module}:{service}"
        return ["-m", "bentoml", "serve", name, *told, "--host", "127.0.0.1"]

    return Setup(command, [_SERVERS / f"{module}.py", *_SHARED], wire)
