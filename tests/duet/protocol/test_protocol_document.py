"""docs/protocol.md says what the code does: its tables, its worked example and its numbers."""

import re
import struct
from pathlib import Path

import pytest

from duet.protocol import access_errors, budget, errors, package, signing
from duet.protocol.golden import FOLDER
from duet.protocol.golden.vectors import TABLES
from duet.protocol.representation import Dtype, Form, Representation

DOCUMENT = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")
EXAMPLE = (FOLDER / "example-factors-r1-int8.bin").read_bytes()


def rows_after(header: str) -> list[list[str]]:
    """The cells of the table that starts with ``header``."""
    lines = DOCUMENT[DOCUMENT.index(header) :].splitlines()
    body = [line for line in lines[: lines.index("")] if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


def test_the_byte_table_is_the_header_without_gaps():
    fields = [(int(offset), int(size)) for offset, size, *_ in rows_after("| offset | bytes | field |")]

    sizes = [struct.calcsize(code) for code in ("4s", "B", "B", "B", "B", "I", "I", "16s", "16s", "8s", "8s")]
    assert [size for _, size in fields] == sizes
    assert [offset for offset, _ in fields] == [sum(sizes[:place]) for place in range(len(sizes))]
    assert sum(sizes) == package.HEADER_BYTES
    assert (package.MAGIC, package.FORMAT) == (b"DUET", 1)


def test_forms_and_dtypes_have_the_documented_numbers():
    forms = {name.upper(): int(number) for number, name, *_ in rows_after("| form | | rank |")}
    dtypes = {name.upper(): int(number) for number, name, *_ in rows_after("| dtype | | matrices |")}

    assert forms == {form.name: form.value for form in Form}
    assert dtypes == {dtype.name: dtype.value for dtype in Dtype} | {"INT4": 4}


@pytest.mark.parametrize("form", [Form.FACTORS, Form.FULL, Form.COMPOSED], ids=lambda form: form.name)
def test_the_body_of_a_form_is_the_documented_one(form):
    (cell,) = [holds for number, _, _, holds, _ in rows_after("| form | | rank |") if number == str(form.value)]
    documented = re.findall(r"`(\w+) \[", cell)

    representation = Representation(form, Dtype.FLOAT32, 0 if form is Form.FULL else 1)
    assert documented == [slot.role for slot in TABLES["example"].slots(representation)]


def test_the_worked_example_is_the_golden_vector():
    (block,) = re.findall(r"```hex\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    lines = [line.split() for line in block.splitlines()]

    assert bytes.fromhex("".join("".join(line[1:]) for line in lines)) == EXAMPLE
    assert [int(line[0]) for line in lines] == list(range(0, len(EXAMPLE), 16))


def test_the_explanation_of_the_worked_example_is_right():
    explained = {int(at): (data.strip("`"), meaning) for at, data, meaning in rows_after("| at | bytes | means |")}
    decoded = package.ParameterPackage.decode(EXAMPLE, TABLES["example"])
    slots = {64 + slot.offset: slot for slot in TABLES["example"].slots(decoded.representation)}

    assert slots.keys() <= explained.keys()
    for at, (data, meaning) in explained.items():
        if "…" not in data:
            assert EXAMPLE[at : at + len(bytes.fromhex(data))] == bytes.fromhex(data)
        if at not in slots:
            continue
        slot = slots[at]
        assert meaning.startswith(f"`{slot.role}`:")
        written = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", meaning.replace("−", "-").split(":")[1])]
        stored = [float(number) for number in slot.read(decoded.body).reshape(-1)]
        meant = getattr(decoded.values()["d"], slot.role, None) if slot.dtype == "int8" else None
        expected = stored if meant is None else [*stored, *meant.reshape(-1).tolist()]
        assert written == pytest.approx(expected, rel=1e-5)
    assert "`0x4dab3cd6`" in explained[12][1]
    assert package.peek_header(EXAMPLE).crc == 0x4DAB3CD6


def test_the_checks_name_the_codes_of_the_errors():
    codes = {code.strip("`") for *_, code in rows_after("| | check | otherwise |")}

    signed = {access_errors.ForgedPackage.code}  # of what carries the package: see "Signatures"
    assert codes == {leaf.code for leaf in errors.PackageError.__subclasses__()} - signed
    assert f"`{signing.HEADER}: hmac-sha256=<hex>; key=<id>`" in DOCUMENT
    assert f"`{access_errors.ForgedPackage.code}`" in DOCUMENT


def test_profiles_and_header_estimates_are_the_documented_ones():
    documented = {
        name.strip("`"): tuple(map(float, numbers)) for name, *numbers in rows_after("| profile | down_kbps |")
    }

    assert documented == {name: (link.down_kbps, link.up_kbps, link.rtt_ms) for name, link in budget.PROFILES.items()}
    assert f"(request + {budget.REQUEST_HEADER_BYTES})" in DOCUMENT
    assert f"(package + {budget.RESPONSE_HEADER_BYTES})" in DOCUMENT


def test_the_media_type_is_the_documented_one():
    assert f"`{package.MEDIA_TYPE}`" in {cells[1] for cells in rows_after("| status | body | when |")}
