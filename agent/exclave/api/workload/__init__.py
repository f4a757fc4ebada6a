"""What Linkerd reads in an ExternalWorkload: opaque ports, and the mark of one that goes."""
