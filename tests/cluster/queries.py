"""Checks PromQL as a compiler would: every name, kind, label and value in it against what is exported."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import promql_parser as promql

from cluster.dashboard import PANELS
from tests.cluster.exported import Series, exported
from tests.cluster.manifests import rule_groups

Labels: TypeAlias = frozenset[str]

NOTHING: Labels = frozenset()
OF_COUNTS = ("rate", "increase")


class WrongQueryError(ValueError):
    """A query asks for what nobody exports."""


def rules(kind: str) -> list[dict[str, Any]]:
    """Rules that have a key: ``alert``, ``record`` or ``expr`` for all."""
    return [rule for group in rule_groups() for rule in group["rules"] if kind in rule]


def with_recorded() -> dict[str, Series]:
    """What is exported, and what recording rules make of it."""
    checker = Checker(exported())
    recorded = {rule["record"]: checker.labels(rule["expr"]) for rule in rules("record")}
    return exported() | {name: Series("gauge", dict.fromkeys(labels, NOTHING)) for name, labels in recorded.items()}


def filled_in(query: str) -> str:
    """Put in what Grafana would."""
    return query.replace("$__rate_interval", "1m").replace("$model", "demo")


def asked() -> frozenset[str]:
    """Every series that a rule or a panel asks for, and nobody records."""
    checker = Checker(with_recorded())
    shown = (filled_in(query) for panel in PANELS for query in panel.queries.values())
    for query in (*shown, *(rule["expr"] for rule in rules("expr"))):
        checker.labels(query)
    return frozenset(checker.asked & exported().keys())


@dataclass
class Checker:
    """Finds the labels of what a query returns.

    Attributes:
        series: That are exported, by name.
        asked: Names that queries have asked for.
    """

    series: Mapping[str, Series]
    asked: set[str] = field(default_factory=set)

    def labels(self, query: str) -> Labels:
        """Check a query.

        Returns:
            Labels of its result.

        Raises:
            WrongQueryError: If it cannot return what it is meant to.
        """
        labels = self._of(promql.parse(query), "")
        return NOTHING if labels is None else labels

    def _of(self, node: promql.Expr, function: str) -> Labels | None:
        """Labels of a vector, and none for a scalar, as an argument of ``function``."""
        match node:
            case promql.NumberLiteral() | promql.StringLiteral():
                return None
            case promql.ParenExpr():
                return self._of(node.expr, function)
            case promql.MatrixSelector():
                return self._of(node.vector_selector, function)
            case promql.VectorSelector():
                return self._selected(node, function)
            case promql.AggregateExpr():
                return self._aggregated(node)
            case promql.BinaryExpr():
                return self._joined(node)
            case promql.Call():
                return self._called(node)
        raise WrongQueryError(f"Expected an expression that this checker knows, got {type(node).__name__}.")

    def _selected(self, node: promql.VectorSelector, function: str) -> Labels:
        series = self.series.get(node.name)
        if series is None:
            raise WrongQueryError(f"Nobody exports {node.name}.")
        self.asked.add(node.name)
        if series.kind == "gauge" and function in OF_COUNTS:
            raise WrongQueryError(f"{node.name} is a gauge: it has no {function}.")
        if series.kind == "histogram" and function not in OF_COUNTS:
            raise WrongQueryError(f"{node.name} counts since its start: it needs a rate.")
        for matcher in node.matchers.matchers:
            known = series.labels.get(matcher.name)
            if known is None:
                raise WrongQueryError(f"{node.name} has no label {matcher.name}, but {sorted(series.labels)}.")
            if known and not known.issuperset(matcher.value.split("|")):
                raise WrongQueryError(f"{node.name} has no {matcher.name} {matcher.value}, but {sorted(known)}.")
        return frozenset(series.labels)

    def _aggregated(self, node: promql.AggregateExpr) -> Labels:
        labels, modifier = self._of(node.expr, ""), node.modifier
        if labels is None or modifier is None:
            return NOTHING
        if modifier.type != promql.AggModifierType.By or not labels.issuperset(modifier.labels):
            raise WrongQueryError(f"Expected by() of {sorted(labels)}, got {modifier.type} {modifier.labels}.")
        return frozenset(modifier.labels)

    def _joined(self, node: promql.BinaryExpr) -> Labels | None:
        left, right = self._of(node.lhs, ""), self._of(node.rhs, "")
        if left is None or right is None:
            return right if left is None else left
        # vectors meet where all labels are equal: others never do
        if left != right:
            raise WrongQueryError(f"Expected the same labels on both sides, got {sorted(left)} and {sorted(right)}.")
        return left

    def _called(self, node: promql.Call) -> Labels | None:
        name = node.func.name
        vectors = [labels for labels in (self._of(each, name) for each in node.args) if labels is not None]
        (labels,) = vectors
        if name == "histogram_quantile":
            if "le" not in labels:
                raise WrongQueryError(f"Expected buckets by le, got {sorted(labels)}.")
            return labels - {"le"}
        return NOTHING if name.startswith("absent") else labels
