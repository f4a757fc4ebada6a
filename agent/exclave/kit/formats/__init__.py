"""Parsers and formatters of small text formats. Pure."""
