"""`exclave demo`: a machine's life in a mesh, shown step by step."""
