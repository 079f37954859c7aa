"""Published versions to put under load, made once and kept: the demo's own, and a heavy one of random weights.

The heavy one is for overload: its capacity is about a tenth of what an endpoint that does nothing has, so that refusing
a request is cheap beside answering it. It is published like any other, with the quality that random weights have, and
its name says what it is.
"""

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from duet.registry import PublishedVersion, Registry

if TYPE_CHECKING:
    from duet.data.interactions import Interactions
    from duet.training.config import TrainingConfig

CACHE = Path(".cache/benchmarks")
"""Where they are kept by default, relative to where the benchmark starts; ``make clean`` removes it."""

DEMO, HEAVY = "demo", "untrained-heavy"
"""Names of the models."""

HEAVY_CONFIG = Path(__file__).with_name("heavy.yaml")
DEMO_CONFIG = Path(__file__).resolve().parents[2] / "duet/training/configs/demo.yaml"
_DEMO_USERS, _HEAVY_USERS = 400, 40


def add_options(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark be told which model to serve; ``chosen`` reads the answer."""
    parser.add_argument(
        "--models", type=Path, help="folder of published models; the demo's, made if need be, by default"
    )
    parser.add_argument("--model", default=DEMO, help=f"its name; default: {DEMO}")
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"where what is made is kept; default: {CACHE}")


def chosen(options: argparse.Namespace) -> tuple[Path, str]:
    """Return folder and name of the model that was asked for; the demo's is trained and published if no folder was."""
    if options.models is None:
        return root_of(demo(options.cache)), DEMO
    return options.models, options.model


def add_heavy_options(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark be told which model is heavy; ``chosen_heavy`` reads the answer."""
    parser.add_argument("--heavy-models", type=Path, help="folder of another heavy version than the one that is made")
    parser.add_argument("--heavy-model", default=HEAVY, help=f"its name; default: {HEAVY}")


def chosen_heavy(options: argparse.Namespace) -> tuple[Path, str]:
    """Return folder and name of the heavy model, which is published if no folder was named."""
    if options.heavy_models is None:
        return root_of(heavy(options.cache)), HEAVY
    return options.heavy_models, options.heavy_model


def demo(cache: Path = CACHE) -> PublishedVersion:
    """Return the demo's version, trained as ``duet demo`` trains it: about two minutes the first time."""
    # not at the top: a load generator that is told of a folder needs no torch
    from duet.training.config import read_config

    return _made(cache, DEMO, read_config(DEMO_CONFIG), quality_users=_DEMO_USERS)


def heavy(cache: Path = CACHE, config: "TrainingConfig | None" = None) -> PublishedVersion:
    """Return the heavy version: initial weights, which follow from the seed of the configuration."""
    from duet.training.config import read_config

    config = config or read_config(HEAVY_CONFIG)
    return _made(cache, HEAVY, config, quality_users=_HEAVY_USERS, is_trained=False)


def root_of(version: PublishedVersion) -> Path:
    """Return the model repository that a version lies in."""
    return version.folder.parents[1]


def _made(
    cache: Path, model: str, config: "TrainingConfig", *, quality_users: int, is_trained: bool = True
) -> PublishedVersion:
    """Open the version of a configuration, or make it; a run that was interrupted goes on."""
    name = hashlib.sha256(f"{config.to_yaml()}{quality_users}".encode()).hexdigest()[:12]
    registry = Registry(cache / "models")
    if model in registry.models() and name in registry.versions(model):
        registry.activate(model, name)  # another configuration may have been asked for last
        return registry.open(model, name)
    from duet.data.loading import load
    from duet.publishing import publish
    from duet.training.loop import train

    print(f"Making {model} {name} in {cache}, once ...", flush=True)
    interactions, run = load(config.data.source, seed=config.seed), cache / "runs" / name
    if is_trained:
        train(config, interactions, run)
    else:
        _write_initial(config, interactions, run)
    published = publish(run, interactions, registry, model, version=name, quality_users=quality_users)
    registry.activate(model, name)
    return published


def _write_initial(config: "TrainingConfig", interactions: "Interactions", run: Path) -> None:
    """Write a run of no epoch: its best weights are those that training would begin with."""
    import torch
    from safetensors.torch import save

    from duet.training import checkpoint
    from duet.training.networks import build_network

    run.mkdir(parents=True, exist_ok=True)
    checkpoint.write_atomically(run / checkpoint.CONFIG, config.to_yaml().encode())
    checkpoint.claim_data(run, interactions)
    torch.manual_seed(config.seed)
    network = build_network(config, interactions.item_count)
    checkpoint.write_atomically(run / checkpoint.BEST, save(network.state_dict()))
