"""The local machine: files, processes, sockets, systemd."""
