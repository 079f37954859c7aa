"""Fine-tuning on the device moves the classifier, and each update begins with the shared one."""

import torch

from benchmarks.peers.fine_tuning import FineTuning

SAMPLE = [1, 5, 9, 2, 7]


def test_an_update_moves_every_dynamic_layer_and_begins_anew() -> None:
    device = FineTuning(12)
    before = {name: value.clone() for name, value in device._shared.items()}

    once = {name: value.clone() for name, value in device.update(SAMPLE, steps=2).items()}
    device.update(SAMPLE[::-1], steps=5)
    again = device.update(SAMPLE, steps=2)

    assert all(not torch.equal(once[name], before[name]) for name in before)
    assert all(torch.equal(once[name], again[name]) for name in before)
    assert all(torch.equal(device._shared[name], before[name]) for name in before)


def test_more_steps_fit_the_sample_better() -> None:
    device, items = FineTuning(12), torch.tensor(SAMPLE)

    def loss(steps: int) -> float:
        device.update(SAMPLE, steps=steps)
        with torch.no_grad():
            states = device._meta.backbone.encode(items[None, :-1])[0]
            return float(device._meta.catalogue_loss(states, None, items[1:]))

    assert loss(20) < loss(0)
