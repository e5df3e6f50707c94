"""A Django project as teams have it: results and schedules are in its database, by packages as they come from the registry."""
