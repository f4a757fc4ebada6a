"""The mesh as the controller publishes it: Linkerd's settings, trust anchors, issuer."""
