"""Health checks carried out: one file a kind. They never raise for a sick backend."""
