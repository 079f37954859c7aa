"""A replica has the watchers of its node step behind it, and nobody else."""

import os
import subprocess
import sys

PARENT = """
import os, subprocess, sys

# Python itself under the names that processes of Ray give themselves
names = ("ray::DashboardAgent", "ray::ServeController", "ray::ServeReplica:duet:Encoder", "python")
beside = {
    name: subprocess.Popen([name, "-c", "print(1, flush=True); input()"], executable=sys.executable,
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for name in names
}
for process in beside.values():
    process.stdout.readline()
os.setpriority(os.PRIO_PROCESS, beside["ray::ServeController"].pid, 17)
replica = "from deployments.priority import let_watchers_wait; let_watchers_wait(); let_watchers_wait()"
subprocess.run([sys.executable, "-c", replica], check=True)
print({name: os.getpriority(os.PRIO_PROCESS, process.pid) for name, process in beside.items()})
for process in beside.values():
    process.communicate(b"\\n")
"""


def test_watchers_step_behind_and_replicas_stay() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", PARENT], check=True, capture_output=True, text=True, timeout=60
    ).stdout

    usual = os.getpriority(os.PRIO_PROCESS, 0)
    expected = {"ray::DashboardAgent": 15, "ray::ServeController": 17, "ray::ServeReplica:duet:Encoder": usual}
    assert printed.strip() == str(expected | {"python": usual})
