"""The dashboard is what its script writes, and what Grafana can show."""

import json

import promql_parser

from cluster import dashboard


def test_the_file_is_what_the_script_writes() -> None:
    assert dashboard.FILE.read_text(encoding="utf-8") == dashboard.written(), "run `python cluster/dashboard.py`"


def test_panels_have_their_own_place_and_number() -> None:
    panels = json.loads(dashboard.written())["panels"]
    cells = {
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    }

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(cells) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in panels)
    assert all(0 <= x < 24 for x, _ in cells)
    assert all(panel["targets"] for panel in panels)


def test_every_query_is_promql_once_grafana_has_filled_it_in() -> None:
    for panel in dashboard.PANELS:
        for query in panel.queries.values():
            promql_parser.parse(query.replace("$__rate_interval", "1m").replace("$model", "demo"))


def test_queries_choose_the_data_source_and_model_of_the_reader() -> None:
    document = json.loads(dashboard.written())

    variables = {variable["name"] for variable in document["templating"]["list"]}
    assert variables == {"datasource", "model"}
    assert {target["datasource"]["uid"] for panel in document["panels"] for target in panel["targets"]} == {
        "${datasource}"
    }
