"""Lines of code are those that hold code: no comment, no documentation, no blank line."""

from pathlib import Path

from benchmarks.peers.code_lines import code_lines, folder_of, lines_of

SOURCE = '''"""A module.

Of two paragraphs.
"""

import os  # a comment beside code

LIMIT = 3
"""What documents an attribute."""


# a comment alone
class Thing:
    """A class."""

    def text(
        self,
        of: Annotated[
            str,
            Doc("""
                What documents a parameter.
            """),
        ] = "",
    ) -> str:
        """A method."""
        told = """a string
        of two lines"""
        return (
            told
            + os.sep
        )
'''


def test_documentation_comments_and_blank_lines_are_no_code() -> None:
    # import, LIMIT, class, six lines of def, two of the string, four of the return
    assert code_lines(SOURCE) == 15
    assert code_lines("") == 0


def test_files_and_folders_are_added_up(tmp_path: Path) -> None:
    (tmp_path / "package" / "inner").mkdir(parents=True)
    (tmp_path / "package" / "inner" / "one.py").write_text("a = 1\nb = 2\n")
    (tmp_path / "package" / "two.py").write_text("# nothing\nc = 3\n")
    (tmp_path / "package" / "data.json").write_text("{}\n")
    (tmp_path / "alone.py").write_text("d = 4\n")

    assert lines_of([tmp_path / "package", tmp_path / "alone.py"]) == 4


def test_a_package_is_found_where_it_is_installed() -> None:
    assert (folder_of("fastapi") / "routing.py").is_file()
