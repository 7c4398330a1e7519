"""The process that trains: it takes jobs from the database, trains on a GPU where there is one, and publishes bundles."""
