"""When pods may send traffic here: probes, readiness, and the order in which both are told."""

from exclave.listing.leaving import walk_back
from exclave.listing.ready import ProbeResult
from exclave.listing.serving import Listing, ListingView, open_listing

__all__ = ["Listing", "ListingView", "ProbeResult", "open_listing", "walk_back"]
