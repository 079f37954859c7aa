"""The demo's report and its numbers, from made-up visits and deliveries."""

import re
from dataclasses import replace

import pytest
from rich.console import Console

from app.commands.demo.command import _print_findings
from app.commands.demo.devices import Moment, Visit
from app.commands.demo.report import FORMS, MARKS, Findings, plot_latency, write_report
from app.commands.demo.summary import STAGES, delivery_of, quality_of
from duet.device import Ranking, Update
from duet.protocol.manifest import Quality, RepresentationRecord
from duet.protocol.representation import Dtype, Form, Representation

UPDATE = Update(
    "updated",
    Representation.parse("full-int8"),
    bytes_down=2852,
    plan="full-int8",
    network_ms=70.0,
    server_ms=2.0,
    server={"queue": 0.1, "encode": 0.4, "generate": 0.9, "compose": 0.2},
)
BEFORE = Ranking(("a", "b", "c"), ("Alien", "Brazil", "Casablanca"), (3.0, 2.0, 1.0))
AFTER = Ranking(("c", "a", "b"), ("Casablanca", "Alien", "Brazil"), (3.0, 2.0, 1.0))


def visit(shared, fresh, device=0):
    moment = Moment(user=device, step=25, history=["a"], following="c", stale_history=["b"])
    return Visit(device, moment, shared, shared, fresh, (UPDATE, UPDATE), BEFORE, AFTER)


# 3 entered, 2 left; the others stay on their side of the tenth place, or on it
VISITS = [
    visit(shared, fresh, device)
    for device, (shared, fresh) in enumerate([(11, 10), (40, 1), (12, 3), (10, 11), (1, 400), (10, 10), (11, 12)])
]


@pytest.fixture
def findings():
    quality = Quality("ndcg@10", "validation", 0.2, (0.1, 0.3))
    return Findings(
        model="demo v1",
        dataset="a log",
        budget_ms=200,
        lag=20,
        quality=quality_of(VISITS),
        records=[RepresentationRecord(Representation.parse(name), 2000, quality) for name in ("shared", "full-int8")],
        deliveries=[
            delivery_of(link, [replace(UPDATE, network_ms=network)], budget_ms=200)
            for link, network in (("slow-4g", 170.0), ("wifi", 3.0))
        ],
        example=VISITS[1],
        ground_truth=None,
    )


def test_entering_and_leaving_the_top_10_are_counted_apart():
    quality = quality_of(VISITS)

    assert (quality.entered, quality.left, quality.visits) == (3, 2, 7)


def test_console_and_report_say_how_many_entered_and_how_many_left(findings, tmp_path):
    console = Console(record=True, width=200)
    _print_findings(findings, console)
    write_report(tmp_path / "report.html", findings)

    html = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", (tmp_path / "report.html").read_text()))
    assert "enters it in 3 of 7 rankings, and leaves it in 2" in console.export_text()
    assert "enters the top 10 in 3 of 7 rankings, and leaves it in 2." in html


def test_the_second_panel_shows_the_stages_of_the_server_alone(findings):
    whole, server = plot_latency(findings.deliveries, findings.budget_ms).axes

    widths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in server.containers}
    assert widths == {
        **{stage: pytest.approx([UPDATE.server[stage]] * 2) for stage in STAGES},
        "rest": pytest.approx([0.4, 0.4]),
    }
    assert [bar.get_width() for bar in whole.containers[0]] == [170.0, 3.0]
    assert server.get_xlim()[1] < 4
    assert [text.get_text() for text in server.texts] == ["2.0 ms", "2.0 ms"]
    assert [text.get_text() for text in whole.texts] == ["172 ms", "5 ms"]


def test_a_plot_of_refusals_alone_is_empty(findings):
    refused = delivery_of("slow-3g", [replace(UPDATE, status="failed", error=ValueError("too slow"))], budget_ms=200)

    whole, server = plot_latency([refused], findings.budget_ms).axes

    assert not whole.texts
    assert not server.texts


def test_every_form_has_a_colour_and_every_dtype_a_mark():
    assert set(FORMS) == {form.name.lower() for form in Form}
    assert set(MARKS) == {dtype.name.lower() for dtype in Dtype}
