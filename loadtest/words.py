"""What a page calls a figure, and how it writes one: words and units instead of names of fields."""

import math

TOLD = {
    "due": "updates due",
    "offered_rps": "updates due, a second",
    "goodput_rps": "updates in time, a second",
    "in_time_share": "updates in time",
    "late_share": "updates late",
    "shed_share": "updates shed (429, 503)",
    "refused_share": "updates refused otherwise",
    "failed_share": "updates wrong, lost or in error",
    "answered_share": "updates with a right answer or a documented refusal",
    "dropped_share": "updates that the load generator never sent",
    "retried_share": "retries, of the updates",
    "keep_share": "replies that said to keep what is held",
    "p50_ms": "median from due to the last byte",
    "p95_ms": "p95 from due to the last byte",
    "p99_ms": "p99 from due to the last byte",
    "p999_ms": "p99.9 from due to the last byte",
    "service_p99_ms": "p99 from sent to the last byte",
    "lag_p99_ms": "sent after it was due, p99",
    "cpu_share": "of a core, that the load generator took",
    "mishandled": "faulty requests that were not refused as documented",
    "ran_share": "of the shape, that ran",
    "disturbed_in_time_share": "updates in time during the disturbance",
    "disturbed_goodput_share": "goodput during the disturbance, of that before",
    "recovery_s": "after the disturbance until all is in time again",
    "knee_rps": "largest load carried, a second",
    "knee_load": "largest load carried, of --rate",
}
"""Words by figure."""

_NOT_MEASURED, _NEVER = "not measured", "never"


def told(figure: str) -> str:
    """Name a figure; what has no words of its own, such as an event, keeps its name."""
    return TOLD.get(figure, figure)


def written(figure: str, value: float) -> str:
    """Write a value with the unit of its figure."""
    if math.isnan(value):
        return _NOT_MEASURED
    if math.isinf(value):
        return _NEVER
    if figure.endswith("_share") or figure == "knee_load":
        return percent(value)
    unit = next((unit for suffix, unit in (("_ms", " ms"), ("_s", " s")) if figure.endswith(suffix)), "")
    return f"{number(value)}{unit}"


def number(value: float) -> str:
    """Write a number with as many digits as one reads."""
    if math.isnan(value):
        return _NOT_MEASURED
    if math.isinf(value):
        return _NEVER
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def percent(share: float) -> str:
    """Write a share so that 0 % and 100 % are said of nothing else."""
    if math.isnan(share):
        return "–"
    if 0 < share < 1e-4 or 0 < 1 - share < 1e-4:
        return "< 0.01 %" if share < 0.5 else "> 99.99 %"
    return f"{100 * share:.2f} %".replace(".00 %", " %")
