"""The controller in the cluster: admits and registers members, signs certificates, publishes settings."""
