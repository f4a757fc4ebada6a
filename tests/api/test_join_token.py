import base64
import json
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.api.join_token import MOST_UNPACKED, PREFIX, JoinToken, decode_token, encode_token, order_of_trial
from exclave.errors import Fault, TokenError

HINT = "copy the whole line again, or ask the admin for a new one: kubectl exclave token create GROUP"


def jwt(subject: str) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"sub": subject}).encode()).decode().rstrip("=")
    return f"e30.{claims}.c2ln"


def make(group: str = "web", uses: int = 2, expires: float = 1_800_000_000.0) -> JoinToken:
    subject = f"system:serviceaccount:shop-vms:{group}.join.k7q2x-{uses}"
    return JoinToken(("https://10.0.0.1:6443",), "-----BEGIN CERTIFICATE-----\n", "shop", group, jwt(subject), expires)


def pack(tree: object) -> str:
    return PREFIX + base64.urlsafe_b64encode(zlib.compress(json.dumps(tree).encode())).decode().rstrip("=")


def tree(**changes: object) -> dict[str, object]:
    token = make()
    return {
        "servers": list(token.servers),
        "ca": token.ca,
        "namespace": "shop",
        "group": "web",
        "token": token.token,
        "expires": "2027-01-15T08:00:00Z",
    } | changes


@given(
    st.lists(st.from_regex(r"https://[a-z0-9.:]{1,40}", fullmatch=True), min_size=1, max_size=3),
    st.text(min_size=1, max_size=200),
    st.integers(1, 999),
    st.integers(0, 4_000_000_000),
)
def test_what_is_encoded_is_decoded(servers: list[str], ca: str, uses: int, expires: int) -> None:
    plain = make(uses=uses)
    token = JoinToken(tuple(servers), ca, plain.namespace, plain.group, plain.token, float(expires))
    assert decode_token(encode_token(token)) == token


def test_a_name_and_a_proxy_are_inside_only_if_there_are_any() -> None:
    token = replace(make(), ca="", tls_name="api.example.org", proxy="http://proxy.example.org:3128")
    assert decode_token(encode_token(token)) == token
    assert len(encode_token(make())) < len(encode_token(replace(make(), tls_name="a")))


@pytest.mark.parametrize(
    "more", [{"tlsName": ".a"}, {"tlsName": "a b"}, {"proxy": "https://a"}, {"proxy": "http://u:s3cret@a:1"}]
)
def test_a_name_or_a_proxy_that_is_none_is_refused_and_not_quoted(more: dict[str, str]) -> None:
    with pytest.raises(TokenError) as caught:
        decode_token(pack(tree(**more)))
    assert caught.value.message == "the join token names a proxy or a TLS name that is none"


def test_one_that_would_be_too_large_is_not_made() -> None:
    with pytest.raises(ValueError, match="at most 32768 were expected"):
        encode_token(replace(make(), ca="".join(map(str, range(20_000)))))


def test_it_is_one_line_of_url_safe_characters() -> None:
    line = encode_token(make())
    assert line.startswith("exclave1_")
    assert set(line) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_it_names_the_members_that_it_may_create() -> None:
    assert make(uses=3).member_names == ("web-k7q2x-1", "web-k7q2x-2", "web-k7q2x-3")


def test_one_for_a_named_member_names_it_alone() -> None:
    token = make(uses=3)
    again = replace(token, token=jwt("system:serviceaccount:shop-vms:web.rejoin.k7q2x-3"))
    assert (token.is_for_one, again.is_for_one) == (False, True)
    assert again.member_names == ("web-k7q2x-3",)


def test_a_few_names_are_tried_from_the_first_on_and_many_by_each_machine_in_its_own_order() -> None:
    few, many = make(uses=10).member_names, make(uses=200).member_names
    assert order_of_trial(few, "nonce") == few
    mine, theirs = order_of_trial(many, "mine"), order_of_trial(many, "theirs")
    assert sorted(mine) == sorted(theirs) == sorted(many)
    assert mine == order_of_trial(many, "mine") != theirs
    firsts = {order_of_trial(many, f"machine {number}")[0] for number in range(200)}
    assert len(firsts) > 100, "most machines begin with a name of their own"


def test_space_around_it_does_no_harm() -> None:
    assert decode_token(f"\n {encode_token(make())} \n") == make()


def test_unknown_keys_are_ignored() -> None:
    assert decode_token(pack(tree(colour="blue"))).group == "web"


def test_its_repr_hides_the_secret() -> None:
    assert make().token not in repr(make())


@given(st.integers(len(PREFIX) + 1, len(encode_token(make())) - 1))
def test_cut_anywhere_it_is_refused_as_malformed(length: int) -> None:
    with pytest.raises(TokenError) as refused:
        decode_token(encode_token(make())[:length])
    assert refused.value.fault is Fault.TOKEN_MALFORMED
    assert str(length) in refused.value.message


@given(st.text(max_size=100))
def test_any_text_is_read_or_refused_with_a_hint(text: str) -> None:
    for candidate in (text, PREFIX + text):
        with pytest.raises(TokenError) as refused:
            decode_token(candidate)
        assert refused.value.hint


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param(
            "hello",
            "a line that begins with exclave1_ was expected, found 5 characters without it",
            id="something else altogether",
        ),
        pytest.param(
            encode_token(make())[:-40],
            f"the join token is cut off after {len(encode_token(make())) - 40} characters",
            id="cut off",
        ),
        pytest.param(PREFIX + "$$$$", "the join token is damaged; 13 characters arrived", id="not base64"),
        pytest.param(pack([1]), "the join token lacks something that every join token holds", id="not an object"),
        pytest.param(
            pack(tree(ca=7)), "the join token lacks something that every join token holds", id="a CA that is no text"
        ),
        pytest.param(
            pack(tree(servers=[])), "the join token lacks something that every join token holds", id="no server"
        ),
        pytest.param(
            pack(tree(servers=7)),
            "the join token lacks something that every join token holds",
            id="a number of servers",
        ),
        pytest.param(
            pack(tree(servers=["http://10.0.0.1"])),
            "the join token names a server that is not reached by https",
            id="a server in plaintext",
        ),
        pytest.param(
            pack(tree(token=jwt("system:serviceaccount:shop-vms:default"))),
            "the Kubernetes token inside is not one of a join account",
            id="another account's token",
        ),
        pytest.param(
            pack(tree(token="x.y")), "the Kubernetes token inside is not one of a join account", id="no JWT inside"
        ),
        pytest.param(
            pack(tree(group="db")),
            "the join token is for one group and the account inside for another",
            id="two groups",
        ),
        pytest.param(
            pack(tree(ca="x" * MOST_UNPACKED)), "the join token unpacks to more than 65536 bytes", id="a zip bomb"
        ),
    ],
)
def test_a_malformed_token_is_refused(line: str, message: str) -> None:
    with pytest.raises(TokenError) as refused:
        decode_token(line)
    assert (refused.value.fault, refused.value.message, refused.value.hint) == (Fault.TOKEN_MALFORMED, message, HINT)


def test_another_version_has_its_own_error() -> None:
    with pytest.raises(TokenError) as refused:
        decode_token("exclave2_abc")
    assert refused.value.fault is Fault.TOKEN_VERSION
    assert refused.value.message == "this join token has version 2; this exclave reads version 1"
    assert refused.value.hint == "install an exclave as new as the admin's, or ask for a token of version 1"
