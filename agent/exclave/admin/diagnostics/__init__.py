"""What Linkerd's own diagnostics do not answer for virtual machines."""
