"""Readers of Linkerd's own objects: its configuration, and the images that its pods run."""
