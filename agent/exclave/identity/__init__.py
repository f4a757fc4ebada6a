"""The machine's key and certificate (SVID), and their rotation."""
