"""`kubectl exclave`: the admin's commands. They reach the cluster through the admin's own kubectl."""
