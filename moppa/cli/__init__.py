"""The command `moppa`. Each of its commands is a module of this package with a function `main`."""
