"""What Python code may hand over as a sample, and what the cloud is asked then."""

from collections import deque

import numpy as np
import pytest

from duet.protocol import errors

SAMPLE = [101, 109, 117]


@pytest.mark.parametrize(
    "sample",
    [
        np.array(SAMPLE),
        np.array(SAMPLE, np.uint16),
        [np.int32(raw) for raw in SAMPLE],
        range(101, 118, 8),
        deque(SAMPLE, maxlen=5),
        tuple(SAMPLE),
    ],
    ids=["array", "small integers", "list of numpy", "range", "deque", "tuple"],
)
def test_a_sample_is_any_sequence_of_integers(make_device, cloud, sample):
    device = make_device()

    update = device.update(sample)

    assert (update.status, cloud.asked[0]["sample"]) == ("updated", SAMPLE)
    np.testing.assert_array_equal(device.model.scores(sample), device.model.scores(SAMPLE))
    np.testing.assert_array_equal(device.model.scores_batch([sample])[0], device.model.scores(SAMPLE))
    assert device.predict(sample, candidates=sample) == device.predict(SAMPLE, candidates=SAMPLE)
    assert device.predict(sample) == device.predict(SAMPLE)


@pytest.mark.parametrize(
    "sample",
    [np.array([101.0]), np.array([[101]]), np.array(101), np.array([True]), "101", b"e", {101}, [np.float32(101)]],
    ids=repr,
)
def test_what_is_no_sequence_of_ids_is_still_refused(device, sample):
    with pytest.raises(errors.InvalidSample):
        device.update(sample, raise_on_error=True)
