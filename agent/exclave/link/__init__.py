"""The private link `exclave0`, which holds the addresses of the proxies and the DNS stub."""
