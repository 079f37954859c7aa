"""Time of ranking the held-out item of every user in the full catalogue, as `duet evaluate` does.

    python -m benchmarks evaluation --data PATH [--threads 2] [--length 50] [--width 64] [--csv FILE]

Two networks a backbone, untrained: the time of a ranking does not depend on what the weights are. *Questions* is what
is prepared once for a split (samples, seen items, 99 sampled negatives); *static* and *duet* rank everybody once, in
the whole catalogue and among the sampled items; *record* is `duet evaluate` of a generated model: every condition,
the stale, mean and swapped ones too. The process keeps to as many cores as it has threads.
"""

import csv
import os
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save

from benchmarks.command_line import parser_of
from duet.data.interactions import Interactions
from duet.data.loading import load
from duet.evaluation.conditions import evaluate_run
from duet.evaluation.provenance import provenance
from duet.training import checkpoint
from duet.training.config import TrainingConfig
from duet.training.networks import build_network
from duet.training.ranking import ask, rank
from duet.training.tasks import split_of

BACKBONES = ("sasrec", "gru4rec")


def main(arguments: Sequence[str]) -> None:
    """Measure, print a table, and append to a CSV file if asked to."""
    parser = parser_of("evaluation", __doc__)
    parser.add_argument("--data", required=True, help="the log, e.g. of MovieLens-1M")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--length", type=int, default=50, help="sample length T")
    parser.add_argument("--width", type=int, default=64, help="width of item vectors")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if len(os.sched_getaffinity(0)) > options.threads:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    data, where = load(options.data), provenance()
    print(f"{data.name}: {data.summary}; {where['hardware']}, {options.threads} threads")
    print(f"{'backbone':10} {'what':12} {'seconds':>9} {'cpu s':>8} {'users/s':>9}")
    rows = []
    for backbone in BACKBONES:
        for what, seconds, cpu_s, users in _measure(backbone, data, options.length, options.width):
            print(f"{backbone:10} {what:12} {seconds:9.2f} {cpu_s:8.2f} {users / seconds:9,.0f}", flush=True)
            times = [f"{seconds:.3f}", f"{cpu_s:.3f}", where["hardware"], where["commit"]]
            sizes = [options.length, options.width, options.threads]
            rows.append([data.name, users, data.item_count, backbone, what, *sizes, *times])
    if options.csv is not None:
        is_new = not options.csv.exists()
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        with options.csv.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["data", "users", "items", "backbone", "what", "length", "width", "threads", "seconds",
                                 "cpu_s", "hardware", "commit"])  # fmt: skip
            writer.writerows(rows)


def _measure(backbone: str, data: Interactions, length: int, width: int) -> list[tuple[str, float, float, int]]:
    """Return what was done, its seconds, the processor's seconds and the users."""
    configs = {
        model: TrainingConfig.model_validate(
            {"model": model, "backbone": {"name": backbone, "length": length, "width": width}}
        )
        for model in ("static", "duet")
    }
    split, found = split_of(configs["static"], data), []
    clock = _Clock()
    questions = ask(split, split.evaluated("test"), "test", length)
    found.append(("questions", *clock.lap(), len(questions.targets)))
    for model, config in configs.items():
        torch.manual_seed(0)
        network = build_network(config, data.item_count)
        clock = _Clock()
        rank(network, questions, network.served[0])  # type: ignore[index,arg-type]
        found.append((model, *clock.lap(), len(questions.targets)))
    with TemporaryDirectory() as folder:
        run = Path(folder)
        (run / checkpoint.CONFIG).write_text(configs["duet"].to_yaml())
        (run / checkpoint.BEST).write_bytes(save(network.state_dict()))
        checkpoint.claim_data(run, data)
        clock = _Clock()
        evaluate_run(run, data)
        found.append(("record", *clock.lap(), len(questions.targets)))
    return found


class _Clock:
    """Seconds since it was made, and the processor's seconds of this process."""

    def __init__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def lap(self) -> tuple[float, float]:
        return time.perf_counter() - self._started[0], time.process_time() - self._started[1]
