"""README says what the code does."""

from __future__ import annotations

from readme import README, with_table


def test_option_table_is_the_one_that_make_readme_writes():
    text = README.read_text()
    assert with_table(text) == text
