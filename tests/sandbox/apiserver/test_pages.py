"""Pages: what each holds, what its token means, and which tokens are none."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave_sandbox.apiserver.pages import Cursor, page_of, read_cursor
from exclave_sandbox.apiserver.refusal import Refusal


def listed(*names: str) -> list[dict[str, object]]:
    return [{"metadata": {"namespace": "g", "name": name}} for name in names]


@given(st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=20), st.integers(1, 7))
def test_all_pages_together_are_the_list(names: list[str], limit: int) -> None:
    objects, returned, after = listed(*sorted(names)), [], ""
    while True:
        page = page_of(objects, limit, after, 7, counted=True)
        returned += page["items"]
        assert len(page["items"]) <= limit
        assert page["metadata"].get("remainingItemCount", 0) == len(objects) - len(returned)
        if "continue" not in page["metadata"]:
            break
        cursor = read_cursor(page["metadata"]["continue"])
        assert cursor.revision == 7
        after = cursor.last
    assert returned == objects


def test_what_is_left_is_not_counted_where_labels_select() -> None:
    assert set(page_of(listed("a", "b"), 1, "", 7, counted=False)["metadata"]) == {"resourceVersion", "continue"}


def test_a_token_is_the_one_of_kubernetes() -> None:
    token = base64.urlsafe_b64encode(b'{"v":"meta.k8s.io/v1","rv":226,"start":"g/c-1\\u0000"}').decode()
    assert read_cursor(token) == read_cursor(token.rstrip("=")) == Cursor(226, "g/c-1")


@pytest.mark.parametrize(
    "token",
    [
        "rubbish",
        "",
        *(json.dumps(one) for one in ({}, [], {"v": "meta.k8s.io/v1"}, {"v": "v0", "rv": 1, "start": "a"})),
    ],
)
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(Refusal, match="continue key is not valid") as refused:
        read_cursor(base64.urlsafe_b64encode(token.encode()).decode() if token[:1] in "{[" else token)
    assert refused.value.code == 400
