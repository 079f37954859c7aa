"""Workers that share every batch learn what one process learns, and all of them the same."""

import json
import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from duet.training import checkpoint
from duet.training.loop import train
from tests.duet.training.test_loop import changed

WORKER = """
import sys
from pathlib import Path
import torch
from duet.data.loading import load
from duet.training.config import read_config
from duet.training.loop import train
from duet.training.workers import Together
from safetensors.torch import save_file

folder, rank, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)

class Watched(Together):
    def backward(self, network, loss):
        self.network = network
        return super().backward(network, loss)

workers = Watched()
train(read_config(folder / "config.yaml"), load("synthetic:tiny"), folder / "run", workers=workers)
save_file(workers.network.state_dict(), folder / f"rank-{rank}.safetensors")
torch.distributed.destroy_process_group()
"""


def train_together(config, folder, size=2):
    """Train with workers that are processes of this machine; return where their files are."""
    (folder / "config.yaml").write_text(config.to_yaml())
    environment = os.environ | ({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {})
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(folder), str(rank), str(size)], env=environment)
        for rank in range(size)
    ]
    assert [worker.wait(timeout=300) for worker in workers] == [0] * size
    return folder / "run"


@pytest.fixture(scope="module")
def same_for_all(tiny_config):
    """A configuration that leaves workers nothing to draw for themselves."""
    return changed(
        tiny_config,
        backbone__dropout=0.0,
        generator__dropout=0.0,
        optimisation__max_epochs=3,
        # of the second epoch's 16 windows a step one is left over, and the second worker has nothing to do
        optimisation__batch_size=16,
    )


@pytest.mark.slow
def test_two_workers_have_the_losses_of_one_process(same_for_all, tiny_interactions, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    together.mkdir()
    train(same_for_all, tiny_interactions, alone)

    run = train_together(same_for_all, together)

    ours, theirs = checkpoint.read_history(run), checkpoint.read_history(alone)
    assert [epoch.loss for epoch in ours] == pytest.approx([epoch.loss for epoch in theirs], rel=1e-5)
    assert [epoch.positions for epoch in ours] == [epoch.positions for epoch in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.validation == pytest.approx(other.validation, abs=0.02)


@pytest.mark.long
@pytest.mark.parametrize("loss", ["softmax", "binary"])
def test_workers_end_with_the_same_weights_whatever_they_draw(tiny_config, tmp_path, loss):
    config = changed(tiny_config, optimisation__loss=loss, optimisation__max_epochs=2)

    run = train_together(config, tmp_path)

    first, second = (load_file(tmp_path / f"rank-{rank}.safetensors") for rank in range(2))
    assert all((first[name] == second[name]).all() for name in first)
    last = load_file(run / "last.safetensors")
    assert all((last[f"network.{name}"] == tensor).all() for name, tensor in first.items())
    assert [json.loads(line)["epoch"] for line in (run / "history.jsonl").read_text().splitlines()] == [1, 2]


def test_a_run_in_stages_is_not_shared(tiny_config, tmp_path):
    config = changed(tiny_config, optimisation__schedule="staged")

    # in a process of its own: Ray Train reads its variables when it is imported
    program = (
        "import sys; from pathlib import Path; from duet.data.loading import load; "
        "from duet.training.config import read_config; from duet.training.scale_out import train; "
        "train(read_config(Path(sys.argv[1])), load('synthetic:tiny'), Path(sys.argv[2]), workers=2)"
    )
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "config.yaml"), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert "TooManyWorkers: Expected one worker where optimisation.schedule is staged" in done.stderr
    assert not (tmp_path / "run").exists()
