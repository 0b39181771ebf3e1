"""From a program and a binding to the tiles that have to be computed."""
