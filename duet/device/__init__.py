"""What runs on a device: a model whose dynamic weights the cloud can renew. numpy, ONNX Runtime and httpx only."""

from duet.device.client import DuetDevice
from duet.device.runtime import DeviceModel, Ranking
from duet.device.update import Update

__all__ = ["DeviceModel", "DuetDevice", "Ranking", "Update"]
