"""What anybody may read about the server is chosen name by name, and is what is in force."""

import json

from app.metadata import HIDDEN_SETTINGS, SHOWN_SETTINGS, MetadataReader
from app.settings import AppSettings, serving_environment


def test_every_setting_is_either_shown_or_hidden_on_purpose() -> None:
    assert set(AppSettings.model_fields) == SHOWN_SETTINGS | HIDDEN_SETTINGS
    assert not SHOWN_SETTINGS & HIDDEN_SETTINGS


def test_the_document_tells_versions_placement_settings_and_where_metrics_are() -> None:
    settings = AppSettings(placement="split", max_batch=7)
    reader = MetadataReader(settings, endpoints=lambda: ["http://192.0.2.1:8080/metrics"], environment={})

    document = reader.read({"demo": "v3"}).model_dump(mode="json")

    assert (document["name"], document["placement"], document["models"]) == ("duet-serve", "split", {"demo": "v3"})
    assert document["settings"]["max_batch"] == 7
    assert document["libraries"]["ray"].startswith("2.")
    assert document["metrics"] == ["http://192.0.2.1:8080/metrics"]


def test_flags_are_those_of_this_process_and_no_other_variable_is_told() -> None:
    environment = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "0", "RAY_AUTH_TOKEN": "secret", "AWS_SECRET_ACCESS_KEY": "secret"}
    reader = MetadataReader(
        AppSettings(models="/secret/folder", trace_file="/secret/file"), endpoints=list, environment=environment
    )

    document = reader.read({})

    assert document.flags["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "0"
    assert document.flags["RAY_SERVE_ENABLE_HA_PROXY"] is None
    assert set(serving_environment("haproxy", "linux")) <= set(document.flags)
    assert "secret" not in json.dumps(document.model_dump(mode="json"))
