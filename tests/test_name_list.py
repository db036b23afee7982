"""Lists of names in messages."""

from __future__ import annotations

import pytest

from nftlb.name_list import names_text


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b", "c"], "a, b, c"),
        (["a", "b", "c", "d"], "a, b, c and 1 more"),
        (dict.fromkeys("abcde"), "a, b, c and 2 more"),
    ],
)
def test_the_first_names_and_the_number_of_the_others(names: list[str], text: str) -> None:
    assert text == names_text(names, 3)
