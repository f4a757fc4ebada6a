"""The nftables rules that hand traffic to the proxy."""
