"""Who may use a server's models, what its aliases mean, and what was used: one SQLite file, which the command line and a server share."""
