"""Tables of what a device's own parameters cost: fine-tuned, generated in the cloud, generated on the device.

The costs stand in the records of fine-tuning, where all ways were measured in turn in one run (:mod:`.costs`); ratios
are therefore of one machine at one time. The time of an update is what the network takes, by the protocol's own links.
"""

import json
from collections.abc import Mapping
from statistics import median

from duet.evaluation.comparison import Variant
from duet.evaluation.costs import FINE_TUNED, ON_DEVICE
from duet.evaluation.record import INT8, Cost
from duet.protocol.budget import PROFILES

COST_READING = (
    "What parameters of one's own cost, a device, on one thread: alone, and many devices at once. ×: how many times "
    "cheaper than fine-tuning, all measured in turn in one run. MFLOP: arithmetic of matrix products, which no machine "
    "changes."
)
_TYPICAL_ID = 1000


def cost_of(variant: Variant, variants: Mapping[str, Variant]) -> Cost | None:
    """Return what it costs a variant to make parameters of one's own, if a record of its backbone tells."""
    return _costs(variants).get(variant.records[0].tested or variant.condition)


def cost_table(variants: Mapping[str, Variant]) -> str:
    """Return a row for every way; empty without records of fine-tuning."""
    costs = _costs(variants)
    if FINE_TUNED not in costs:
        return ""
    slow = costs[FINE_TUNED]
    rows = ["| way | alone ms | × | at once ms | × | MFLOP | × | kB kept on the device |", f"|{' --- |' * 8}"]
    for name, cost in costs.items():
        cells = [
            name,
            f"{cost.one_ms:.3g}",
            _ratio(slow.one_ms, cost.one_ms),
            "–" if cost.batched_ms is None else f"{cost.batched_ms:.3g}",
            _ratio(slow.batched_ms, cost.batched_ms),
            "–" if cost.megaflops is None else f"{cost.megaflops:,.2f}",
            _ratio(slow.megaflops, cost.megaflops),
            f"{cost.device_bytes / 1000:,.1f}" if cost.device_bytes else "–",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def choice_lines(variants: Mapping[str, Variant]) -> str:
    """Say how devices fine-tune and what that was chosen from."""
    lines = []
    for variant in variants.values():
        for record in variant.records:
            if record.fine_tuning is not None:
                best = record.fine_tuning.chosen
                layers = "the classifier" if best.layers == "classifier" else "all layers"
                lines.append(
                    f"seed {record.seed}: {layers}, {best.steps} steps at {best.learning_rate:g} "
                    f"({best.value:.4f}, best of {len(record.fine_tuning.trials)} tried on "
                    f"{record.fine_tuning.users:,} users)"
                )
    return f"Fine-tuning, chosen by validation NDCG@10: {'; '.join(lines)}."


def latency_table(variants: Mapping[str, Variant]) -> str:
    """Compare an update over each link with a generator on the device; empty if neither is known."""
    costs = _costs(variants)
    local = next((cost for name, cost in costs.items() if name.endswith(ON_DEVICE)), None)
    tested = (variant.records[0] for variant in variants.values() if variant.model == "duet")
    sizes = (record.sizes.update.get(record.tested or "") for record in tested if "factors" in str(record.tested))
    sent = next((size["int8"] for size in sizes if size), None)
    if local is None or sent is None:
        return ""
    length = next(iter(variants.values())).records[0].config.backbone.length
    asked = len(json.dumps({"device": "a" * 16, "sample": [_TYPICAL_ID] * length, "budget_ms": 200, "link": "slow-4g"}))
    rows = [
        f"An update of {sent:,} bytes (factors{INT8}) on the network, against {local.one_ms:.3g} ms for encoder and "
        "generator on the device: how many times slower than this machine a device may be before asking is faster.",
        "",
        "| link | network ms | device may be slower by |",
        "| --- | --- | --- |",
    ]
    for name, link in PROFILES.items():
        network_ms = link.exchange_ms(request_bytes=asked, response_bytes=sent)
        rows.append(f"| {name} | {network_ms:.1f} | {network_ms / local.one_ms:,.0f} × |")
    return "\n".join(rows)


def _costs(variants: Mapping[str, Variant]) -> dict[str, Cost]:
    """Return the median over seeds of each way, in the order of the records."""
    records = [record for variant in variants.values() for record in variant.records if record.costs]
    return {
        name: Cost.model_validate(
            {
                field: _median([getattr(record.costs[name], field) for record in records if name in record.costs])
                for field in Cost.model_fields
            }
        )
        for name in (records[0].costs if records else {})
    }


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return type(known[0])(median(known)) if known else None


def _ratio(slow: float | None, fast: float | None) -> str:
    return "–" if slow is None or not fast or slow == fast else f"{slow / fast:,.0f}"
