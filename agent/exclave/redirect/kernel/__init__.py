"""The kernel's side: nft, its events, connection tracking."""
