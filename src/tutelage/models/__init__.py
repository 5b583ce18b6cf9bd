"""Networks: built-in ones, loading of others, and their cost."""
