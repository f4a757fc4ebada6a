"""General pieces without words of this domain."""
