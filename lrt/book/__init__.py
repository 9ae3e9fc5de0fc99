"""The book: the site that `make book` makes."""
