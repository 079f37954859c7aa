"""What one training run is: a typed, frozen configuration that a YAML file fills."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from duet.networks.backbones import CLASSIFIERS, BackboneConfig, DotProductBackbone, build_backbone
from duet.networks.duet_network import EncoderName, GeneratorSizes, build_encoder
from duet.networks.personalized_parameters_generator import Head
from duet.protocol.errors import InvalidData

Variant = Literal["static", "capacity-matched", "film", "concatenated", "apg", "fine-tuned", "duet"]
Loss = Literal["softmax", "sampled-softmax", "binary"]
Schedule = Literal["joint", "staged"]


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class DataOptions(_Config):
    """Where interactions come from and who is kept out of training."""

    source: str = "synthetic"
    """`synthetic`, the path of a log, or `digits`; see docs/data.md."""
    split: Literal["leave-one-out", "global-time"] = "leave-one-out"
    """What is held out: the last two items of each user, or everything after an instant; see docs/data.md."""
    validation_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Of `global-time`: share of the interactions between the instants at which validation and test begin."""
    test_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Of `global-time`: share of the interactions after the instant at which the test begins."""
    unseen_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the users that training never sees; they stand for new devices."""
    user_column: str | None = None
    """Name of the user column of a table, when it is not one of the usual names."""
    item_column: str | None = None
    """Name of the item column of a table."""
    time_column: str | None = None
    """Name of the time column of a table."""


class BackboneOptions(_Config):
    """The static layers of the device model."""

    name: str = "sasrec"
    """Key of `duet.networks.backbones.BACKBONES`, or `cnn`, which classifies `digits`."""
    length: PositiveInt = 30
    """How many recent items a device looks at, and sends unless `generator.length` says otherwise."""
    width: PositiveInt = 32
    """Width of item vectors and of the classifier; channels of `cnn`."""
    blocks: PositiveInt = 2
    """Attention blocks, or recurrent layers; `din` and `cnn` have neither."""
    heads: PositiveInt = 2
    """Attention heads of `sasrec`."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout while training."""


class GeneratorOptions(_Config):
    """Sample encoder and Personalized Parameters Generator."""

    embedding_dim: PositiveInt = 32
    """Width D of the embedding."""
    rank: int = Field(default=4, ge=1, le=255)
    """Largest rank R of the generated factors; they are nested, so every smaller rank is served too."""
    heads: tuple[Head, ...] = ("factors",)
    """Heads to train: `factors`, `full` or both."""
    decoders: PositiveInt = 3
    """Parallel decoders of the Stable Weight Adapter; 1 switches it off."""
    layer_maps: bool = False
    """A linear layer and a layer embedding before the decoders of each dynamic layer, as Figure 2 draws them."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout in the sample encoder while training."""
    core_rank: PositiveInt = 16
    """Side of the generated core, of `apg` only."""
    length: PositiveInt | None = None
    """Longest sample that is sent and that the generator sees; `backbone.length`, what the device looks at, if null."""
    encoder: EncoderName = "head"
    """`head`: the paper's, a GRU over the item vectors of the device. `gru4rec`, `sasrec`: with its own."""
    encoder_width: PositiveInt = 64
    """Width of the encoder's own item vectors; `head` has none."""
    encoder_blocks: PositiveInt = 1
    """Recurrent layers of the encoder `gru4rec`, attention blocks of `sasrec`."""
    encoder_heads: PositiveInt = 2
    """Attention heads of the encoder `sasrec`."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Of AdamW, for encoder and decoders; `optimisation.weight_decay` if null."""
    delta_penalty: float = Field(default=0.0, ge=0)
    """What is added to the loss where the generated part of every layer is as large as its shared weights."""


