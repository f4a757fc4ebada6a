"""The admin's side: `kubectl exclave`, which works through the admin's own kubectl."""
