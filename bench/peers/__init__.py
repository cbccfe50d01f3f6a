"""Other servers: their protocols and configurations, and programs for those that are libraries."""
