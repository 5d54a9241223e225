"""One module a kind of launcher, named after its `kind`, imported only where it is asked for."""
