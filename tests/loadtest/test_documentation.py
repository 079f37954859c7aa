"""docs/loadtest.md says what there is: every figure, every shape."""

from pathlib import Path

from loadtest.figures import Figures
from loadtest.shapes import load_shapes

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "loadtest.md").read_text(encoding="utf-8")


def test_every_figure_and_every_shape_is_named():
    assert not [name for name in (*Figures.names(), *load_shapes()) if f"`{name}`" not in PAGE]
