"""Tables for terminals and documents, and JSON with what the numbers depend on."""

import json
import sys

import pytest

from rae_jax.benchmarking import report

ROWS = [{"way": "a", "images/s": 1234.5678, "rounds": [1.0]}, {"way": "long name", "cores": 2}]
TABLE = [
    "| way       | images/s | cores |",
    "|-----------|----------|-------|",
    "| a         | 1235     |       |",
    "| long name |          | 2     |",
]


def test_a_table_has_a_column_for_every_name_but_lists():
    assert report.table(ROWS).splitlines() == TABLE
    assert report.table(ROWS, ["cores", "way"]).splitlines()[2:] == [
        "|       | a         |",
        "| 2     | long name |",
    ]


def test_the_report_holds_what_the_numbers_depend_on(tmp_path):
    path = tmp_path / "report" / "data.json"
    report.write(path, "python tools/benchmark.py data", {"data": ROWS})
    content = json.loads(path.read_text())
    assert content["tables"] == {"data": ROWS}
    assert content["machine"]["processor"]
    assert content["machine"]["cores"] >= 1
    assert content["versions"]["python"].startswith(f"{sys.version_info.major}.")
    assert {"rae_jax", "jax", "numpy", "pillow", "grain"} <= set(content["versions"])
    assert "absent" not in report.versions(["absent"])


def test_tables_of_a_document_are_replaced_where_it_has_a_place(tmp_path):
    path = tmp_path / "guide.md"
    end = "<!-- end of benchmark -->"
    path.write_text(
        f"Before.\n<!-- benchmark data: way, cores -->\nold\n{end}\nBetween.\n"
        f"<!-- benchmark machine -->\n{end}\n<!-- benchmark compile -->\nkept\n{end}\nAfter.\n"
    )
    report.update(path, "python tools/benchmark.py data", {"data": ROWS})
    text = path.read_text()
    assert "old" not in text
    assert "| way       | cores |" in text
    assert "`python tools/benchmark.py data`" in text
    assert f"\nkept\n{end}\nAfter.\n" in text
    assert text.startswith("Before.\n<!-- benchmark data: way, cores -->\n\n| way")
    report.update(path, "python tools/benchmark.py data", {"data": ROWS})
    assert path.read_text().count("| long name | 2     |") == 1


def test_a_document_without_a_place_is_told(tmp_path):
    path = tmp_path / "guide.md"
    path.write_text("Nothing.")
    with pytest.raises(ValueError, match=r"guide\.md has no place for data; a place begins"):
        report.update(path, "", {"data": ROWS})
