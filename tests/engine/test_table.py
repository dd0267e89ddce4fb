"""Tables in plain text."""

from engine.table import table


def test_columns_are_aligned():
    text = table(["name", "error"], [["one", 0.5], ["another", "12 %"]])
    assert text.splitlines() == ["name     error", "one        0.5", "another   12 %"]
    assert table(["a", "b"], [["x", ""]], left=2) == "a  b\nx"
