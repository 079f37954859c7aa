"""Images instead of items over real HTTP: the same server and the same device client, and it classifies as trained."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from app.ports import free_port
from duet.device.client import DuetDevice
from duet.networks.duet_network import Served
from duet.training.networks import build_network
from tests.integration.background_server import background_server, duet

pytestmark = pytest.mark.serve

ANY = {"link": "wifi", "budget_ms": 10_000, "timeout_s": 30}


@pytest.fixture(scope="module")
def url(digits_version, tmp_path_factory):
    """Where ``duet serve`` serves the digits."""
    port = free_port("127.0.0.1", 0)
    command = duet("serve", "--models", str(digits_version.folder.parents[1]), "--port", str(port))
    with background_server(command, tmp_path_factory.mktemp("server"), f"http://127.0.0.1:{port}"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def network(digits_version, digits_config):
    """The network behind the published version."""
    made = build_network(digits_config, 10).eval()
    made.load_state_dict(load_file(digits_version.folder.parents[2] / "run" / "best.safetensors"))
    return made


@pytest.mark.parametrize("form", ["factors", "full"])
def test_a_device_updates_from_its_images_and_classifies_like_the_network(url, network, digit_devices, tmp_path, form):
    images = digit_devices.test.images
    accepts = {"forms": [form], "dtypes": ["float32"]}
    for number in range(3):
        sample, following = images[number, :6], images[number, 6:10]
        with DuetDevice(url, "digits", device_id=f"d{number}", cache=tmp_path, accepts=accepts, **ANY) as device:
            before = device.model.scores(following[-1:])
            update = device.update(sample, raise_on_error=True)
            scores = device.model.scores_batch([picture[None] for picture in following])

            served = Served(form, update.representation.rank)
            with torch.no_grad():
                embedding = network.embeddings(torch.from_numpy(sample[None]))[:, -1]
                states = network.meta.backbone.encode(torch.from_numpy(following[None]))[0]
                expected = network.meta.scores(states, network.residuals(embedding.expand(4, -1), served))
            assert update.representation.form.name.lower() == form
            np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-4, atol=1e-3)
            assert np.abs(scores[-1] - before).max() > 1e-3
            assert device.predict(following[-1:], k=1).ids == (int(expected[-1].argmax()),)


def test_the_sample_goes_up_as_bytes_and_only_what_is_read(url, digit_devices, tmp_path):
    roll = digit_devices.test.images[3]
    with DuetDevice(url, "digits", device_id="d", cache=tmp_path, **ANY) as device:
        update = device.update(roll, raise_on_error=True)
        again = device.update(roll[-6:].tolist(), raise_on_error=True)

    assert (update.status, again.status) == ("updated", "kept")
    assert 6 * 64 < update.bytes_up < 6 * 64 + 1000
