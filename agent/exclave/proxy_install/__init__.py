"""Where the proxy's program comes from: images of registries, files and URLs; and the versions that are installed."""
