"""`kubectl exclave check`: whether the installation is sound."""
