"""Rulesets as text. Pure: a policy in, nftables rules out."""
