"""The objects that `install` creates once: custom resource definitions and admission policies. Pure."""
