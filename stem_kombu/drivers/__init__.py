"""Connections to Redis, PostgreSQL and SQLite: lazy, fork-safe, reopened once, bounded in time, with errors that help."""
