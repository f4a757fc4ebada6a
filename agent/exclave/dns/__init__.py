"""A DNS stub on the private link. The proxies resolve the control plane's names with it."""
