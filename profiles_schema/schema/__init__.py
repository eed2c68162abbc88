"""What the database looks like: the models, the SQL objects, and how to read both back from a server."""
