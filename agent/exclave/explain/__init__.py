"""`exclave explain`: what the kernel's rules do with one connection, and why."""
