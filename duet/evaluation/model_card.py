"""The model card of a version: what it was made of and how, how good each representation is, when not to use it.

Markdown, generated from what is known when a version is published; nobody edits it, its hash stands in the manifest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from duet.protocol.canonical_json import Json
from duet.protocol.manifest import RepresentationRecord
from duet.training.config import TrainingConfig


@dataclass(frozen=True)
class CardText:
    """What a task says of a model, a sentence or a paragraph each.

    Attributes:
        about: What the model is.
        data: What it was trained on.
        protocol: What was held out, and how the best epoch was selected.
        measured: What the quality below is measured on.
        limits: What it cannot do, or nobody knows.
        unsuitable: When something else is the better choice, an item of a list each.
    """

    about: str
    data: str
    protocol: str
    measured: str
    limits: str
    unsuitable: tuple[str, ...]


def model_card(
    title: str,
    text: CardText,
    config: TrainingConfig,
    training: Mapping[str, Json],
    records: Sequence[RepresentationRecord],
) -> str:
    """Write the card.

    Args:
        title: Model and version.
        text: What the task says.
        config: The run.
        training: What the manifest says of the run.
        records: Everything that the version can answer with, the shared parameters first.
    """
    metric = records[0].quality.metric
    metric = metric.upper() if metric.startswith("ndcg") else metric
    rows = "\n".join(
        f"| {r.representation} | {r.package_bytes:,} | {r.quality.value:.4f} | "
        f"{r.quality.interval[0]:.4f} to {r.quality.interval[1]:.4f} |"
        for r in records
    )
    unsuitable = "\n".join(f"- {each}" for each in (*_measured_out(records), *text.unsuitable))
    settings = "\n".join(f"- {name}: {told}" for name, told in _settings(config, training).items())
    return f"""# {title}

{text.about}

## Data

{text.data}

## Protocol

{text.protocol}

## Quality

{text.measured}, through package bytes and the device's ONNX graph, with 95 % bootstrap intervals over
devices. The best epoch was selected on the same questions, so expect slightly less on new ones.

| representation | package bytes | {metric} | 95 % interval |
|---|---|---|---|
{rows}

## Training

{settings}

The whole configuration, as `duet train` reads it:

```yaml
{config.to_yaml().rstrip()}
```

## Limits

{text.limits}

## When not to use it

{unsuitable}
"""


def _measured_out(records: Sequence[RepresentationRecord]) -> list[str]:
    """Say what the measurement above already says against generating."""
    shared, *others = records
    if not others:
        return []
    best = max(others, key=lambda record: record.quality.value)
    if best.quality.value <= shared.quality.value:
        return ["For anything but trying it out: no representation did better here than the shared parameters."]
    if best.quality.interval[0] <= shared.quality.interval[1]:
        return [
            f"Without a comparison of your own: the intervals of {best.representation} and of the shared parameters "
            "overlap, so these\n  devices alone do not show a gain."
        ]
    return []


def _settings(config: TrainingConfig, training: Mapping[str, Json]) -> dict[str, str]:
    backbone, generator, options = config.backbone, config.generator, config.optimisation
    versions = training["versions"]
    assert isinstance(versions, dict)
    return {
        "device model": f"{backbone.name}, {backbone.blocks} blocks, width {backbone.width}, samples of "
        f"{backbone.length}, dropout {backbone.dropout:g}",
        "generator": f"embedding {generator.embedding_dim}, rank {generator.rank}, heads "
        f"{', '.join(generator.heads)}, {generator.decoders} decoders, dropout {generator.dropout:g}",
        "loss": f"{options.loss}; AdamW, learning rate {options.learning_rate:g}, weight decay "
        f"{options.weight_decay:g}, at most {options.batch_size} windows a step",
        "steps": f"{options.shared_share:.0%} with the shared classifier, {options.stale_share:.0%} of the others "
        "with stale parameters",
        "stopping": f"best of {training['epochs']} epochs: {training['best_epoch']}, patience {options.patience}",
        "seed": str(config.seed),
        "commit": str(training["commit"]),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
