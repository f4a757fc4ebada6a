"""The demo and the stand-ins that tests use. Never installed on a machine."""
