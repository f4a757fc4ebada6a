"""The cluster's side: admits members, registers them, signs certificates, reaps the dead, publishes settings."""
