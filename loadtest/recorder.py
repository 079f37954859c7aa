"""Records a run of Locust second by second, in every process; the process that leads it writes report and exit code.

Workers send what they have once a second, and the rest when they stop, before they say that they have stopped.
"""

import logging
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
import locust.stats
from locust.env import Environment
from locust.runners import STATE_INIT, STATE_STOPPED, MasterRunner, WorkerRunner

from loadtest.replicas import count_replicas
from loadtest.report import write_report
from loadtest.run import Event, LoadPlan, Run
from loadtest.slo import GENERATOR, load_objectives
from loadtest.timeline import CPU, IN_FLIGHT, LAG, LATENCY, SERVICE, USERS, Timeline, bucket_ms
from loadtest.updates import Update

_MESSAGE = "duet_seconds"
_REPLICAS_EVERY_S = 2.0
_CPU_LIMIT = 0.9

_LOGGER = logging.getLogger(__name__)

# in every process that loads a locustfile: Locust's own buckets are 1 ms wide, and 10 from 100 ms on
locust.stats.bucket_response_time = bucket_ms
locust.stats.PERCENTILES_TO_CHART = [0.5, 0.95, 0.99, 0.999]


@dataclass(frozen=True)
class Outputs:
    """Where a report goes and what the run is held to; taken once, when the process starts.

    Locust's web UI writes whatever it is sent into the options of the process, so that these are not read from there.
    """

    folder: Path | None
    slo: Path


