"""The second stage: embeddings to bodies of parameter packages, on the accelerator.

    values = weight @ embedding + bias        one matrix product for all dynamic layers of a batch
    body   = cast or quantise (values)        written in package layout, nothing repacks it

Shapes: B batch of devices, D embedding, P flat parameters, R rank of the generator.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor

from deployments.body_layouts import Places, base_places, compose_layout, factor_places, full_places, slab_layout
from deployments.prepared_versions import PreparedVersions, check_golden
from duet.protocol.layers import LayerTable
from duet.protocol.representation import Form, Representation
from duet.registry import PublishedVersion
from kernels import ComposeLayout, SlabLayout, compose_weights, quantize_factors, synthesize_factors

_HEADS = {Form.FACTORS: "factors", Form.COMPOSED: "factors", Form.FULL: "full"}


@dataclass(frozen=True)
class _PreparedGenerator:
    table: LayerTable
    heads: dict[str, tuple[Tensor, Tensor]]
    places: dict[str, Places]
    base: Tensor
    layouts: dict[Representation, SlabLayout | ComposeLayout] = field(default_factory=dict)

    def layout(self, representation: Representation) -> SlabLayout | ComposeLayout:
        """Work out where a representation's numbers go, once."""
        if representation not in self.layouts:
            places = self.places[_HEADS[representation.form]]
            self.layouts[representation] = (
                compose_layout(self.table, representation, places, base_places(self.table))
                if representation.form is Form.COMPOSED
                else slab_layout(self.table, representation, places)
            )
        return self.layouts[representation]


class ParameterGenerator:
    """Runs the Personalized Parameters Generators of the versions it has prepared, through ``kernels`` alone.

    Keeps nothing between batches, so replicas are interchangeable. Call it from one thread.
    """

    def __init__(self, models: Path | str, *, accelerator: str = "cpu", intra_op_threads: int = 1) -> None:
        """Start with no version.

        Args:
            models: Root of the model repository.
            accelerator: ``"cpu"``, or what torch calls the device: ``"cuda"``, ``"cuda:1"``.
            intra_op_threads: Threads of one operation on the CPU; a setting of the whole process.
        """
        torch.set_num_threads(intra_op_threads)
        self._accelerator = torch.device(accelerator)
        self._versions = PreparedVersions(models, self._load)

    def prepare(self, model: str, version: str) -> None:
        """Load a version onto the accelerator, verify it and compare its golden factors.

        Raises:
            UnknownModel: If the model is not published.
            UnknownVersion: If it has no such version.
            RegistryError: If the version is not what was published, or computes something else here.
        """
        self._versions.get(model, version)

    @torch.inference_mode()
    def generate(
        self,
        embeddings: npt.NDArray[np.float32],
        representations: Sequence[Representation],
        *,
        model: str,
        version: str,
    ) -> list[bytes | None]:
        """Generate one body per device.

        Args:
            embeddings: ``[B, D]`` float32.
            representations: What each device gets.
            model: Whose generator.
            version: Which one of it.

        Returns:
            Bodies in package layout, in order: empty for the shared representation, None where a number is not finite.
        """
        prepared = self._versions.get(model, version)
        bodies: list[bytes | None] = [b""] * len(representations)
        for head, (weight, bias) in prepared.heads.items():
            rows = [row for row, wanted in enumerate(representations) if _HEADS.get(wanted.form) == head]
            if not rows:
                continue
            chosen = torch.from_numpy(embeddings[rows]).to(self._accelerator)
            values = synthesize_factors(chosen, weight, bias)
            groups: dict[Representation, list[int]] = {}
            for place, row in enumerate(rows):
                groups.setdefault(representations[row], []).append(place)
            for representation, places in groups.items():
                group = values if len(places) == len(rows) else values[places]
                for place, body in zip(places, _bodies(group, prepared, representation), strict=True):
                    bodies[rows[place]] = body
        return bodies

    def _load(self, published: PublishedVersion) -> _PreparedGenerator:
        manifest = published.manifest
        tensors = safetensors.torch.load_file(published.path("generator.safetensors"), device=str(self._accelerator))
        heads = {head: (tensors[f"{head}.weight"], tensors[f"{head}.bias"]) for head in manifest.heads}
        shared = [tensors[f"shared.{layer.name}.{role}"] for layer in manifest.layers for role in ("weight", "bias")]
        golden = safetensors.torch.load_file(published.path("golden.safetensors"))
        embeddings = golden["output.embedding"].to(self._accelerator)
        for head, (weight, bias) in heads.items():
            values = synthesize_factors(embeddings, weight, bias).cpu().numpy()
            check_golden(published, head, values, golden[f"output.{head}"].numpy())
        return _PreparedGenerator(
            table=manifest.layers,
            heads=heads,
            places={"factors": factor_places(manifest.layers, manifest.rank), "full": full_places(manifest.layers)},
            base=torch.cat([tensor.flatten() for tensor in shared]),
        )


def _bodies(values: Tensor, prepared: _PreparedGenerator, representation: Representation) -> list[bytes | None]:
    layout = prepared.layout(representation)
    if isinstance(layout, ComposeLayout):
        slabs, finite = compose_weights(values, prepared.base, layout)
    else:
        slabs, finite = quantize_factors(values, layout)
    # one copy from the accelerator for the batch
    on_host = slabs.cpu().numpy()
    return [slab.tobytes() if is_finite else None for slab, is_finite in zip(on_host, finite.tolist(), strict=True)]
