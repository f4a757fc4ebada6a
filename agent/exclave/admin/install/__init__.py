"""`kubectl exclave install`, `upgrade` and `uninstall`."""
