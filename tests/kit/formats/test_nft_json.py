"""Listings of nft, and what is none."""

import pytest

from exclave.kit.formats.nft_json import parse_items


def test_the_objects_of_a_listing_are_returned_in_their_order() -> None:
    listing = b'{"nftables": [{"metainfo": {}}, {"chain": {"name": "kept"}}]}'
    assert parse_items(listing) == [{"metainfo": {}}, {"chain": {"name": "kept"}}]
    assert parse_items(listing.decode()) == parse_items(listing)


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "{}", '{"nftables": {}}', '{"nftables": [1]}'])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="nft -j: its JSON was expected"):
        parse_items(text)
