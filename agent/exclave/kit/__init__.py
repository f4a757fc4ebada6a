"""Pieces without domain words, free to every folder."""
