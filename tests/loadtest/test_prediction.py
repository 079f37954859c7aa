"""What is predicted from closed loops is what an open loop measures, end to end, on a server of known times."""

from random import Random

import numpy as np
import pytest

from loadtest.arrivals import arrivals
from loadtest.calibration import calibrated_by_report
from loadtest.lean_client import LeanClient
from loadtest.prepared import Target, judged, prepare
from loadtest.profiles import NetworkMix
from loadtest.queueing import simulate
from loadtest.timeline import LATENCY
from tests.loadtest.generator_runs import start_saturation
from tests.loadtest.paced_cloud import PacedCloud

pytestmark = [pytest.mark.alone, pytest.mark.long]

BATCH_MS, REQUEST_MS = 30.0, 6.0
LOADS, SECONDS = (0.5, 0.7), 15


def test_times_of_a_server_come_out_of_closed_loops_and_predict_the_waits_of_an_open_one(tmp_path):
    with PacedCloud(BATCH_MS, REQUEST_MS) as cloud:
        options = ("--connections", "1", "8", "32", "--step-s", "4", "--forgetful", "--server-share-ms", "9000")
        code, _, output = start_saturation(cloud.url, tmp_path / "run", *options).finish()
        found = calibrated_by_report(tmp_path / "run" / "report.json")
        target = Target(cloud.url, "demo")
        requests = prepare(
            target,
            served := target.served(),
            world="tiny",
            mix=NetworkMix({"wifi": 1}),
            count=200,
            server_share_ms=9000,
            is_forgetful=True,
        )
        measured = {}
        for load in LOADS:
            client = LeanClient(cloud.url, [each.message for each in requests])
            client.arrive(arrivals(lambda _, load=load: load * found.measured_rps, Random(1), SECONDS), SECONDS)
            total = judged(client.exchanges, requests, [served], is_open_loop=True).total
            measured[load] = [total.quantile_ms(LATENCY, share) for share in (0.5, 0.95)]

    assert code == 0, output
    assert total.of("outcome").keys() == {"in-time"}
    # a busy machine only adds to it
    assert found.times.batch_ms + found.times.request_ms == pytest.approx(BATCH_MS + REQUEST_MS, rel=0.25)
    assert found.times.request_ms == pytest.approx(REQUEST_MS, rel=0.2)
    for load, (p50_ms, p95_ms) in measured.items():
        predicted = np.quantile(simulate(found.times, load * found.measured_rps), [0.5, 0.95])
        assert predicted == pytest.approx([p50_ms, p95_ms], rel=0.25), (load, found)
