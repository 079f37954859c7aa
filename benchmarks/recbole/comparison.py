"""Trains SASRec and GRU4Rec here and with RecBole on the same split, and ranks the same items with both.

    python -m benchmarks recbole --data PATH [--models sasrec gru4rec] [--length 50] [--epochs 200] [--csv FILE]

RecBole is installed below ``.cache/benchmarks`` on the first call. It is given our rows as its atomic files: every
trained position with the items before it, the validation items, the test items. It trains as its own defaults say
(64 wide, cross-entropy over the catalogue, Adam 1e-3, batches of 2,048) and stops early on its own NDCG@10 of the
validation items. Ours is as wide, and has the settings of ``--config``. Then both score the whole catalogue for every
user, and this program ranks both: what the user has seen is left out, ties count half. RecBole itself leaves seen items
in; its selection on validation is thus on a slightly different question than ours.
"""

import csv
import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.command_line import parser_of
from benchmarks.recbole.environment import CACHE, environment
from benchmarks.recbole.rows import write_rows
from duet.data.interactions import Interactions
from duet.data.loading import load
from duet.evaluation.intervals import mean_interval
from duet.evaluation.provenance import provenance
from duet.networks.duet_network import SHARED
from duet.training import checkpoint
from duet.training.config import TrainingConfig, override, read_config
from duet.training.loop import train
from duet.training.networks import build_network
from duet.training.ranking import Questions, Ranks, ask, rank, ranks_of_scores
from duet.training.tasks import split_of

MODELS = {"sasrec": "SASRec", "gru4rec": "GRU4Rec"}
WIDTH = 64
_CONFIG = Path("duet/training/configs/movielens-100k.yaml")


def main(arguments: Sequence[str]) -> None:
    """Install, train, rank, print a table, and append to a CSV file if asked to."""
    parser = parser_of("recbole", __doc__)
    parser.add_argument("--data", required=True, help="the log, e.g. u.data of MovieLens-100K")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--config", type=Path, default=_CONFIG, help="our settings; RecBole has its own")
    parser.add_argument("--length", type=int, default=50, help="sample length T of both")
    parser.add_argument("--epochs", type=int, default=200, help="most epochs of either")
    parser.add_argument("--patience", type=int, default=10, help="epochs without a better validation, of either")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    data, python = load(options.data), environment()
    print(f"{data.name}: {data.summary}")
    print(f"{'model':8} {'by':8} {'NDCG@10':>8} {'interval':>17} {'HR@10':>7} {'UAUC':>7} {'best':>5} {'minutes':>8}")
    rows = []
    for name in options.models:
        config = _config(name, options)
        split = split_of(config, data)
        questions = ask(split, split.evaluated("test"), "test", options.length)
        for by, (ranks, found) in {
            "duet": _ours(config, data, questions),
            "recbole": _theirs(name, config, data, questions, python, options),
        }.items():
            value, low, high = mean_interval(ranks.ndcg())
            hit_rate, uauc = ranks.hit_rate().mean(), ranks.auc().mean()
            print(
                f"{name:8} {by:8} {value:8.4f} {low:8.4f}-{high:.4f}  {hit_rate:7.4f} {uauc:7.4f} "
                f"{found['best_epoch']:5} {found['seconds'] / 60:8.1f}",
                flush=True,
            )
            numbers = [f"{each:.5f}" for each in (value, low, high, hit_rate, uauc)]
            rows.append([data.name, name, by, options.seed, options.length, WIDTH, *numbers, found["best_epoch"],
                         found["epochs"], f"{found['seconds']:.0f}", found["version"]])  # fmt: skip
    _append(options.csv, rows)


def _append(path: Path | None, rows: list[list[Any]]) -> None:
    if path is None:
        return
    where, is_new = provenance(), not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(["data", "model", "by", "seed", "length", "width", "ndcg10", "low", "high", "hr10", "uauc",
                             "best_epoch", "epochs", "seconds", "version", "hardware", "commit"])  # fmt: skip
        writer.writerows([*row, where["hardware"], where["commit"]] for row in rows)


def _config(name: str, options: Any) -> TrainingConfig:
    return override(
        read_config(options.config),
        {
            "model": "static",
            "seed": str(options.seed),
            "backbone.name": name,
            "backbone.length": str(options.length),
            "backbone.width": str(WIDTH),
            "optimisation.max_epochs": str(options.epochs),
            "optimisation.patience": str(options.patience),
        },
    )


def _ours(config: TrainingConfig, data: Interactions, questions: Questions) -> tuple[Ranks, dict[str, Any]]:
    folder = CACHE / "runs" / f"{data.name}-{config.backbone.name}-t{config.backbone.length}-s{config.seed}"
    progress = train(config, data, folder)
    network = build_network(config, data.item_count)
    checkpoint.load_best(folder, network)
    found = {"best_epoch": progress.best_epoch, "epochs": progress.epoch, "seconds": progress.seconds}
    return rank(network, questions, SHARED), found | {"version": f"torch {torch.__version__}"}


def _theirs(
    name: str, config: TrainingConfig, data: Interactions, questions: Questions, python: Path, options: Any
) -> tuple[Ranks, dict[str, Any]]:
    folder = CACHE / "recbole-job"
    shutil.rmtree(folder, ignore_errors=True)
    write_rows(split_of(config, data), config.backbone.length, folder, name="log")
    np.save(folder / "samples.npy", questions.samples)
    job = {
        "model": MODELS[name],
        "items": data.item_count,
        "length": options.length,
        "epochs": options.epochs,
        "patience": options.patience,
        "seed": options.seed,
        "threads": options.threads,
    }
    (folder / "job.json").write_text(json.dumps(job))
    started = time.perf_counter()
    script = Path(__file__).with_name("training.py").absolute()
    done = subprocess.run([python, script], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Expected RecBole to train, but it ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found = json.loads((folder / "found.json").read_text()) | {"seconds": time.perf_counter() - started}
    return ranks_of_scores(np.load(folder / "scores.npy"), questions), found
