"""The demo's stage: network namespaces, a virtual machine, a pod, a cluster."""
