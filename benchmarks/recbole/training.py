"""Trains a model of RecBole; runs in RecBole's environment, in the folder of a job, and imports nothing of ours.

Reads ``job.json``, ``log/*.inter`` and ``samples.npy``; writes ``scores.npy`` (catalogue order) and ``found.json``.
"""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

# RecBole 1.2.1 was written for numpy 1 and puts these names back together from others that numpy 2 has not
for _name, _type in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
    if not hasattr(np, _name):
        setattr(np, _name, _type)

BATCH = 512


def main() -> None:
    """Train to early stopping and score every user's catalogue with the best weights."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.data.interaction import Interaction
    from recbole.trainer import Trainer
    from recbole.utils import get_model, init_seed

    job: dict[str, Any] = json.loads(Path("job.json").read_text())
    torch.set_num_threads(job["threads"])
    config = Config(
        model=job["model"],
        dataset="log",
        config_dict={
            "data_path": ".",
            "checkpoint_dir": "saved",
            "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
            "alias_of_item_id": ["item_id_list"],
            "benchmark_filename": ["train", "valid", "test"],
            "MAX_ITEM_LIST_LENGTH": job["length"],
            "train_neg_sample_args": None,
            "loss_type": "CE",
            "eval_args": {"mode": "full", "order": "TO", "group_by": "user"},
            "metrics": ["NDCG", "Hit"],
            "topk": [10],
            "valid_metric": "NDCG@10",
            "epochs": job["epochs"],
            "stopping_step": job["patience"],
            "seed": job["seed"],
            "use_gpu": False,
            "show_progress": False,
        },
    )
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    training, validation, _ = data_preparation(config, dataset)
    model = get_model(config["model"])(config, training.dataset).to(config["device"])
    best: dict[str, Any] = {"value": -1.0, "epoch": 0, "epochs": 0, "weights": None}

    def keep(epoch: int, value: float) -> None:
        best["epochs"] = epoch + 1
        if value > best["value"]:
            best.update(value=value, epoch=epoch + 1, weights=copy.deepcopy(model.state_dict()))

    Trainer(config, model).fit(training, validation, saved=False, show_progress=False, callback_fn=keep)
    model.load_state_dict(best["weights"])
    model.eval()
    samples = np.load("samples.npy")
    columns = dataset.token2id("item_id", [str(item) for item in range(1, job["items"] + 1)])
    ids = np.concatenate([[0], columns])
    parts = []
    with torch.inference_mode():
        for start in range(0, len(samples), BATCH):
            items = samples[start : start + BATCH]
            asked = Interaction(
                {
                    "item_id_list": torch.from_numpy(ids[items]),
                    "item_length": torch.from_numpy((items != 0).sum(1)),
                }
            )
            parts.append(model.full_sort_predict(asked)[:, columns].numpy())
    np.save("scores.npy", np.concatenate(parts).astype(np.float32))
    found = {"best_epoch": best["epoch"], "epochs": best["epochs"], "version": "recbole 1.2.1"}
    Path("found.json").write_text(json.dumps(found | {"validation_ndcg10": float(best["value"])}))


if __name__ == "__main__":
    main()
