"""Connections to Redis, PostgreSQL and SQLite: lazy, fork-safe, reopened once, bounded in time, errors that help."""