class Recorder:
    """What one process knows of a run.

    Attributes:
        timeline: The seconds of this process, in the leading one those of all.
        in_flight: Requests under way in this process.
        plan: How the load goes, where somebody has said so.
        events: What happened besides the load.
    """

    def __init__(self, environment: Environment) -> None:
        options = environment.parsed_options
        self._environment = environment
        self._outputs = Outputs(Path(options.report) if options.report else None, Path(options.slo))
        self._is_worker = isinstance(environment.runner, WorkerRunner)
        self._started_s = time.perf_counter()
        self._greenlets: list[gevent.Greenlet] = []
        self._ended_s: float | None = None
        self._has_warned = False
        self._cpu_limit = _CPU_LIMIT
        self.timeline = Timeline()
        self.in_flight = 0
        self.plan = LoadPlan()
        self.events: list[Event] = []
        if not self._is_worker and self._outputs.folder is not None:
            # a mistake in the file is told before the run, not after it
            limit = load_objectives(self._outputs.slo, None)[GENERATOR].get("cpu_share")
            self._cpu_limit = limit.at_most if limit is not None and limit.at_most is not None else _CPU_LIMIT
        if isinstance(environment.runner, MasterRunner):
            environment.runner.register_message(_MESSAGE, self._receive)
        environment.events.test_start.add_listener(lambda **_: self._start())
        environment.events.test_stop.add_listener(lambda **_: self._stop())
        if not self._is_worker:
            environment.events.quitting.add_listener(lambda **_: self._quit())
            if environment.shape_class is not None and options.headless:
                # Locust handles it only where no shape runs, and would end here without a report
                gevent.signal_handler(signal.SIGTERM, environment.runner.quit)

    def now_s(self) -> float:
        """Return the time since the run started, in this process."""
        return time.perf_counter() - self._started_s

    def due(self, due_s: float) -> None:
        """Count an update that a device wants."""
        self.timeline.at(due_s).counts["due"] += 1

    def withdrawn(self, due_s: float) -> None:
        """Take back an update that the end of the run cut short."""
        self.timeline.at(due_s).counts["due"] -= 1

    def dropped(self, due_s: float) -> None:
        """Count an update that is due and cannot be sent."""
        self.due(due_s)
        self.timeline.at(due_s).counts["dropped"] += 1

    def lag(self, due_s: float) -> None:
        """Count how late an update was sent."""
        self.timeline.at(due_s).observe(LAG, (self.now_s() - due_s) * 1000)

    def faulty(self, due_s: float, fault: str | None) -> None:
        """Count a request that was wrong on purpose."""
        second = self.timeline.at(due_s)
        second.counts["faulty/refused" if fault is None else "faulty/mishandled"] += 1
        if fault is not None:
            second.counts[f"fault/{fault}"] += 1

    def update(self, update: Update) -> None:
        """Count what became of an update, in the second in which it was due."""
        second = self.timeline.at(update.due_s)
        counts = second.counts
        counts[f"outcome/{update.outcome}"] += 1
        counts["retries"] += update.retries
        if update.fault is not None:
            counts[f"fault/{update.fault}"] += 1
        counts[f"rung/{update.answer or update.outcome}"] += 1
        if update.answer is None:
            return
        counts[f"answer/{update.answer}"] += 1
        counts[f"plan/{update.plan}"] += 1
        counts[f"version/{str(update.version)[:8]}"] += 1
        counts[f"profile/{update.profile}/{update.outcome}"] += 1
        counts["bytes"] += update.package_bytes
        second.observe(LATENCY, update.latency_ms)
        second.observe(SERVICE, update.service_ms)
        second.observe(f"delivered/{update.profile}", update.delivered_ms)

    def outstanding(self) -> int:
        """Count what is due and has no outcome yet."""
        total = self.timeline.total
        return total.counts["due"] - total.counts["dropped"] - sum(total.of("outcome").values())

    def _start(self) -> None:
        self._started_s, self._ended_s, self._has_warned = time.perf_counter(), None, False
        self.timeline, self.events, self.in_flight = Timeline(), [], 0
        self._environment.duet_is_ending = False
        self._greenlets = [gevent.spawn(self._watch_itself)]
        if not self._is_worker and self._outputs.folder is not None:
            self._greenlets.append(gevent.spawn(self._watch_replicas))

    def _stop(self) -> None:
        gevent.killall(self._greenlets)
        self._ended_s = self.now_s()
        if self._is_worker:
            self._send()
        elif self._outputs.folder is not None:
            self._report(self._outputs.folder)

    def _quit(self) -> None:
        # SIGTERM gets here with a run under way
        runner = self._environment.runner
        if runner.state not in (STATE_INIT, STATE_STOPPED):
            runner.stop()

    def _report(self, folder: Path) -> None:
        options = self._environment.parsed_options
        self.timeline.settle()
        run = Run(
            timeline=self.timeline,
            plan=self.plan,
            ran_s=self._ended_s or 0.0,
            events=tuple(self.events),
            host=str(self._environment.host),
            options={
                name: str(getattr(options, name))
                for name in ("model", "world", "mix", "server_share_ms", "retries", "malformed_share", "seed")
            },
        )
        result = write_report(folder, run, self._outputs.slo)
        for line in result.lines:
            print(line, file=sys.stderr)
        self._environment.process_exit_code = result.exit_code

    def _watch_itself(self) -> None:
        """Once a second: how much of a core this process takes, and what it has to send."""
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        while True:
            gevent.sleep(1.0)
            now_wall_s, now_cpu_s = time.perf_counter(), time.process_time()
            second = self.timeline.at(max(0.0, self.now_s() - 1.0))
            if not isinstance(self._environment.runner, MasterRunner):
                share = (now_cpu_s - cpu_s) / (now_wall_s - wall_s)
                second.gauge(CPU, share)
                second.gauge(IN_FLIGHT, self.in_flight)
                second.gauge(USERS, self._environment.runner.user_count)
                self._warn(share)
            wall_s, cpu_s = now_wall_s, now_cpu_s
            if self._is_worker:
                self._send()

    def _warn(self, share: float) -> None:
        if share > self._cpu_limit and not self._has_warned:
            self._has_warned = True
            _LOGGER.warning(
                "The load generator takes %.0f %% of a core: it may be the limit, not the server. "
                "Use --processes -1, or workers on other machines.",
                100 * share,
            )

    def _watch_replicas(self) -> None:
        while True:
            for deployment, count in count_replicas(str(self._environment.host)).items():
                self.timeline.at(self.now_s()).gauge(f"replicas/{deployment}", count)
            gevent.sleep(_REPLICAS_EVERY_S)

    def _send(self) -> None:
        self._environment.runner.send_message(_MESSAGE, self.timeline.take())

    def _receive(self, *, msg: Any, **_: object) -> None:
        self.timeline.merge(msg.data)


def recorder_of(environment: Environment) -> Recorder:
    """Return the recorder of this process; the first call makes it."""
    recorder: Recorder | None = getattr(environment, "duet_recorder", None)
    if recorder is None:
        recorder = environment.duet_recorder = Recorder(environment)
    return recorder
