"""Parts of an ExternalWorkload that only Linkerd reads: opaque ports, and the mark before a withdrawal."""
