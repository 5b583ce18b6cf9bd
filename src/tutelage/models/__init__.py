"""Networks: built-in ones, how others are found, and what they cost."""
