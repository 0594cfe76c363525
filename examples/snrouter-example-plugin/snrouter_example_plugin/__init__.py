"""One extension of each kind for snrouter; each is a module of its own, named in this package's entry points."""
