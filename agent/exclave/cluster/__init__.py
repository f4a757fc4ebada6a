"""HTTP to the Kubernetes API: requests, list and watch, and the credential they are made with."""
