"""One process of the proxy: binary, start, records on disk, log file."""
