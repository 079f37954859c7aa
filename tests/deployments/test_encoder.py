"""The encoder runs the published graph, on samples that the signature turned into arrays."""

import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from deployments.encoder import Encoder
from duet.protocol.errors import CorruptVersion, UnknownModel, UnknownVersion
from duet.registry import PublishedVersion
from tests.published_version import ITEM_IDS, LENGTH, write_version

V1 = {"model": "tiny", "version": "v1"}


def test_raw_ids_lead_to_the_golden_embeddings(models: Path, published: PublishedVersion) -> None:
    golden = safetensors.numpy.load_file(published.path("golden.safetensors"))
    samples = [[ITEM_IDS[index - 1] for index in row if index] for row in golden["input.items"]]

    embeddings = Encoder(models).encode(samples, **V1)

    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, golden["output.embedding"], rtol=1e-5, atol=1e-6)


def test_an_embedding_does_not_depend_on_its_batch(models: Path) -> None:
    samples = [[ITEM_IDS[0]], list(ITEM_IDS[:LENGTH]), [ITEM_IDS[5], "unknown", ITEM_IDS[2]]]
    encoder = Encoder(models)

    together = encoder.encode(samples, **V1)
    alone = np.concatenate([encoder.encode([sample], **V1) for sample in samples])

    np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("wanted", "failure"),
    [({"model": "nobody", "version": "v1"}, UnknownModel), ({"model": "tiny", "version": "v9"}, UnknownVersion)],
    ids=["model", "version"],
)
def test_what_is_not_published_is_refused(models: Path, wanted: dict[str, str], failure: type[Exception]) -> None:
    with pytest.raises(failure):
        Encoder(models).prepare(**wanted)


def test_a_version_that_computes_something_else_than_its_golden_output_is_refused(tmp_path: Path) -> None:
    write_version(tmp_path, golden_error={"output.embedding": 0.1})

    with pytest.raises(CorruptVersion, match=re.escape("golden embedding")):
        Encoder(tmp_path).prepare("tiny", "v1")
