"""A process that serves freezes what it loads, and looks at its young objects less often; no other process does."""

import subprocess
import sys
from pathlib import Path

from tests.published_version import write_version

LOADS = """
import gc, sys
from deployments.garbage_collector import serve_from_here
from deployments.prepared_versions import PreparedVersions

def load(published):
    return [published.version]

versions = PreparedVersions(sys.argv[1], load)

def is_watched(prepared):
    return any(each is prepared for each in gc.get_objects())

before = versions.get("tiny", "v1")
print(gc.get_freeze_count(), is_watched(before), gc.get_threshold()[0] < 1000)
serve_from_here()
print(gc.get_freeze_count() > 1000, is_watched(before), gc.get_threshold()[0] < 1000)
frozen = gc.get_freeze_count()
later = versions.get("tiny", "v2")
print(gc.get_freeze_count() > frozen, is_watched(later), gc.get_threshold()[0] < 1000)
"""


def test_only_a_process_that_serves_freezes_what_it_loads(tmp_path: Path) -> None:
    for number in (1, 2):
        write_version(tmp_path, version=f"v{number}", seed=number)

    printed = subprocess.run(
        [sys.executable, "-c", LOADS, str(tmp_path)], check=True, capture_output=True, text=True, timeout=120
    ).stdout

    assert printed.splitlines() == ["0 True True", "True False False", "True False False"]
