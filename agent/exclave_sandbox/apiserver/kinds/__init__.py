"""The kinds the API server stores, and how objects of each are validated. Pure."""
