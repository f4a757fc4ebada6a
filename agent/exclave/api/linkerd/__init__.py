"""What Linkerd's own objects state: its configuration, and the images that its pods run."""
