"""What the demo prints comes from what came over the wire: zeroed decoders leave fresh parameters the shared ones."""

import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from app.commands.demo.devices import moments_of, simulate
from app.commands.demo.summary import quality_of
from app.ports import free_port
from duet.publishing import publish
from duet.registry import Registry
from duet.training.tasks import split_of
from tests.integration.background_server import background_server, duet

pytestmark = [pytest.mark.serve, pytest.mark.slow]


@pytest.fixture(scope="module")
def registry(tmp_path_factory, tiny_run, tiny_interactions):
    """The tiny run as it was trained, and once more with every decoder set to zero before it was published."""
    folder = tmp_path_factory.mktemp("demo")
    zeroed = shutil.copytree(tiny_run, folder / "zeroed")
    weights = load_file(zeroed / "best.safetensors")
    save_file(
        {name: tensor * (0 if name.startswith("generator.") else 1) for name, tensor in weights.items()},
        zeroed / "best.safetensors",
    )
    registry = Registry(folder / "models")
    publish(tiny_run, tiny_interactions, registry, "trained", quality_users=20)
    publish(zeroed, tiny_interactions, registry, "zeroed", quality_users=20)
    return registry


@pytest.fixture(scope="module")
def visits(registry, tiny_config, tiny_interactions, tmp_path_factory):
    """What held-out devices did with each of the two models, over HTTP."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port("127.0.0.1", 0)
    url = f"http://127.0.0.1:{port}"
    split = split_of(tiny_config, tiny_interactions)
    lives = [moments_of(split, int(user), count=2, lag=4, length=8) for user in split.unseen]
    command = duet("serve", "--models", str(registry.root), "--port", str(port))
    with background_server(command, folder, url):
        return {
            model: simulate(url, model, lives, cache=folder / "cache", link="wifi", budget_ms=10_000, workers=2)
            for model in ("trained", "zeroed")
        }


def test_with_zeroed_heads_fresh_parameters_equal_the_shared_ones_to_the_last_digit(visits):
    zeroed = visits["zeroed"]

    assert len(zeroed) == 24
    assert all(visit.is_complete for visit in zeroed)
    assert all(update.package_bytes > 64 for visit in zeroed for update in visit.updates if update.status == "updated")
    assert all(visit.shared == visit.stale == visit.fresh for visit in zeroed)
    assert all(visit.before == visit.after for visit in zeroed)
    assert quality_of(zeroed).fresh_minus_shared == (0.0, 0.0, 0.0)


def test_trained_heads_change_what_devices_rank(visits):
    trained = visits["trained"]

    assert all(visit.is_complete for visit in trained)
    assert any(visit.before.scores != visit.after.scores for visit in trained)
    assert np.isfinite([visit.fresh for visit in trained]).all()
