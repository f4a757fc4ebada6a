"""One process of the proxy: its binary, its start, its record on disk, its log file."""
