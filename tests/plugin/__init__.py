"""How pytest runs these tests: what tests/conftest.py consists of."""