class OptimisationOptions(_Config):
    """Objective, optimiser, stopping."""

    loss: Loss = "softmax"
    """`softmax`: cross-entropy over the whole catalogue; not for `din`. `sampled-softmax`: over the positive and
    sampled negatives, with the logQ correction. `binary`: the paper's, with a few sampled negatives."""
    negatives: PositiveInt = 4
    """Sampled negatives per positive of the binary loss."""
    sampled_negatives: PositiveInt = 64
    """Sampled negatives per positive of the sampled softmax, shared by neighbouring positions."""
    batch_size: PositiveInt = 256
    """Most windows a step; of those that hold more than `backbone.length` items, as many fewer."""
    least_steps: PositiveInt = 50
    """Smaller batches, down to 16 windows, where a log is too small for so many steps an epoch."""
    learning_rate: PositiveFloat = 1e-3
    """Of AdamW, after a short linear warm-up."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of AdamW."""
    clip_norm: PositiveFloat = 5.0
    """Largest gradient norm."""
    max_epochs: PositiveInt = 100
    """Upper bound; early stopping usually comes first."""
    patience: PositiveInt = 5
    """Epochs without a better validation NDCG@10 (accuracy, of `cnn`) before training stops."""
    stale_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the steps with generated parameters that use stale ones, up to half a sample old. Without it, parameters
    that are a few interactions old rank worse than the shared ones (docs/results.md)."""
    shared_share: float = Field(default=0.25, ge=0, le=1)
    """Share of a duet run's steps that train the shared classifier (rank 0: the Universal Meta Network's loss)."""
    schedule: Schedule = "joint"
    """`joint`: all in one. `staged`: the Universal Meta Network first, until validation stops improving, then the
    generator; `max_epochs`, `patience` and the warm-up count for each."""
    meta_learning_rate: float = Field(default=0.0, ge=0)
    """Of the Universal Meta Network in the second stage, as a multiple of `learning_rate`; 0 freezes it."""


class FineTuningOptions(_Config):
    """What `fine-tuned` tries on validation before devices fine-tune with the best: every combination."""

    layers: tuple[Literal["classifier", "all"], ...] = ("classifier", "all")
    """Which layers a device trains."""
    learning_rates: tuple[PositiveFloat, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    """Of Adam, which starts afresh on every device."""
    steps: tuple[PositiveInt, ...] = (1, 2, 5, 10, 20, 50)
    """Steps after which a device may stop; a step takes all that the device knows."""
    users: PositiveInt = 1000
    """Choose on at most so many users, always the same ones of a data set."""


class TrainingConfig(_Config):
    """One run: data, variant, sizes, optimisation, seed."""

    model: Variant = "duet"
    """`duet`, or a baseline (docs/experiments.md): `static`, `capacity-matched`, `film`, `concatenated`, `apg`,
    `fine-tuned`."""
    data: DataOptions = DataOptions()
    backbone: BackboneOptions = BackboneOptions()
    generator: GeneratorOptions = GeneratorOptions()
    optimisation: OptimisationOptions = OptimisationOptions()
    fine_tuning: FineTuningOptions = FineTuningOptions()
    seed: int = Field(default=0, ge=0)
    """Seeds the split, the initialisation, the windows and the dropout."""

    @property
    def task(self) -> Literal["ranking", "classification"]:
        """What its backbone does."""
        return "classification" if self.backbone.name in CLASSIFIERS else "ranking"

    @model_validator(mode="after")
    def _check(self) -> "TrainingConfig":
        try:
            # without memory for any weight: whether it can be built is all that is asked
            with torch.device("meta"):
                backbone = build_backbone(self.backbone_sizes(item_count=1))
        except ValueError as error:
            raise ValueError(f"backbone: {error}") from error
        if self.data.split != "leave-one-out" and self.task == "classification":
            raise ValueError(
                f"data.split is for logs of items; {self.backbone.name} has devices of its own to validate on"
            )
        if self.optimisation.loss == "softmax" and not isinstance(backbone, DotProductBackbone):
            # each candidate of the whole catalogue would go through the classifier, at each position
            raise ValueError(
                f"optimisation.loss must be sampled-softmax or binary where backbone.name is {self.backbone.name} "
                "(set it first), got softmax"
            )
        if self.optimisation.schedule == "staged" and self.model != "duet":
            raise ValueError(f"optimisation.schedule staged is of model duet, which has two parts, got {self.model}")
        self._check_generator()
        if not self.generator.heads or len(set(self.generator.heads)) != len(self.generator.heads):
            raise ValueError(f"generator.heads must name each head once, got {list(self.generator.heads)}")
        if not all(self.fine_tuning.model_dump().values()):
            raise ValueError("fine_tuning must name at least one of layers, learning_rates and steps")
        if self.model == "fine-tuned" and self.task == "classification":
            raise ValueError("model must not be fine-tuned where pictures are classified: devices have labelled none")
        return self

    def _check_generator(self) -> None:
        options = self.generator
        if options.length is not None and options.length < self.backbone.length:
            raise ValueError(
                f"generator.length must be at least backbone.length, {self.backbone.length}, got {options.length}"
            )
        if self.task == "classification" and (
            options.length not in (None, self.backbone.length) or options.encoder != "head"
        ):
            raise ValueError(
                f"generator.length and generator.encoder are of backbones that rank items; leave them out for "
                f"{self.backbone.name}"
            )
        try:
            with torch.device("meta"):
                build_encoder(self.backbone_sizes(item_count=1), self.generator_sizes())
        except ValueError as error:
            raise ValueError(f"generator.encoder: {error}") from error

    @property
    def sample_length(self) -> int:
        """How many items or images a sample has, T: what the generator sees, which may be more than the device does."""
        if self.model in ("static", "fine-tuned") or self.generator.length is None:
            return self.backbone.length
        return self.generator.length

    def backbone_sizes(self, item_count: int) -> BackboneConfig:
        """Return the backbone's sizes for a catalogue of ``item_count`` items."""
        return BackboneConfig(item_count=item_count, **self.backbone.model_dump())

    def generator_sizes(self) -> GeneratorSizes:
        """Return the generator's sizes."""
        return GeneratorSizes(**self.generator.model_dump(exclude={"weight_decay", "delta_penalty"}))

    def with_max_epochs(self, epochs: int) -> "TrainingConfig":
        """Return the configuration with another bound on its epochs, which changes none of those before it."""
        return self.model_copy(update={"optimisation": self.optimisation.model_copy(update={"max_epochs": epochs})})

    def to_yaml(self) -> str:
        """Return the configuration as YAML that :func:`read_config` reads back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def override(config: TrainingConfig, settings: Mapping[str, str]) -> TrainingConfig:
    """Return the configuration with some settings changed, all at once: one may only be possible with another.

    Args:
        config: The configuration.
        settings: New values as YAML by setting, levels between dots: ``generator.rank``.

    Raises:
        InvalidData: If there is no such setting or a value does not fit.
    """
    document = config.model_dump(mode="json")
    for key, value in settings.items():
        level: object = document
        *path, last = key.split(".")
        for name in path:
            level = level.get(name) if isinstance(level, dict) else None
        if not isinstance(level, dict) or last not in level:
            known = [
                f"{name}.{inner}" if isinstance(fields, dict) else name
                for name, fields in document.items()
                for inner in (fields if isinstance(fields, dict) else [""])
            ]
            expected = f"one of {', '.join(known)}"
            raise InvalidData(path="settings", line=None, expected=expected, received=key, remedy="Correct the name.")
        level[last] = _parsed(value, f"the setting {key}")
    return _validated(document, f"the settings {', '.join(settings)}")


def difference(there: TrainingConfig, asked: TrainingConfig) -> str | None:
    """Name the first setting that makes two runs different; None if there is none.

    Where a log lies is no such setting (runs note its content), nor is what a model has not: a static one a generator,
    and all but fine-tuned ones how it is fine-tuned.
    """
    unused = {"generator"} if there.model == asked.model == "static" else set()
    unused |= set() if there.model == asked.model == "fine-tuned" else {"fine_tuning"}
    for name, value in there.model_dump(exclude=unused).items():
        other = asked.model_dump()[name]
        for inner in value if isinstance(value, dict) else [""]:
            ours, theirs = (value[inner], other[inner]) if inner else (value, other)
            if ours != theirs and (name, inner) != ("data", "source"):
                return f"{name}{'.' * bool(inner)}{inner}: {ours} there, {theirs} asked"
    return None


def read_config(path: Path) -> TrainingConfig:
    """Read a configuration.

    Raises:
        InvalidData: If the file is absent, is not YAML, or holds unknown or impossible settings; all are named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidData(
            path=path, line=None, expected="a readable YAML file", received=str(error), remedy="Check the path."
        ) from error
    document = _parsed(text, path)
    return _validated({} if document is None else document, path)


def _parsed(text: str, source: Path | str) -> object:
    try:
        parsed: object = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise InvalidData(
            path=source,
            line=None if mark is None else mark.line + 1,
            expected="YAML",
            received=str(getattr(error, "problem", error)),
            remedy="Compare with the files in duet/training/configs.",
        ) from error
    return parsed


def _validated(document: object, source: Path | str) -> TrainingConfig:
    try:
        return TrainingConfig.model_validate(document)
    except ValidationError as error:
        # a rule over several settings names them itself
        found = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {str(e['input'])[:60]} ({e['msg']})" if e["loc"] else f"file: {e['msg']}"
            for e in error.errors()
        )
        raise InvalidData(
            path=source,
            line=None,
            expected="a training configuration",
            received=found,
            remedy="See the settings in duet/training/config.py or the files in duet/training/configs.",
        ) from error
