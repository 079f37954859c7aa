"""What a device has to load."""

import json
import subprocess
import sys


def test_a_fresh_process_loads_no_library_of_the_cloud():
    program = "import json, sys, duet.device; print(json.dumps(sorted(sys.modules)))"

    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    loaded = {name.partition(".")[0] for name in json.loads(process.stdout)}
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "ray", "fastapi", "pydantic", "onnx"}
