"""Talking to systemd: notifications, jobs, the journal."""
