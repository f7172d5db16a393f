"""The site's inline code is not broken inside an option."""

from __future__ import annotations

import pytest

from docs.whole_words import on_page_content


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<code>--json</code>", '<code><span class="whole">--json</span></code>'),
        ("<code>run --from X</code>", '<code>run <span class="whole">--from</span> X</code>'),
        ("<code>loadsheet check</code>", "<code>loadsheet check</code>"),
        (f"<code>{'a-' * 14}</code>", f"<code>{'a-' * 14}</code>"),
        ("<p>a well-known word</p>", "<p>a well-known word</p>"),
        ("<code><span>a-b</span></code>", "<code><span>a-b</span></code>"),
    ],
)
def test_a_short_hyphenated_word_in_inline_code_is_kept_whole(html: str, expected: str) -> None:
    assert on_page_content(html) == expected
