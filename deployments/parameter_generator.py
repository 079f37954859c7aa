"""The second stage: embeddings to bodies of parameter packages, on the accelerator.

    values = weight @ embedding + bias        one matrix product for all dynamic layers of a batch
    body   = cast or quantise (values)        one launch for all plans of a batch, in package layout; nothing repacks it

Shapes: B batch of devices, D embedding, P flat parameters, R rank of the generator.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deployments.body_layouts import Places, base_places, factor_places, full_places, slab_layout
from deployments.prepared_versions import PreparedVersions
from deployments.version_checks import check_golden, generator_tensors, golden_tensors
from duet.protocol.decoders import encode_embedding
from duet.protocol.manifest import Manifest
from duet.protocol.representation import SHARED, Form, Representation
from duet.registry import PublishedVersion
from kernels import (
    CapturedGeneration,
    HostGeneration,
    Plans,
    compose_weights,
    quantize_factors,
    resolve_backend,
    synthesize_factors,
)

# batches up to the default of max_batch; a larger bucket holds memory that few servers need
_WARM_SIZES = tuple(2**exponent for exponent in range(7))
_HEADS = {Form.FACTORS: "factors", Form.COMPOSED: "factors", Form.FULL: "full"}


@dataclass(frozen=True)
class _Kind:
    """What a batch needs: which heads run, and whether something of theirs is composed."""

    heads: tuple[str, ...]
    composes: bool

    def serves(self, representation: Representation) -> bool:
        """Whether a batch of this kind may hold it."""
        head = _HEADS.get(representation.form)
        return head is None or (head in self.heads and (self.composes or representation.form is not Form.COMPOSED))


@dataclass(frozen=True)
class _Generation:
    """How batches of one kind are generated: one affine map for their heads, and all the plans it can serve."""

    weight: Tensor
    bias: Tensor
    plans: Plans
    numbers: dict[Representation, int]
    composes: bool
    bound: CapturedGeneration | HostGeneration | None
    """The same with all that is known of it: replayed on an accelerator, in one call on a host."""


@dataclass(frozen=True)
class _PreparedGenerator:
    manifest: Manifest
    heads: dict[str, tuple[Tensor, Tensor]]
    base: Tensor
    generations: dict[_Kind, _Generation] = field(default_factory=dict)
    _alone: dict[Representation, tuple[_Generation | None, int]] = field(default_factory=dict)

    @cached_property
    def sends_embeddings(self) -> bool:
        """Whether a device may generate for itself."""
        return any(record.representation.form is Form.EMBEDDING for record in self.manifest.representations)

    def kind(self, representations: Sequence[Representation]) -> _Kind:
        """Tell what a batch needs."""
        forms = {representation.form for representation in representations}
        used = {_HEADS[form] for form in forms if form in _HEADS}
        return _Kind(tuple(head for head in self.heads if head in used), Form.COMPOSED in forms)

    def kinds(self) -> list[_Kind]:
        """List what a batch may need."""
        offered = [record.representation for record in self.manifest.representations]
        one_of_each_form = {each.form: each for each in offered if each.form in _HEADS}.values()
        mixes = chain.from_iterable(combinations(one_of_each_form, count + 1) for count in range(len(one_of_each_form)))
        return list(dict.fromkeys(map(self.kind, mixes)))  # two mixes may be of one kind

    def generation(self, kind: _Kind) -> _Generation:
        """Find how batches of a kind are generated; worked out once."""
        if kind not in self.generations:
            self.generations[kind] = self._generation(kind)
        return self.generations[kind]

    def chosen(self, representations: Sequence[Representation]) -> tuple[_Generation | None, Sequence[int]]:
        """Find how a batch is generated, and the number of every plan; no generation where nothing is generated."""
        first = next(iter(representations), SHARED)
        if representations.count(first) < len(representations):
            return self._chosen(representations)
        if first not in self._alone:  # most batches are of one representation
            generation, (number,) = self._chosen([first])
            self._alone[first] = generation, number
        generation, number = self._alone[first]
        return generation, [number] * len(representations)

    def _chosen(self, representations: Sequence[Representation]) -> tuple[_Generation | None, Sequence[int]]:
        kind = self.kind(representations)
        if not kind.heads:
            return None, [0] * len(representations)
        generation = self.generation(kind)
        return generation, [generation.numbers[representation] for representation in representations]

    def _generation(self, kind: _Kind) -> _Generation:
        table, places, start = self.manifest.layers, {}, 0
        for head in kind.heads:
            of_head = factor_places(table, self.manifest.rank) if head == "factors" else full_places(table)
            places[head] = {key: start + place for key, place in of_head.items()}
            start += len(self.heads[head][1])
        served = [
            record.representation for record in self.manifest.representations if kind.serves(record.representation)
        ]
        base = base_places(table)
        layouts = [slab_layout(table, each, places.get(_HEADS.get(each.form, ""), _NOWHERE), base) for each in served]
        weights = [self.heads[head] for head in kind.heads]
        # a batch of one head multiplies by that head's own memory
        weight, bias = weights[0] if len(weights) == 1 else (torch.cat(parts) for parts in zip(*weights, strict=True))
        plans, numbers = Plans(layouts), {representation: number for number, representation in enumerate(served)}
        backend = resolve_backend("auto", weight, has_compiled=True)
        bound: CapturedGeneration | HostGeneration | None = None
        if backend == "compiled":
            bound = HostGeneration(weight, bias, self.base, plans)
        elif backend == "triton" and weight.device.type == "cuda":
            bound = CapturedGeneration(weight, bias, self.base, plans)
        return _Generation(weight, bias, plans, numbers, kind.composes, bound)


_NOWHERE: Places = {}


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
            Bodies in package layout, in order: empty for the shared representation, the embedding itself for a device
            that generates, None where a number is not finite.
        """
        prepared = self._versions.get(model, version)
        generation, chosen = prepared.chosen(representations)
        if generation is None:
            bodies: list[bytes | None] = [b""] * len(representations)
        else:
            bodies = self._generate(prepared, generation, embeddings, chosen)
        if not prepared.sends_embeddings:
            return bodies
        table = prepared.manifest.layers
        return [
            encode_embedding(embedding, representation, table) if representation.form is Form.EMBEDDING else body
            for embedding, representation, body in zip(embeddings, representations, bodies, strict=True)
        ]

    def _generate(
        self,
        prepared: _PreparedGenerator,
        generation: _Generation,
        embeddings: npt.NDArray[np.float32],
        chosen: Sequence[int],
    ) -> list[bytes | None]:
        if isinstance(generation.bound, HostGeneration):
            return generation.bound.generate(embeddings, chosen)  # mostly without any call of torch
        return self._with_torch(prepared, generation, embeddings, chosen)

    @torch.inference_mode()
    def _with_torch(
        self,
        prepared: _PreparedGenerator,
        generation: _Generation,
        embeddings: npt.NDArray[np.float32],
        chosen: Sequence[int],
    ) -> list[bytes | None]:
        if generation.bound:
            return generation.bound.generate(embeddings, chosen)
        on_accelerator = torch.from_numpy(embeddings).to(self._accelerator)
        values = synthesize_factors(on_accelerator, generation.weight, generation.bias)
        if generation.composes:
            return compose_weights(values, prepared.base, generation.plans, chosen).bodies()
        return quantize_factors(values, generation.plans, chosen).bodies()

    def _load(self, published: PublishedVersion) -> _PreparedGenerator:
        manifest = published.manifest
        tensors = {
            name: torch.from_numpy(tensor).to(self._accelerator)
            for name, tensor in generator_tensors(published).items()
        }
        heads = {head: (tensors[f"{head}.weight"], tensors[f"{head}.bias"]) for head in manifest.heads}
        shared = [tensors[f"shared.{layer.name}.{role}"] for layer in manifest.layers for role in ("weight", "bias")]
        golden = golden_tensors(published)
        embeddings = torch.from_numpy(golden["output.embedding"]).to(self._accelerator)
        for head, (weight, bias) in heads.items():
            values = synthesize_factors(embeddings, weight, bias).cpu().numpy()
            check_golden(published, head, values, golden[f"output.{head}"])
        prepared = _PreparedGenerator(manifest, heads, base=torch.cat([tensor.flatten() for tensor in shared]))
        self._warm_up(prepared, np.asarray(golden["output.embedding"], np.float32))
        return prepared

    @torch.inference_mode()
    def _warm_up(self, prepared: _PreparedGenerator, embeddings: npt.NDArray[np.float32]) -> None:
        """Generate a small batch of every kind: the first one of a kind lays out its plans, compiles and captures."""
        for kind in prepared.kinds():
            generation = prepared.generation(kind)
            if isinstance(generation.bound, CapturedGeneration):
                generation.bound.warm_up(_WARM_SIZES)
            for number in generation.numbers.values():
                self._generate(prepared, generation, embeddings[:1], [number])
