"""`kubectl exclave rotation`: which members have loaded which trust anchors."""
