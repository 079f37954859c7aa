"""Fine-tuning on the device moves the classifier alone, and each update begins with the shared one."""

import torch

from benchmarks.peers.fine_tuning import Device

SAMPLE = [1, 5, 9, 2, 7]


def test_an_update_moves_the_classifier_alone_and_begins_anew() -> None:
    device = Device(12)
    shared = device.meta.state_dict()

    once = device.update(SAMPLE, steps=2).state_dict()
    device.update(SAMPLE[::-1], steps=5)
    again = device.update(SAMPLE, steps=2).state_dict()

    moved = {name for name, value in once.items() if not torch.equal(value, shared[name])}
    assert moved == {name for name in shared if name.startswith("classifier.")}
    assert all(torch.equal(once[name], again[name]) for name in shared)
