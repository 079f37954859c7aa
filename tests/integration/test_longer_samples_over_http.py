"""Over real HTTP: a device sends more than its own model reads, and ranks with what was made of all of it."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from app.ports import free_port
from duet.device.client import DuetDevice
from duet.networks.duet_network import Served
from duet.training.networks import build_network
from tests.cloud_version import DEVICE_LENGTH, SAMPLE_LENGTH
from tests.integration.background_server import background_server, duet

pytestmark = pytest.mark.serve

ANY = {"link": "wifi", "budget_ms": 10_000, "timeout_s": 30}
FULL = {"forms": ["full"], "dtypes": ["float32"]}


@pytest.fixture(scope="module")
def url(cloud_version, tmp_path_factory):
    """Where ``duet serve`` serves the version."""
    port = free_port("127.0.0.1", 0)
    command = duet("serve", "--models", str(cloud_version.folder.parents[1]), "--port", str(port))
    with background_server(command, tmp_path_factory.mktemp("server"), f"http://127.0.0.1:{port}"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def network(cloud_version, cloud_config, tiny_interactions):
    """The network behind the published version."""
    made = build_network(cloud_config, tiny_interactions.item_count).eval()
    made.load_state_dict(load_file(cloud_version.folder.parents[2] / "run" / "best.safetensors"))
    return made


@pytest.fixture(scope="module")
def history(tiny_interactions):
    """Raw ids of what a user touched, more than anybody reads."""
    sequence = max((tiny_interactions.sequence(user) for user in range(tiny_interactions.user_count)), key=len)
    assert len(sequence) > SAMPLE_LENGTH + 1
    return [tiny_interactions.item_ids[item - 1] for item in sequence]


@pytest.mark.parametrize(("sends", "tolerance"), [("sample", 1e-3), ("embedding", 2e-2)])
def test_a_device_ranks_like_the_network_that_saw_the_whole_sample(
    url, network, history, tiny_interactions, tmp_path, sends, tolerance
):
    with DuetDevice(url, "cloud", device_id="d", cache=tmp_path, accepts=FULL, sends=sends, **ANY) as device:
        update = device.update(history, raise_on_error=True)
        scores = device.model.scores(history)

    indices = {raw: place + 1 for place, raw in enumerate(tiny_interactions.item_ids)}
    items = torch.tensor([[indices[raw] for raw in history[-SAMPLE_LENGTH:]]])
    with torch.no_grad():
        expected = network.meta.scores(*network.condition(items, torch.tensor([SAMPLE_LENGTH - 1]), Served("full")))
    assert update.status == "updated"
    np.testing.assert_allclose(scores, expected[0].numpy(), rtol=0, atol=tolerance)


def test_what_counts_is_what_the_generator_sees(url, history, tmp_path):
    older = [*history[:-SAMPLE_LENGTH], history[-1], *history[-SAMPLE_LENGTH + 1 :]]
    with DuetDevice(url, "cloud", device_id="d", cache=tmp_path, **ANY) as device:
        first = device.update(history, raise_on_error=True)
        before = device.model.scores(history)
        again = device.update(history[-SAMPLE_LENGTH:], raise_on_error=True)
        other = device.update(older, raise_on_error=True)
        after = device.model.scores(history)

    assert older[-DEVICE_LENGTH:] == history[-DEVICE_LENGTH:]
    assert [update.status for update in (first, again, other)] == ["updated", "kept", "updated"]
    assert np.abs(after - before).max() > 1e-4
