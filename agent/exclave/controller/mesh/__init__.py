"""What the controller publishes about the mesh: Linkerd's settings, trust anchors, the issuer."""
