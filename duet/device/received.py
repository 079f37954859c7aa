"""What arrived at the device: read, held to what was asked, and put in place."""

from duet.device.cloud import Answer
from duet.device.decoders import DeviceDecoders
from duet.device.model_cache import InstalledModel
from duet.device.question import Question
from duet.device.runtime import DeviceModel
from duet.protocol.access_errors import ForgedPackage
from duet.protocol.package import ParameterPackage
from duet.protocol.representation import Form


def read_package(answer: Answer, installed: InstalledModel, decoders: DeviceDecoders | None) -> ParameterPackage:
    """Verify the package of an answer for the version in place; an embedding is read by who has its decoders.

    Raises:
        DuetError: What ``ParameterPackage.decode`` raises.
    """
    table = installed.model.table if decoders is None else installed.manifest.layers
    return ParameterPackage.decode(answer.body, table, version=installed.digest)


def check_question(package: ParameterPackage, installed: InstalledModel, question: Question) -> None:
    """Refuse a package that is genuine, but was recorded when another sample was sent.

    Raises:
        ForgedPackage: If it is one.
    """
    if package.tag != question.tag(installed.digest, package.representation):
        raise ForgedPackage(reason="its tag is that of another sample than the one that was sent")


def put_in_place(
    package: ParameterPackage, model: DeviceModel, decoders: DeviceDecoders | None, *, sample: object
) -> None:
    """Predict with the parameters of a package from now on; on any error the old ones stay.

    Raises:
        CorruptPackage: If they, or a score of ``sample``, are not finite.
    """
    form = package.representation.form
    if form is Form.SHARED:
        model.reset()
    elif form is Form.EMBEDDING:
        assert decoders is not None  # without them it cannot be read
        model.swap(decoders.parameters(package), sample=sample)
    else:
        model.swap(package.compose(model.shared), sample=sample)
